"""Run: the objects of a training run; saves and restores its state (`last.safetensors`) and the weights of its best epoch."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, field
from typing import Any

import torch

from reinforce.errors import DataError, Interrupted, SettingsError, UsageError, shown
from reinforce.replay.loader import check_batch_size
from reinforce.store.probes import environment
from reinforce.train.checkpoint import fitting, load_checkpoint, save_checkpoint, save_weights
from reinforce.train.config import TrainConfig
from reinforce.train.epoch_plan import EpochPlan
from reinforce.train.finite import learnt, no_longer_finite, not_finite
from reinforce.train.metrics import Line, Metrics
from reinforce.train.ranks import AnyRank, Ranks
from reinforce.train.recipe import Recipe
from reinforce.train.setup import Parts
from reinforce.train.step import Stepper
from reinforce.views.seeds import torch_seed

LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch: Number of the current epoch.
        step: Number of steps of this epoch that are done.
        sums: Sums of the losses of these steps, of this process.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, torch.Tensor] = field(default_factory=dict)


class Run:
    """The objects that all epochs of a run use.

    Args:
        config: The user's settings.
        parts: Data, student and task.
        ranks: The processes of the run.
        stop: Set when the run must end after the current step.

    Raises:
        UsageError: a batch may be too small for a process, or this loop cannot use the optimiser or schedule.
    """

    def __init__(self, config: TrainConfig, parts: Parts, ranks: Ranks, stop: threading.Event) -> None:
        recipe = config.recipe
        self.config, self.parts, self.ranks, self.stop = config, parts, ranks, stop
        self.task, self._any_rank = parts.task, AnyRank(ranks)
        self._continues = False  # whether torch's generator has the state of a checkpoint
        self._last: Position | None = None  # where the last checkpoint was made
        least = 2 if parts.needs_variance(ranks) else 1
        shape = (len(parts.views), recipe.batch_size)
        check_batch_size(*shape, mixing=parts.mixes, repeats=recipe.aug_repeats, world=ranks.world, views=least)
        first = self.epoch_plan(0)  # raises for views that cannot be shown, before anything is written
        self.stepper = Stepper(self.task, recipe, first.updates, ranks)
        if recipe.model_ema:
            self.task.setup_ema(decay=recipe.model_ema_decay, use_warmup=recipe.model_ema_warmup)
        if config.torchcompile:
            self.task.compile()
        if ranks.world > 1:
            self.task.prepare_distributed(device_ids=[ranks.device.index] if ranks.device.type == "cuda" else None)
        self.metrics = Metrics(config.out, "ema_top1" if recipe.model_ema else "top1", ranks.writes, config.tensorboard)

    @property
    def epochs(self) -> int:
        """Number of epochs, cooldown included."""
        epochs: int = self.stepper.epochs
        return epochs

    def epoch_plan(self, epoch: int) -> EpochPlan:
        """The batches of an epoch."""
        return EpochPlan.of(self.config, self.parts.views, self.parts.size, epoch)

    def seed(self, epoch: int, first_step: int) -> None:
        """Seed torch's generator for an epoch; in the middle of one, it keeps the checkpoint's state of this rank."""
        if first_step == 0 or not self._continues:
            torch.manual_seed(torch_seed(self.config.seed, epoch) + self.ranks.rank * (1 + first_step))

    def on_device(self, images: torch.Tensor) -> torch.Tensor:
        """Move images `[B, 3, H, W]` to the student's device and memory format."""
        images = images.to(self.ranks.device, non_blocking=True)
        return images.contiguous(memory_format=torch.channels_last) if self.parts.channels_last else images

    def stopping(self) -> bool:
        """Whether any rank was asked to stop.

        All ranks call this at the same steps. With several processes, the answer is that to their previous call (`AnyRank`).
        """
        return self._any_rank.ask(self.stop.is_set())

    def require_finite(self, at: Position) -> None:
        """Stop the run before it saves or measures what is not finite. All ranks find the same: their state is the same.

        Raises:
            DataError: a loss, a weight or a value of the optimiser is NaN or infinite; the last checkpoint stays as it is.
        """
        losses = dict(zip(at.sums, self.ranks.sum(torch.stack(list(at.sums.values()))), strict=True))
        modules = {"weights": self.parts.student, "loss": self.task.loss}
        if (average := self.task.get_trainable_module(ema=True)) is not None:
            modules["averaged weights"] = average
        if names := not_finite({**losses, **learnt(modules, self.stepper.optimizer)}):
            raise self._no_longer_finite(names, f"after step {at.step} of epoch {at.epoch}")

    def _no_longer_finite(self, names: list[str], where: str) -> DataError:
        last = self._last
        kept = None if last is None else f"{self.config.out / LAST}, epoch {last.epoch}, step {last.step}"
        return no_longer_finite(names, f"{where}, at a learning rate of {self.stepper.lr:.3g}", kept)

    def evaluate(self, epoch: int) -> dict[str, float]:
        """Metrics of the student, and of the average of its weights, on each validation set, after an epoch.

        Raises:
            DataError: a metric is not finite: the weights are, but what they make of an image is not.
        """
        recipe = self.config.recipe
        self.task.eval()
        models = {"": self.parts.student}
        if recipe.model_ema:
            average = self.task.get_eval_model(ema=True)
            assert average is not None
            models["ema_"] = average
        metrics: dict[str, float] = {}
        for prefix, model in models.items():
            for name, validation in self.parts.validations.items():
                found = validation.evaluate(self.task.logits_of(model), self.ranks, recipe.batch_size, self.config.workers)
                metrics |= {f"{prefix}{name}{k}": v for k, v in found.items()}
        if names := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise self._no_longer_finite(names, f"in the evaluation of epoch {epoch}")
        return metrics

    def save_best(self, line: Line) -> None:
        """Write the weights if no earlier epoch was better."""
        if not (self.metrics.is_best(line) and self.ranks.writes):
            return
        weights = self.task.get_checkpoint_state(ema=self.config.recipe.model_ema)
        about = {k: self.parts.identity[k] for k in ("student", "student_kwargs", "mode", "size", "seed")}
        about |= {"num_classes": self.parts.views.num_classes, "class_names": self.parts.class_names, "epoch": line["epoch"]}
        save_weights(self.config.out / BEST, next(iter(weights.values())), about)

    def save(self, at: Position) -> None:
        """Write the state of the run, completely or not at all."""
        gather, on_cuda = self.ranks.gather, self.ranks.device.type == "cuda"
        sums = gather(torch.stack(list(at.sums.values()))) if at.sums else []
        cuda_rng = gather(torch.cuda.get_rng_state(self.ranks.device)) if on_cuda else []
        rng = gather(torch.get_rng_state())
        self._last = at
        if not self.ranks.writes:
            return
        ema = self.config.recipe.model_ema
        state = {
            "identity": self.parts.identity,
            "epoch": at.epoch,
            "step": at.step,
            "sums": [dict(zip(at.sums, values, strict=True)) for values in sums],  # like the generators: one for each rank
            "lines": self.metrics.lines,
            "model": self.task.get_checkpoint_state()["state_dict"],
            "ema": self.task.get_checkpoint_state(ema=True)["state_dict_ema"] if ema else None,
            "loss": self.task.loss.state_dict(),
            "optimizer": self.stepper.optimizer.state_dict(),
            "scaler": self.stepper.scaler.state_dict(),
            "rng": rng,
            "cuda_rng": cuda_rng,
        }
        save_checkpoint(self.config.out / LAST, state)

    def restore(self, state: dict[str, Any] | None) -> Position:
        """Load a state that `save` wrote, and return its position; None: the run begins at the start.

        Each rank goes on with its own sums and generators. If the number of processes is another one, no loss is forgotten, and
        ranks that were not there before have new generators.
        """
        if state is None:
            return Position()
        with fitting(self.config.out / LAST):
            return self._restore(state)

    def _restore(self, state: dict[str, Any]) -> Position:
        self.task.load_checkpoint_state(state["model"])
        if self.config.recipe.model_ema:
            self.task.load_checkpoint_state(state["ema"], ema=True)
        self.task.loss.load_state_dict(state["loss"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.scaler.load_state_dict(state["scaler"])
        rank, device = self.ranks.rank, self.ranks.device
        self._continues = rank < len(state["rng"])
        if self._continues:
            torch.set_rng_state(state["rng"][rank])
        if device.type == "cuda" and rank < len(state["cuda_rng"]):
            torch.cuda.set_rng_state(state["cuda_rng"][rank], device)
        self.metrics.lines = state["lines"]
        names = state["sums"][0] if state["sums"] else {}
        mine = state["sums"][rank :: self.ranks.world]
        sums = {k: sum((part[k].to(device) for part in mine), torch.zeros((), device=device)) for k in names}
        self._last = Position(state["epoch"], state["step"], sums)
        return self._last

    def summarise(self) -> dict[str, Any]:
        """Write `summary.json` and return its content."""
        return self.metrics.summarise(
            {
                **self.parts.identity,
                **self.parts.about,  # names of teachers in place of their hashes
                "num_classes": self.parts.views.num_classes,
                "epochs": self.epochs,
                "device": str(self.ranks.device),
                "processes": self.ranks.world,
                "environment": environment().model_dump(),
            }
        )


def interrupted() -> Interrupted:
    """The error that ends a run that was asked to stop."""
    return Interrupted("Training was interrupted; its state is saved.", fix="the same command with --resume continues it")


def saved_state(config: TrainConfig, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The saved state in `--out`; None if there is none.

    Raises:
        UsageError: there is one, but --resume is not given.
        SettingsError: it was made with different settings.
    """
    last = config.out / LAST
    if not last.exists():
        return None
    if not config.resume:
        raise UsageError(f"{config.out} already holds a run.", found=str(last), fix="--resume to continue it, or another --out")
    with fitting(last):
        state = _of_all_ranks(load_checkpoint(last))
        _check_identity(state["identity"], identity, config)
        return state


def _of_all_ranks(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as it is written now; an older one has the generator of rank 0 alone, and the sums of all ranks."""
    if not isinstance(state["rng"], torch.Tensor):
        return state
    cuda_rng = [] if state["cuda_rng"] is None else [state["cuda_rng"]]
    return {**state, "sums": [state["sums"]] if state["sums"] else [], "rng": [state["rng"]], "cuda_rng": cuda_rng}


def _check_identity(old: dict[str, Any], new: dict[str, Any], config: TrainConfig) -> None:
    old = {"losses": 1, **old, "recipe": {**Recipe().model_dump(mode="json"), **old["recipe"]}}  # what older ones do not say
    if all(len(teacher.split()) == 2 for teacher in old["teachers"]):
        new = {**new, "teachers": [" ".join(teacher.split()[:2]) for teacher in new["teachers"]]}
    old, new = ({**i, **{f"recipe.{k}": v for k, v in i["recipe"].items()}, "recipe": None} for i in (old, new))
    new = json.loads(json.dumps(new))
    for key in new:
        if old.get(key) != new[key]:
            raise SettingsError(
                f"The run in {config.out} was made with another {key}.",
                found=f"{key} = {shown(old.get(key))} in the checkpoint, {shown(new[key])} asked for",
                expected="the same settings, to continue to the bit",
                fix="give the option its old value, or another --out",
            )
