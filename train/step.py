"""Step: one update of the weights from one or more batches: mixed precision, accumulation, clipping, schedule, average."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from timm.optim import create_optimizer_v2
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
        try:
            self.optimizer = create_optimizer_v2(
                task.trainable_module, opt=recipe.opt, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum
            )
            if extra := list(task.loss.parameters()):
                self.optimizer.add_param_group({"params": extra})
            self.scheduler, self.epochs = create_scheduler_v2(
                self.optimizer,
                sched=recipe.sched,
                num_epochs=recipe.epochs,
                warmup_epochs=recipe.warmup,
                warmup_lr=recipe.warmup_lr,
                min_lr=recipe.min_lr,
                decay_epochs=recipe.decay_epochs,
                decay_rate=recipe.decay_rate,
                cooldown_epochs=recipe.cooldown_epochs,
                step_on_epochs=False,
                updates_per_epoch=updates_per_epoch,
            )
        except (ValueError, AssertionError, KeyError) as error:
            raise UsageError(
                "timm does not know this optimiser or schedule.", found=f"{recipe.opt}, {recipe.sched}: {error}"
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
        """Learning rate of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

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
        self.ranks.average_statistics(self.task.trainable_module)
        self.task.update_ema(step=update)
