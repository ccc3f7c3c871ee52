"""Tasks: what a batch costs a student, as `timm.task.TrainingTask`s. The three modes differ in the target and nothing else.

Enters: uint8 views `[B, 3, H, W]` and `Targets`. Leaves: a dict with `loss`, `output` (logits `[B, C]`) and the parts of the
loss. Images are normalised here, on the device, by the student's own mean and std.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.task import TrainingTask
from torch import nn

from reinforce.errors import DataError
from reinforce.sparse import SparseLabels
from reinforce.teacher import Teacher


@dataclass(frozen=True)
class Targets:
    """What is known of a batch.

    Attributes:
        hard: int64 `[B]`, -1 where there is no label.
        soft: Stored soft labels, or None where nothing is replayed.
        other: int64 `[B]`, hard label of the sample that each image is mixed with; None where nothing is mixed.
        share: float32 `[B]`, share of the image's own hard label, the rest is the other's; None where nothing is mixed.
    """

    hard: torch.Tensor
    soft: SparseLabels | None = None
    other: torch.Tensor | None = None
    share: torch.Tensor | None = None

    def to(self, device: torch.device, non_blocking: bool = False) -> Targets:
        """The same on another device."""
        moved = [t if t is None else t.to(device, non_blocking=non_blocking) for t in (self.other, self.share)]
        soft = None if self.soft is None else self.soft.to(device, non_blocking)
        return Targets(self.hard.to(device, non_blocking=non_blocking), soft, *moved)

    def pin_memory(self) -> Targets:
        """The same in page-locked memory."""
        pinned = [t if t is None else t.pin_memory() for t in (self.other, self.share)]
        return Targets(self.hard.pin_memory(), None if self.soft is None else self.soft.pin_memory(), *pinned)


@dataclass(frozen=True)
class LossWeights:
    """How the parts of the loss are weighed."""

    distill: float = 1.0
    task: float = 0.0
    smoothing: float = 0.0


class StudentTask(TrainingTask):
    """Base: a student that normalises its own input, and a loss that subclasses fill in."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, student: nn.Module, weights: LossWeights, device: torch.device) -> None:
        super().__init__(device=device, verbose=False)
        self.trainable_module = student
        self.weights = weights
        config = student.pretrained_cfg
        for name in ("mean", "std"):
            value = 255 * torch.tensor(config[name], device=device).view(1, 3, 1, 1)  # type: ignore[index]
            self.register_buffer(name, value, persistent=False)

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[B, 3, H, W]` to what the student expects, float32."""
        return (images.float() - self.mean) / self.std

    def hard_loss(self, logits: torch.Tensor, target: Targets) -> torch.Tensor:
        """Cross-entropy with the hard labels, mixed as the images are; samples without a label do not count."""
        if target.other is None or target.share is None:
            return F.cross_entropy(logits, target.hard, ignore_index=-1, label_smoothing=self.weights.smoothing)
        total, count = logits.new_zeros(()), logits.new_zeros(())
        for labels, share in ((target.hard, target.share), (target.other, 1 - target.share)):
            each = F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=self.weights.smoothing, reduction="none")
            total, count = total + (share * each).sum(), count + share[labels >= 0].sum()
        return total / count.clamp(min=torch.finfo(count.dtype).tiny)

    def distill(self, logits: torch.Tensor, soft: torch.Tensor, target: Targets) -> dict[str, torch.Tensor]:
        """KL(teacher || student), batch mean, temperature 1, plus the hard loss where it has a weight.

        Args:
            logits: float `[B, C]`.
            soft: float32 `[B, C]`, the teacher's distributions.
            target: For the hard labels.
        """
        kd_loss = F.kl_div(F.log_softmax(logits.float(), dim=-1), soft, reduction="batchmean")
        result = {"loss": self.weights.distill * kd_loss, "output": logits, "kd_loss": kd_loss}
        if self.weights.task:
            result["task_loss"] = self.hard_loss(logits.float(), target)
            result["loss"] = result["loss"] + self.weights.task * result["task_loss"]
        return result


class PlainTask(StudentTask):
    """Hard labels only."""

    def forward(self, input: torch.Tensor, target: Targets) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """See the module's docstring."""
        logits = self.trainable_module(self.normalise(input))
        return {"loss": self.hard_loss(logits.float(), target), "output": logits}


class ReplayTask(StudentTask):
    """Stored soft labels, densified on the device."""

    def forward(self, input: torch.Tensor, target: Targets) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """See the module's docstring."""
        if target.soft is None:
            raise DataError("A replaying task needs soft labels.", fix="use a loader in replay mode")
        return self.distill(self.trainable_module(self.normalise(input)), target.soft.dense(), target)


class OnlineTask(StudentTask):
    """A live teacher on the same view: what stage one did, in every step."""

    def __init__(self, student: nn.Module, teacher: Teacher, weights: LossWeights, device: torch.device) -> None:
        super().__init__(student, weights, device)
        self.teacher = teacher

    def forward(self, input: torch.Tensor, target: Targets) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """See the module's docstring."""
        soft = self.teacher(input)
        return self.distill(self.trainable_module(self.normalise(input)), soft, target)
