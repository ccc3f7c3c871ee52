"""Teacher: gives soft labels to stage one; and `Member`, one model of it. All kinds are listed in `open_teacher.py`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import nn

from reinforce.errors import TeacherError
from reinforce.labels.label_kind import Labeller, kind_of
from reinforce.settings import Settings, TeacherInfo
from reinforce.teachers.teacher_spec import TeacherSpec


class Teacher(nn.Module, ABC):
    """From uint8 views to distributions, in evaluation mode for ever.

    Attributes:
        infos: What the manifest says of its models.
        device: Where it runs, and where its answers are.
        precision: Of its arithmetic, `fp32` or `bf16`.
    """

    infos: list[TeacherInfo]
    device: torch.device
    precision: str

    @abstractmethod
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Soft labels of a batch.

        Args:
            images: uint8 `[B, 3, H, W]`, on any device.

        Returns:
            float32 `[B, C]` on the teacher's device; each row sums to one.
        """

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Scores at every position: uint8 `[B, 3, H, W]` to float32 `[B, h, w, C]` on the teacher's device.

        Raises:
            TeacherError: it has none.
        """
        raise no_map(self.infos[0].name, "a teacher that gives labels of whole views only")

    def require_maps(self, size: int) -> None:
        """Refuse a teacher that has no maps at a view size in pixels.

        Raises:
            TeacherError: it has none.
            UsageError: several models, whose mean has no scores.
        """
        raise no_map(self.infos[0].name, "a teacher that gives labels of whole views only")

    def weights_sha256(self) -> list[str | None]:
        """Of each of its models, the hash of the weights that it has now, as `infos` say it; None: it cannot be told."""
        return [None] * len(self.infos)

    def move(self, device: torch.device) -> None:
        """Run on another device from now on."""
        self.device = device
        self.to(device)

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode whatever a training loop asks for."""
        return super().train(False)


class Member(nn.Module, ABC):
    """One model of an ensemble. A kind of models is one class of these and one entry in `open_teacher.TEACHERS`.

    Attributes:
        kind: Stands before the colon of `--teacher KIND:NAME`.
        info: What the manifest says of it; `name` is what `--teacher` took, so that `verify --teacher` can open it again.
        runs_code: Whether its name can make this process run any code. A name that only a manifest gives is not enough then.
    """

    kind: ClassVar[str]
    runs_code: ClassVar[bool] = False
    info: TeacherInfo

    @classmethod
    @abstractmethod
    def open(cls, spec: TeacherSpec, size: int, class_map: list[int] | None) -> Member:
        """The model that a user named, in evaluation mode.

        Args:
            spec: Name (with the kind in front where it was stated), weights and arguments.
            size: View size in pixels.
            class_map: Its class for each class of the data set; None: all of them.

        Raises:
            UsageError: no such model, or arguments that it does not take.
            TeacherError: weights that do not fit.
        """

    @abstractmethod
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[B, 3, H, W]` on its device to float32 logits `[B, C]`, the class map applied."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[B, 3, H, W]` to float32 probabilities `[B, C]`."""
        return self.logits(images).softmax(dim=-1)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Scores whose mean over the positions is the logits: uint8 `[B, 3, H, W]` to float32 `[B, h, w, C]`.

        Raises:
            TeacherError: it has none.
        """
        raise no_map(self.info.name, "a model that gives logits of whole views only")

    def weights_sha256(self) -> str | None:
        """Hash of the weights that it has now, as `info` says it; None: it cannot be told."""
        return None

    def require_maps(self, size: int) -> None:
        """Refuse a model without maps at a view size in pixels.

        Raises:
            TeacherError: it has none.
        """
        raise no_map(self.info.name, "a model that gives logits of whole views only")


def labeller_of(teacher: Teacher, settings: Settings) -> Labeller:
    """What the codec of `settings` encodes, from the teacher: distributions, or maps of scores."""
    return kind_of(settings.codec).asked(teacher)


def no_map(name: str, found: str) -> TeacherError:
    """The error for a teacher without a label map."""
    return TeacherError(
        f"{name} has no label map: its head does not apply to each position by itself.",
        found=found,
        expected="convolutions, then average pooling and one linear layer, as ResNet, RegNet, TResNet and MobileNetV2 have",
        fix="--labels views, which any teacher can, or another --teacher",
    )
