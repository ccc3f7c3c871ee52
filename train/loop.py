"""Loop: epochs, steps, checkpoints and metrics of one training run.

A run is a function of its seed: order, views and torch's generator are derived from (seed, epoch), and a checkpoint in the
middle of an epoch keeps the generator's state and the number of steps done, so that resuming continues to the bit on CPU.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reinforce.errors import DataError, Interrupted, SettingsError, UsageError
from reinforce.files import only_writer, write_atomic, writing
from reinforce.replay.loader import batch_plan, batches, check_batch_size, partners, share_of_rank
from reinforce.store.probes import environment
from reinforce.store.store import JOB, MANIFEST
from reinforce.train.checkpoint import load_checkpoint, save_checkpoint, save_weights
from reinforce.train.curves import Curves
from reinforce.train.ranks import Ranks, joined
from reinforce.train.setup import Parts, TrainConfig, build
from reinforce.train.step import Stepper
from reinforce.train.stop import stop_flag
from reinforce.views.seeds import torch_seed

LAST, BEST, METRICS, SUMMARY = "last.safetensors", "best.safetensors", "metrics.jsonl", "summary.json"

OnStep = Callable[[int, int, int], None]
"""Called with (epoch, steps done, steps of the epoch)."""
OnEpoch = Callable[[dict[str, Any]], None]
"""Called with the line that goes to metrics.jsonl."""


def train(
    config: TrainConfig, on_step: OnStep = lambda epoch, done, total: None, on_epoch: OnEpoch = lambda line: None
) -> dict[str, Any]:
    """Train a student; returns what `summary.json` says.

    Raises:
        UsageError: an output that already holds a run, without --resume.
        SettingsError: --resume with other settings than the checkpoint's.
        ReplayError: images or pixels are not what the teacher saw.
        Interrupted: Ctrl-C or TERM; the state was saved.
    """
    with joined(config.device) as ranks:
        return _train(config, ranks, on_step, on_epoch)


def _train(config: TrainConfig, ranks: Ranks, on_step: OnStep, on_epoch: OnEpoch) -> dict[str, Any]:
    parts = build(config, ranks.device)
    if any((config.out / name).exists() for name in (MANIFEST, JOB)):
        raise UsageError(
            f"{config.out} is a reinforced dataset.", expected="a folder of its own for the run", fix="another --out"
        )
    last = config.out / LAST
    if last.exists() and not config.resume:
        raise UsageError(f"{config.out} already holds a run.", found=str(last), fix="--resume to continue it, or another --out")
    checkpoint = load_checkpoint(last) if last.exists() else None
    if checkpoint is not None:
        _check_identity(checkpoint["identity"], parts.identity, config.out)
    ranks.wait()  # all have looked before one writes
    with stop_flag() as stop:
        run = _Run(config, parts, ranks, stop)
        if not ranks.writes:
            return run.fit(checkpoint, lambda epoch, done, total: None, lambda line: None)
        with writing(config.out):
            config.out.mkdir(parents=True, exist_ok=True)
            with only_writer(config.out):
                return run.fit(checkpoint, on_step, on_epoch)


def _check_identity(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    old, new = ({**i, **{f"recipe.{k}": v for k, v in i["recipe"].items()}, "recipe": None} for i in (old, new))
    new = json.loads(json.dumps(new))
    for key in new:
        if old.get(key) != new[key]:
            raise SettingsError(
                f"The run in {out} was made with another {key}.",
                found=f"{key} = {old.get(key)!r} in the checkpoint, {new[key]!r} asked for",
                expected="the same settings, to continue to the bit",
                fix="give the option its old value, or another --out",
            )


class _Run:
    def __init__(self, config: TrainConfig, parts: Parts, ranks: Ranks, stop: threading.Event) -> None:
        recipe = config.recipe
        self.config, self.parts, self.ranks, self.recipe, self.stop = config, parts, ranks, recipe, stop
        self.task = parts.task
        check_batch_size(recipe.batch_size, mixing=parts.mixes, repeats=recipe.aug_repeats, world=ranks.world)
        parts.views.set_epoch(0, recipe.aug_repeats)  # what cannot be visited is refused before anything is written
        self.steps_per_epoch = len(batch_plan(config.seed, 0, len(parts.views), recipe.batch_size))
        self.updates_per_epoch = -(-self.steps_per_epoch // config.grad_accum_steps)
        self.stepper = Stepper(self.task, recipe, self.updates_per_epoch, ranks)
        self.epochs = self.stepper.epochs
        if recipe.model_ema:
            self.task.setup_ema(decay=recipe.model_ema_decay, use_warmup=recipe.model_ema_warmup)
        if config.torchcompile:
            self.task.compile()
        if ranks.world > 1:
            self.task.prepare_distributed(device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None)
        self.curves = Curves(config.out / "tensorboard") if config.tensorboard and ranks.writes else None
        self.lines: list[dict[str, Any]] = []

    def fit(self, checkpoint: dict[str, Any] | None, on_step: OnStep, on_epoch: OnEpoch) -> dict[str, Any]:
        epoch, step = 0, 0
        sums: dict[str, torch.Tensor] = {}
        if checkpoint is not None:
            epoch, step, sums = self._restore(checkpoint)
        self._write_metrics()
        for current in range(epoch, self.epochs):
            line = self._epoch(current, step, sums, on_step)
            step, sums = 0, {}
            line |= self._evaluate()
            self.lines.append(line)
            self._write_metrics()
            if self.curves is not None:
                self.curves.add(line)
            if self._is_best(line) and self.ranks.writes:
                weights = self.task.get_checkpoint_state(ema=self.recipe.model_ema)
                save_weights(self.config.out / BEST, next(iter(weights.values())), self._description(line))
            self._save(current + 1, 0, {})
            on_epoch(line)
            if self.ranks.any(self.stop.is_set()) and current + 1 < self.epochs:
                self._interrupt()
        return self._summarise()

    def _epoch(self, epoch: int, first_step: int, sums: dict[str, torch.Tensor], on_step: OnStep) -> dict[str, Any]:
        parts, ranks, recipe, accumulate = self.parts, self.ranks, self.recipe, self.config.grad_accum_steps
        parts.views.set_epoch(epoch, recipe.aug_repeats)
        partner = partners(parts.views.mixing)
        shape = (self.config.seed, epoch, len(parts.views), recipe.batch_size)
        plan = batch_plan(*shape, partner, recipe.aug_repeats, parts.views.groups)
        self._seed(epoch, first_step)
        self.task.train()
        images_done, started = 0, time.perf_counter()
        mine = [share_of_rank(samples, partner, ranks.rank, ranks.world) for samples in plan[first_step:]]
        turns = self.config.sizes or (parts.size,)
        sizes = [turns[(epoch * len(plan) + step) % len(turns)] for step in range(first_step, len(plan))]
        on_cuda = ranks.device.type == "cuda"
        loader = batches(parts.views, mine, workers=self.config.workers, sizes=sizes, pin_memory=on_cuda)
        for step, (images, targets) in enumerate(loader, start=first_step):
            first, last = step % accumulate == 0, (step + 1) % accumulate == 0 or step + 1 == len(plan)
            update = epoch * self.updates_per_epoch + step // accumulate
            if first:
                self.stepper.begin(update)
            begun = step // accumulate * accumulate
            whole = recipe.aug_repeats * sum(map(len, plan[begun : begun + accumulate]))
            images = self._on_device(images)
            targets = targets.to(ranks.device, non_blocking=True)
            result = self.stepper.accumulate(images, targets, len(images) / whole, last)
            if last:
                self.stepper.finish(update)
            for name, value in result.items():
                if name == "loss" or name.endswith("_loss"):
                    sums[name] = sums.get(name, torch.zeros((), device=ranks.device)) + value.detach().float() * len(images)
            images_done += recipe.aug_repeats * len(plan[step])
            on_step(epoch, step + 1, len(plan))
            if not last:
                continue
            stopping = ranks.any(self.stop.is_set())
            due = self.config.save_every and (step + 1) // self.config.save_every > begun // self.config.save_every
            if (stopping or due) and step + 1 < len(plan):
                self._save(epoch, step + 1, sums)
                if stopping:
                    self._interrupt()
        seconds = time.perf_counter() - started
        count = recipe.aug_repeats * sum(map(len, plan))
        losses = {name: float(ranks.sum(value)) / count for name, value in sums.items()}
        if not all(map(_finite, losses.values())):
            raise DataError(
                "The loss is not finite.",
                found=f"{losses} in epoch {epoch}",
                cause="a learning rate that is too high, or float16 overflow",
                fix="a smaller --lr, or --amp-dtype bfloat16",
            )
        rate = images_done / seconds
        return {"epoch": epoch, "lr": self.stepper.lr, **losses, "seconds": seconds, "images_per_second": rate}

    def _seed(self, epoch: int, first_step: int) -> None:
        """Torch's generator at the start of an epoch; in the middle of one rank 0 has it from the checkpoint."""
        if first_step == 0 or self.ranks.rank:
            torch.manual_seed(torch_seed(self.config.seed, epoch) + self.ranks.rank * (1 + first_step))

    def _on_device(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(self.ranks.device, non_blocking=True)
        return images.contiguous(memory_format=torch.channels_last) if self.parts.channels_last else images

    def _evaluate(self) -> dict[str, float]:
        self.task.eval()
        metrics: dict[str, float] = {}
        models = {"": self.parts.student}
        if self.recipe.model_ema:
            ema = self.task.get_eval_model(ema=True)
            assert ema is not None
            models["ema_"] = ema
        for prefix, model in models.items():
            logits_of = self._logits_of(model)
            for name, validation in self.parts.validations.items():
                found = validation.evaluate(logits_of, self.ranks, self.recipe.batch_size, self.config.workers)
                metrics |= {f"{prefix}{name}{k}": v for k, v in found.items()}
        return metrics

    def _logits_of(self, model: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda images: model(self.task.normalise(images))

    @property
    def _metric(self) -> str:
        return "ema_top1" if self.recipe.model_ema else "top1"

    def _is_best(self, line: dict[str, Any]) -> bool:
        # Without a validation set the last epoch is the best that is known.
        return line.get(self._metric, 0.0) >= max(old.get(self._metric, 0.0) for old in self.lines)

    def _description(self, line: dict[str, Any]) -> dict[str, Any]:
        keys = ("student", "student_kwargs", "mode", "size", "seed")
        about = {k: self.parts.identity[k] for k in keys}
        return about | {
            "num_classes": self.parts.views.num_classes,
            "class_names": self.parts.class_names,
            "epoch": line["epoch"],
        }

    def _save(self, epoch: int, step: int, sums: dict[str, torch.Tensor]) -> None:
        sums = {name: self.ranks.sum(value) for name, value in sums.items()}
        if not self.ranks.writes:
            return
        state = {
            "identity": self.parts.identity,
            "epoch": epoch,
            "step": step,
            "sums": sums,
            "lines": self.lines,
            "model": self.task.get_checkpoint_state()["state_dict"],
            "ema": self.task.get_checkpoint_state(ema=True)["state_dict_ema"] if self.recipe.model_ema else None,
            "loss": self.task.loss.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.ranks.device) if self.ranks.device.type == "cuda" else None,
        }
        save_checkpoint(self.config.out / LAST, state)

    def _restore(self, state: dict[str, Any]) -> tuple[int, int, dict[str, torch.Tensor]]:
        self.task.load_checkpoint_state(state["model"])
        if self.recipe.model_ema:
            self.task.load_checkpoint_state(state["ema"], ema=True)
        self.task.loss.load_state_dict(state["loss"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.ranks.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.ranks.device)
        self.lines = state["lines"]
        mine = 1.0 if self.ranks.writes else 0.0  # what all ranks had summed up so far stays with one
        return state["epoch"], state["step"], {k: mine * v.to(self.ranks.device) for k, v in state["sums"].items()}

    def _interrupt(self) -> None:
        raise Interrupted("Training was interrupted; its state is saved.", fix="the same command with --resume continues it")

    def _write_metrics(self) -> None:
        if not self.ranks.writes:
            return
        write_atomic(self.config.out / METRICS, "".join(json.dumps(line) + "\n" for line in self.lines).encode())

    def _summarise(self) -> dict[str, Any]:
        # Of equals the last, as it is the last whose weights were kept.
        best = max(reversed(self.lines), key=lambda line: line.get(self._metric, 0.0))
        measured = [k for k in self.lines[-1] if k not in ("epoch", "lr", "seconds", "images_per_second")]
        summary = {
            **self.parts.identity,
            **self.parts.about,  # names of teachers in place of their hashes
            "num_classes": self.parts.views.num_classes,
            "epochs": self.epochs,
            "best_epoch": best["epoch"],
            "best": {k: best[k] for k in measured},
            "last": {k: self.lines[-1][k] for k in measured},
            "images_per_second": statistics.median(line["images_per_second"] for line in self.lines),
            "device": str(self.ranks.device),
            "processes": self.ranks.world,
            "environment": environment().model_dump(),
        }
        if self.ranks.writes:
            write_atomic(self.config.out / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
        return summary


def _finite(value: float) -> bool:
    return value - value == 0.0
