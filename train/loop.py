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
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2

from reinforce.errors import DataError, Interrupted, SettingsError, UsageError
from reinforce.files import only_writer, write_atomic, writing
from reinforce.probes import environment
from reinforce.seeds import torch_seed
from reinforce.store import JOB, MANIFEST
from reinforce.train.batches import batch_plan, batches, check_batch_size
from reinforce.train.checkpoint import load_checkpoint, save_checkpoint, save_weights
from reinforce.train.setup import Parts, TrainConfig, build
from reinforce.train.stop import stop_flag

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
    parts = build(config)
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
    with stop_flag() as stop:
        run = _Run(config, parts, stop)
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
    def __init__(self, config: TrainConfig, parts: Parts, stop: threading.Event) -> None:
        recipe = config.recipe
        self.config, self.parts, self.recipe, self.stop = config, parts, recipe, stop
        self.task = parts.task
        check_batch_size(recipe.batch_size, mixing=parts.mixes, repeats=recipe.aug_repeats)
        self.steps_per_epoch = len(batch_plan(config.seed, 0, len(parts.views), recipe.batch_size))
        try:
            self.optimizer = create_optimizer_v2(
                parts.student, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum
            )
            if extra := list(self.task.loss.parameters()):
                self.optimizer.add_param_group({"params": extra})
            self.scheduler, self.epochs = create_scheduler_v2(
                self.optimizer,
                sched=recipe.sched,
                num_epochs=recipe.epochs,
                warmup_epochs=recipe.warmup,
                warmup_lr=recipe.warmup_lr,
                min_lr=recipe.min_lr,
                cooldown_epochs=recipe.cooldown_epochs,
                decay_epochs=recipe.decay_epochs,
                decay_rate=recipe.decay_rate,
                step_on_epochs=False,
                updates_per_epoch=self.steps_per_epoch,
            )
        except (ValueError, AssertionError, KeyError) as error:
            raise UsageError(
                "timm does not know this optimiser or schedule.", found=f"{recipe.opt}, {recipe.sched}: {error}"
            ) from None
        if self.scheduler is None:
            raise UsageError("timm does not know this schedule.", found=recipe.sched, fix="--sched cosine")
        if recipe.model_ema:
            self.task.setup_ema(decay=recipe.model_ema_decay, use_warmup=recipe.model_ema_warmup)
        self.scaler = torch.amp.GradScaler(parts.device.type, enabled=recipe.amp and recipe.amp_dtype == "float16")
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
            if self._is_best(line):
                weights = self.task.get_checkpoint_state(ema=self.recipe.model_ema)
                save_weights(self.config.out / BEST, next(iter(weights.values())), self._description(line))
            self._save(current + 1, 0, {})
            on_epoch(line)
            if self.stop.is_set() and current + 1 < self.epochs:
                self._interrupt()
        return self._summarise()

    def _epoch(self, epoch: int, first_step: int, sums: dict[str, torch.Tensor], on_step: OnStep) -> dict[str, Any]:
        parts, device = self.parts, self.parts.device
        parts.views.set_epoch(epoch, self.recipe.aug_repeats)
        partner = parts.views.mixing[0].partner if parts.views.mixing else None
        size, repeats = self.recipe.batch_size, self.recipe.aug_repeats
        plan = batch_plan(self.config.seed, epoch, len(parts.views), size, partner, repeats)
        if first_step == 0:
            torch.manual_seed(torch_seed(self.config.seed, epoch))
        self.task.train()
        images_done, started = 0, time.perf_counter()
        loader = batches(parts.views, plan[first_step:], workers=self.config.workers, pin_memory=device.type == "cuda")
        for step, (images, targets) in enumerate(loader, start=first_step):
            images = images.to(device, non_blocking=True)
            if device.type == "cuda":
                images = images.contiguous(memory_format=torch.channels_last)
            result = self._update(images, targets.to(device, non_blocking=True), epoch * self.steps_per_epoch + step)
            for name, value in result.items():
                if name == "loss" or name.endswith("_loss"):
                    sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach().float() * len(images)
            images_done += len(images)
            on_step(epoch, step + 1, len(plan))
            due = self.config.save_every and (step + 1) % self.config.save_every == 0
            if (self.stop.is_set() or due) and step + 1 < len(plan):
                self._save(epoch, step + 1, sums)
                if self.stop.is_set():
                    self._interrupt()
        seconds = time.perf_counter() - started
        losses = {name: float(value) / (repeats * sum(map(len, plan))) for name, value in sums.items()}
        if not all(map(_finite, losses.values())):
            raise DataError(
                "The loss is not finite.",
                found=f"{losses} in epoch {epoch}",
                cause="a learning rate that is too high, or float16 overflow",
                fix="a smaller --lr, or --amp-dtype bfloat16",
            )
        rate = images_done / seconds
        return {
            "epoch": epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            **losses,
            "seconds": seconds,
            "images_per_second": rate,
        }

    def _update(self, images: torch.Tensor, targets: Any, update: int) -> dict[str, torch.Tensor]:
        self.scheduler.step_update(update)
        self.task.epochs = update / self.steps_per_epoch
        amp = (
            torch.autocast(self.parts.device.type, getattr(torch, self.recipe.amp_dtype)) if self.recipe.amp else nullcontext()
        )
        with amp:
            result: dict[str, torch.Tensor] = self.task(images, targets)
        self.optimizer.zero_grad()
        self.scaler.scale(result["loss"]).backward()
        if self.recipe.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.task.get_clip_parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.task.update_ema(step=update)
        return result

    def _evaluate(self) -> dict[str, float]:
        if self.parts.validation is None:
            return {}
        self.task.eval()
        metrics = self._metrics_of(self.parts.student)
        if self.recipe.model_ema:
            ema = self.task.get_eval_model(ema=True)
            assert ema is not None
            metrics |= {f"ema_{k}": v for k, v in self._metrics_of(ema).items()}
        return metrics

    def _metrics_of(self, model: torch.nn.Module) -> dict[str, float]:
        assert self.parts.validation is not None
        return self.parts.validation.evaluate(
            lambda images: model(self.task.normalise(images)), self.parts.device, self.recipe.batch_size, self.config.workers
        )

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
        state = {
            "identity": self.parts.identity,
            "epoch": epoch,
            "step": step,
            "sums": sums,
            "lines": self.lines,
            "model": self.task.get_checkpoint_state()["state_dict"],
            "ema": self.task.get_checkpoint_state(ema=True)["state_dict_ema"] if self.recipe.model_ema else None,
            "loss": self.task.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.parts.device) if self.parts.device.type == "cuda" else None,
        }
        save_checkpoint(self.config.out / LAST, state)

    def _restore(self, state: dict[str, Any]) -> tuple[int, int, dict[str, torch.Tensor]]:
        self.task.load_checkpoint_state(state["model"])
        if self.recipe.model_ema:
            self.task.load_checkpoint_state(state["ema"], ema=True)
        self.task.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self.parts.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_rng"], self.parts.device)
        self.lines = state["lines"]
        return state["epoch"], state["step"], {k: v.to(self.parts.device) for k, v in state["sums"].items()}

    def _interrupt(self) -> None:
        raise Interrupted("Training was interrupted; its state is saved.", fix="the same command with --resume continues it")

    def _write_metrics(self) -> None:
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
            "device": str(self.parts.device),
            "environment": environment().model_dump(),
        }
        write_atomic(self.config.out / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
        return summary


def _finite(value: float) -> bool:
    return value - value == 0.0
