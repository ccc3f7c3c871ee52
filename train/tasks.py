"""Tasks: the forward pass and loss of a student, as a `timm.task.TrainingTask` for each mode.

The three modes differ in the origin of the teacher's label: none, stored, or from a live teacher. In: uint8 views
`[B, 3, H, W]` and `Targets`. Out: a dict with `loss`, `output` (logits `[B, C]`) and the parts of the loss. Images are
normalised here, on the device, with the student's own mean and std.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.task import TrainingTask
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from reinforce.errors import DataError
from reinforce.replay.targets import Targets
from reinforce.teachers.teacher import Teacher
from reinforce.train.losses import Loss, LossWeights


class StudentTask(TrainingTask):
    """Base class: normalises images, runs the student and computes the loss; `soft_of` gives the teacher's labels of a batch.

    Attributes:
        epochs: Number of epochs done; set before each update, used by losses that change with time.
        freeze_bn: Whether batch norm keeps its statistics in training (TinyViT, arXiv 2207.10666).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, student: nn.Module, weights: LossWeights, device: torch.device) -> None:
        super().__init__(device=device, verbose=False)
        self.trainable_module = student
        self.loss = Loss(weights, int(student.num_classes)).to(device)  # type: ignore[arg-type]
        self.epochs = 0.0
        self.freeze_bn = False
        if hasattr(student, "set_distilled_training"):
            student.set_distilled_training(True)  # type: ignore[operator]  # outputs of both heads in training, mean in evaluation
        config: Any = student.pretrained_cfg
        for name in ("mean", "std"):
            value = 255 * torch.tensor(config[name], device=device).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def train(self, mode: bool = True) -> StudentTask:
        """Set training mode; with `freeze_bn`, batch norm stays in evaluation mode."""
        super().train(mode)
        if mode and self.freeze_bn:
            for module in self.trainable_module.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def normalise(self, images: torch.Tensor) -> torch.Tensor:
        """Images uint8 `[B, 3, H, W]` as float32, with the mean and std that the student expects."""
        return (images.float() - self.mean) / self.std

    def logits_of(self, model: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
        """A function from images uint8 `[B, 3, H, W]` to logits `[B, C]` of a model: the student or its average."""
        return lambda images: model(self.normalise(images))

    def compile(self, *args: Any, **kwargs: Any) -> nn.Module:  # type: ignore[override]
        """Compile the student with `torch.compile`; evaluation and saving use the student that is not compiled."""
        compiled: Any = torch.compile(self.trainable_module, *args, **kwargs)
        self.trainable_module = compiled
        return self.trainable_module

    def prepare_distributed(self, device_ids: list[int | None] | None = None, **kwargs: Any) -> StudentTask:
        """Average the student's gradients over all ranks; buffers are left alone: see `Ranks.average_statistics`."""
        self.trainable_module = DistributedDataParallel(
            self.trainable_module, device_ids=device_ids, broadcast_buffers=False, **kwargs
        )
        return self

    def soft_of(self, images: torch.Tensor, target: Targets) -> torch.Tensor | None:
        """The teacher's distributions, float32 `[B, C]`; None without a teacher."""
        raise NotImplementedError

    def forward(self, input: torch.Tensor, target: Targets) -> dict[str, torch.Tensor]:  # type: ignore[override]
        """The losses of a batch; see the docstring of the module."""
        soft = self.soft_of(input, target)
        images = self.normalise(input)
        if self.loss.weights.cosub:
            images = torch.cat([images, images])  # stochastic depth drops different blocks in each half: two submodels
        outputs = self.trainable_module(images)
        losses: dict[str, torch.Tensor] = self.loss(
            tuple(outputs) if isinstance(outputs, (tuple, list)) else outputs, soft, target, self.epochs
        )
        return losses


class PlainTask(StudentTask):
    """The student learns from hard labels only."""

    def soft_of(self, images: torch.Tensor, target: Targets) -> None:
        return None


class ReplayTask(StudentTask):
    """The student learns from stored soft labels; sparse labels are made dense on the device."""

    def soft_of(self, images: torch.Tensor, target: Targets) -> torch.Tensor:
        if target.soft is None:
            raise DataError("A replaying task needs soft labels.", fix="use a loader in replay mode")
        return target.soft.dense()


class OnlineTask(StudentTask):
    """The student learns from a live teacher, which labels the same view in every step; with it no labels need to be stored."""

    def __init__(self, student: nn.Module, teacher: Teacher, weights: LossWeights, device: torch.device) -> None:
        super().__init__(student, weights, device)
        self.teacher = teacher

    def soft_of(self, images: torch.Tensor, target: Targets) -> torch.Tensor:
        probs: torch.Tensor = self.teacher(images)
        return probs
