"""Own model: the base of teachers that are not timm's; it adds normalisation from uint8, and the class map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from reinforce.errors import UsageError, first_line
from reinforce.settings import Scalar, TeacherInfo
from reinforce.teachers.models import weights_sha256
from reinforce.teachers.teacher import Member
from reinforce.teachers.teacher_spec import KWARGS, TeacherSpec

Channels = tuple[float, float, float]


class Made(NamedTuple):
    """A model that was loaded.

    Attributes:
        model: float32 `[B, 3, H, W]` to logits `[B, C]`, or to an object with `logits`.
        mean: What to subtract from pixels of 0 to 1; None: not known.
        std: What to divide them by then; None: not known.
        sha256: Hash of its weights, where they are no tensors of the model; None: they are.
    """

    model: nn.Module
    mean: Channels | None
    std: Channels | None
    sha256: str | None = None


class OwnModel(Member):
    """A model that is not timm's.

    Args:
        spec: What the user said of it; `mean` and `std` in its kwargs come before the model's own.
        size: View size in pixels.
        class_map: Its class for each class of the data set; None: all of them.

    Raises:
        UsageError: it makes no logits of such views, or its mean and std are not known.
    """

    runs_code = True
    mean: torch.Tensor
    std: torch.Tensor
    class_map: torch.Tensor | None

    def __init__(self, spec: TeacherSpec, size: int, class_map: list[int] | None) -> None:
        super().__init__()
        self.spec = spec
        made = self.load(spec, size)
        self.model = made.model.eval().requires_grad_(False)
        self.info = TeacherInfo(
            name=spec.name,
            kwargs=dict(spec.kwargs),
            weights_sha256=made.sha256 or weights_sha256(self.model),
            num_classes=self._classes(size),
            mean=channels(spec, "mean", made.mean),
            std=channels(spec, "std", made.std),
            class_map=class_map,
        )
        self.register_buffer("mean", 255 * torch.tensor(self.info.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(self.info.std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("class_map", None if class_map is None else torch.tensor(class_map), persistent=False)

    @classmethod
    def open(cls, spec: TeacherSpec, size: int, class_map: list[int] | None) -> Member:
        return cls(spec, size, class_map)

    @classmethod
    def load(cls, spec: TeacherSpec, size: int) -> Made:
        """Load the model that a user named.

        Raises:
            UsageError: there is none, or arguments that it does not take.
            TeacherError: weights that do not fit.
        """
        raise NotImplementedError

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        found = _logits(self.model((images.float() - self.mean) / self.std)).float()
        return found if self.class_map is None else found[:, self.class_map]

    def weights_sha256(self) -> str | None:
        return weights_sha256(self.model)

    @torch.no_grad()
    def _classes(self, size: int) -> int:
        try:
            found = _logits(self.model(torch.zeros(1, 3, size, size)))
            told = f"an output of shape {list(found.shape)}"
            if found.ndim == 2 and found.shape[0] == 1 and found.shape[1]:
                return int(found.shape[1])
        except Exception as error:  # noqa: BLE001 - whatever a model raises
            told = first_line(error)
        raise UsageError(
            f"{self.spec.name} makes no logits of views of {size}x{size} pixels.",
            found=told,
            expected=f"[1, classes] from float32 [1, 3, {size}, {size}]",
            cause="another input size, or a model that is no classifier",
            fix=f"check --size and {KWARGS}",
        )


def _logits(output: Any) -> torch.Tensor:
    found = getattr(output, "logits", output)
    if not isinstance(found, torch.Tensor):
        raise TypeError(f"an output that is a {type(output).__name__}, no tensor")
    return found


def channels(spec: TeacherSpec, key: str, own: Sequence[float] | None) -> Channels:
    """The mean or std of a teacher: its own, unless the user says what its weights were trained with.

    Args:
        spec: What the user said.
        key: `mean` or `std`.
        own: Of the model; None: not known.

    Raises:
        UsageError: a value that is none, or none at all.
    """
    value: Scalar | str = spec.kwargs.get(key)
    if value is None and own is None:
        raise UsageError(
            f"The {key} of {spec.name} is not known.",
            expected=f"{key}=0.5 or {key}=0.485/0.456/0.406, for pixels of 0 to 1; the model may have attributes mean and std",
            fix=f"{KWARGS} mean=0.485/0.456/0.406 std=0.229/0.224/0.225, or what it was trained with",
        )
    given = str(value).split("/") if value is not None else list(own or ())
    try:
        values = [float(each) for each in given]
    except (TypeError, ValueError):
        values = []
    fits = len(values) in (1, 3) and all(map(math.isfinite, values))
    if not fits or (key == "std" and min(values) <= 0):
        raise UsageError(
            f"{KWARGS} {key}={value} is not valid." if value is not None else f"The {key} of {spec.name} is not valid.",
            found=None if value is not None else own,
            expected="one number, or three with slashes",
            fix=f"{key}=0.5",
        )
    return tuple(values if len(values) == 3 else values * 3)  # type: ignore[return-value]


def arguments(spec: TeacherSpec) -> dict[str, Scalar]:
    """What is left of `--teacher-kwargs` for the model itself."""
    return {key: value for key, value in spec.kwargs.items() if key not in ("mean", "std")}


def no_arguments(spec: TeacherSpec) -> None:
    """Refuse arguments for a model that takes none.

    Raises:
        UsageError: there are some.
    """
    if more := arguments(spec):
        raise UsageError(
            f"{spec.name} takes no arguments but mean and std.", found=", ".join(more), fix=f"leave them out of {KWARGS}"
        )


def no_weights(spec: TeacherSpec) -> None:
    """Refuse a weights file for a model that has its own.

    Raises:
        UsageError: there is one.
    """
    if spec.weights is not None:
        raise UsageError(f"{spec.name} has its own weights.", found=f"--teacher-weights {spec.weights}", fix="leave it out")


def of_attributes(model: object, key: str) -> Sequence[float] | None:
    """The mean or std that a model tells: in an attribute of this name, or in a `pretrained_cfg` as timm's models have it."""
    for holder in (model, getattr(model, "pretrained_cfg", None), getattr(model, "default_cfg", None)):
        found = holder.get(key) if isinstance(holder, Mapping) else getattr(holder, key, None)
        if isinstance(found, (int, float)):
            return [float(found)]
        if isinstance(found, torch.Tensor):
            return [float(each) for each in found.flatten().tolist()]
        if isinstance(found, (list, tuple)):
            return list(found)
    return None
