"""Step: one update of the weights from one or more batches: mixed precision, accumulation, clipping, schedule, average."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, get_optimizer_info
from timm.scheduler import create_scheduler_v2

from reinforce.errors import UsageError
from reinforce.replay.targets import Targets
from reinforce.train.ranks import Ranks
from reinforce.train.recipe import Recipe
from reinforce.train.tasks import StudentTask


class Stepper:
    """Optimiser, schedule and gradient scaler of a run.

    Args:
        task: The task with the student.
        recipe: The training configuration.
        updates_per_epoch: Number of updates of the weights in an epoch.
        ranks: The processes of the run.

    Raises:
        UsageError: timm does not know the optimiser or schedule, or this loop cannot use it.
    """

    def __init__(self, task: StudentTask, recipe: Recipe, updates_per_epoch: int, ranks: Ranks) -> None:
        self.task, self.recipe, self.ranks, self.updates_per_epoch = task, recipe, ranks, updates_per_epoch
        self.optimizer = _optimizer(task.trainable_module, recipe)
        if extra := list(task.loss.parameters()):
            self.optimizer.add_param_group({"params": extra})
        try:
            self.scheduler, self.epochs = create_scheduler_v2(
                self.optimizer,
                sched=recipe.sched,
                num_epochs=recipe.epochs,
                warmup_epochs=recipe.warmup,
                warmup_lr=recipe.warmup_lr,
                min_lr=recipe.min_lr,
                decay_epochs=recipe.decay_epochs,
                decay_milestones=list(recipe.decay_milestones),
                decay_rate=recipe.decay_rate,
                cooldown_epochs=recipe.cooldown_epochs,
                step_on_epochs=False,
                updates_per_epoch=updates_per_epoch,
            )
        except (ValueError, AssertionError, KeyError) as error:
            raise UsageError(
                "timm cannot make this schedule for updates.",
                found=f"{recipe.sched}: {error}",
                expected="cosine, tanh, poly, step, multistep, constant, wsd or rsqrt",
                fix="--sched cosine",
            ) from None
        if self.scheduler is None:
            raise UsageError("timm does not know this schedule.", found=recipe.sched, fix="--sched cosine")
        if getattr(self.optimizer, "is_second_order", False):
            raise UsageError(
                f"--opt {recipe.opt} needs second derivatives, which this loop does not make.",
                expected="a first-order optimiser",
                fix="--opt adamw",
            )
        self.scaler = torch.amp.GradScaler(task.device.type, enabled=recipe.amp and recipe.amp_dtype == "float16")

    @property
    def lr(self) -> float:
        """Learning rate of the last update; with `layer_decay`, that of the head."""
        return max(float(group["lr"]) for group in self.optimizer.param_groups)

    def begin(self, update: int) -> None:
        """Set the learning rate of update number `update`, counted from the start of the run."""
        self.scheduler.step_update(update)
        self.task.epochs = update / self.updates_per_epoch
        self.optimizer.zero_grad()

    def accumulate(self, images: torch.Tensor, targets: Targets, share: float, last: bool) -> dict[str, Any]:
        """Forward and backward of one batch, which has `share` of its update's views; `last`: it is the update's last batch."""
        device = self.task.device.type
        amp = torch.autocast(device, getattr(torch, self.recipe.amp_dtype)) if self.recipe.amp else nullcontext()
        unsynced: Any = nullcontext() if last else self.task.no_sync()  # type: ignore[no-untyped-call]
        with unsynced:
            with amp:
                result: dict[str, Any] = self.task(images, targets)
            # `share` refers to the views of all ranks, and DDP divides by the number of ranks: multiply by that number.
            self.scaler.scale(result["loss"] * (share * self.ranks.world)).backward()
        return result

    def finish(self, update: int) -> None:
        """Clip the gradients, update the weights, and update their average; afterwards all ranks have the same state."""
        self.ranks.average_gradients(self.task.loss)
        if self.recipe.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.task.get_clip_parameters(), self.recipe.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if not self.task.freeze_bn:
            self.ranks.average_statistics(self.task.trainable_module)
        self.task.update_ema(step=update)


def _optimizer(student: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Timm's optimiser, with timm's groups of parameters.

    Raises:
        UsageError: timm does not know it, or it does not take what the recipe gives.
    """
    options = {"eps": recipe.opt_eps, "betas": recipe.opt_betas}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    try:
        info = get_optimizer_info(recipe.opt.lower().split("_")[-1])
        for name, taken in (("eps", info.has_eps), ("betas", info.has_betas)):
            if name in given and not taken:  # timm would leave it out and say nothing
                raise UsageError(f"--opt {recipe.opt} has no {name}.", found=f"--opt-{name}", fix=f"leave --opt-{name} out")
        _check_number(recipe.opt_betas, info.name)
        return create_optimizer_v2(
            student,
            opt=recipe.opt,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            filter_bias_and_bn=recipe.filter_bias_and_bn,
            layer_decay=recipe.layer_decay,
            **given,
        )
    except (ValueError, AssertionError, KeyError, TypeError) as error:
        found = ", ".join([recipe.opt, *(f"{name} {value}" for name, value in given.items())])
        raise UsageError("timm cannot make this optimiser.", found=f"{found}: {error}", fix="--opt adamw") from None


def _check_number(betas: tuple[float, ...] | None, name: str) -> None:
    """Torch takes any number of betas and fails in the first step."""
    own = inspect.signature(get_optimizer_class(name, bind_defaults=False)).parameters.get("betas")
    if betas is not None and own is not None and isinstance(own.default, tuple) and len(own.default) != len(betas):
        raise ValueError(f"{len(own.default)} betas are expected")
