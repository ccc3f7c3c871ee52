"""Teacher: one timm model, or the mean of several, from uint8 views to probabilities.

Each member normalises by its own mean and std from uint8. The soft label is the mean of the members' softmaxes at
temperature 1 (ImageNet+, MEAL V2). A class map picks, for each class of the data set, one class of the member; the softmax
is taken over these.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import nn

from reinforce.errors import TeacherError, UsageError
from reinforce.labels.label_kind import Labeller, kind_of
from reinforce.settings import Settings, TeacherInfo
from reinforce.teachers.class_map import check_classes, read_class_map
from reinforce.teachers.models import create, require_logits, weights_sha256
from reinforce.teachers.short_names import timm_name
from reinforce.teachers.teacher_spec import TeacherSpec

_MAP_TOLERANCE = 1e-3
"""How far logits may be from the mean of the scores, as a share of the largest: rounding."""


class Member(nn.Module):
    """One teacher: model, normalisation and class map."""

    mean: torch.Tensor
    std: torch.Tensor
    class_map: torch.Tensor | None

    def __init__(self, spec: TeacherSpec, size: int, class_map: list[int] | None) -> None:
        super().__init__()
        model_kwargs = {k: v for k, v in spec.kwargs.items() if k not in ("mean", "std")}
        self.model = create(spec.name, weights=spec.weights, size=size, kwargs=model_kwargs, pretrained=True).eval()
        self.model.requires_grad_(False)
        if getattr(self.model, "num_classes", 1):
            require_logits(self.model, size, "--teacher-kwargs")
        if not self.model.num_classes:
            raise TeacherError(
                f"{timm_name(spec.name)} has no classes to label with.",
                found="num_classes 0",
                fix="--teacher-kwargs num_classes=N",
            )
        self.info = TeacherInfo(
            name=timm_name(spec.name),
            kwargs=dict(spec.kwargs),
            weights_sha256=weights_sha256(self.model),
            num_classes=int(self.model.num_classes),  # type: ignore[arg-type]
            mean=self._normalisation(spec, "mean"),
            std=self._normalisation(spec, "std"),
            class_map=class_map,
        )
        self.register_buffer("mean", 255 * torch.tensor(self.info.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(self.info.std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("class_map", None if class_map is None else torch.tensor(class_map), persistent=False)

    def _normalisation(self, spec: TeacherSpec, key: str) -> tuple[float, float, float]:
        """The model's own mean or std, unless the user says what local weights were trained with."""
        value = spec.kwargs.get(key)
        if value is None:
            return tuple(self.model.pretrained_cfg[key])  # type: ignore[index]
        try:
            values = [float(v) for v in str(value).split("/")]
        except ValueError:
            values = []
        fits = len(values) in (1, 3) and all(map(math.isfinite, values))
        if not fits or (key == "std" and min(values) <= 0):
            raise UsageError(
                f"--teacher-kwargs {key}={value} is not valid.", expected="one number, or three with slashes", fix=f"{key}=0.5"
            )
        return tuple(values if len(values) == 3 else values * 3)  # type: ignore[return-value]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[B, 3, H, W]` to float32 probabilities `[B, C]`."""
        return self.logits(images).softmax(dim=-1)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 `[B, 3, H, W]` to float32 logits `[B, C]`."""
        return self._of_data_set(self.model((images.float() - self.mean) / self.std))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the head gets: uint8 `[B, 3, H, W]` to `[B, F, h, w]` or `[B, h, w, F]`.

        Raises:
            TeacherError: features that are no grid.
        """
        found = self.model.forward_features((images.float() - self.mean) / self.std)  # type: ignore[operator]
        if not isinstance(found, torch.Tensor) or found.ndim != 4:
            raise no_map(self.info.name, "features that are tokens, not a grid")
        return found

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Pooling and head: features to float32 logits `[B, C]`."""
        return self._of_data_set(self.model.forward_head(features))  # type: ignore[operator]

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """The head on each position by itself: features to float32 `[B, h, w, C]`."""
        channels_last = self.model.num_features == features.shape[3] != features.shape[1]
        grid = features if channels_last else features.permute(0, 2, 3, 1)
        each = grid.reshape(-1, 1, 1, grid.shape[3])
        logits = self.head(each if channels_last else each.permute(0, 3, 1, 2))
        return logits.reshape(*grid.shape[:3], -1)

    def _of_data_set(self, logits: torch.Tensor) -> torch.Tensor:
        logits = logits.float()
        return logits if self.class_map is None else logits[:, self.class_map]


class Teacher(nn.Module):
    """An ensemble of one or more members, in evaluation mode for ever.

    Args:
        members: At least one, all with the same number of (mapped) classes.
        device: Where to run.
        precision: `fp32`, or `bf16` for autocast.
    """

    def __init__(self, members: list[Member], device: torch.device, precision: str) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.device = device
        self.precision = precision
        self.to(device)
        if device.type == "cuda":
            self.to(memory_format=torch.channels_last)
        self.eval()

    @property
    def infos(self) -> list[TeacherInfo]:
        """What the manifest says of the members."""
        return [m.info for m in self.members]  # type: ignore[misc]

    def train(self, mode: bool = True) -> Teacher:
        """Stays in evaluation mode whatever a training loop asks for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Soft labels of a batch.

        Args:
            images: uint8 `[B, 3, H, W]`, on any device.

        Returns:
            float32 `[B, C]` on the teacher's device; each row sums to one.
        """
        images = self._there(images)
        with self._arithmetic():
            probs = [member(images) for member in self.members]
        return torch.stack(probs).mean(dim=0) if len(probs) > 1 else probs[0]

    @torch.no_grad()
    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Scores at every position, before pooling: uint8 `[B, 3, H, W]` to float32 `[B, h, w, C]` on the teacher's device."""
        with self._arithmetic():
            return self._first.scores(self._first.features(self._there(images)))

    @torch.no_grad()
    def require_maps(self, size: int) -> None:
        """Refuse a teacher whose logits are not the mean of scores at positions.

        Args:
            size: View size in pixels.

        Raises:
            TeacherError: tokens, attention pooling, or a head that is not linear.
            UsageError: several teachers, whose mean of softmaxes has no scores.
        """
        if len(self.members) > 1:
            raise UsageError(
                "A label map is of one teacher.", found=f"{len(self.members)} teachers", expected="one", fix="--labels views"
            )
        member = self._first
        noise = torch.arange(2 * 3 * size * size, device=self.device) * 2654435761 % 2**32 >> 24
        features = member.features(noise.to(torch.uint8).reshape(2, 3, size, size))
        # Of unit size, with signs that alternate: what is not linear shows, however alike the positions of this noise are.
        signs = 1 - 2 * (torch.arange(features.numel(), device=self.device) % 3 % 2)
        features = features / features.std().clamp(min=torch.finfo(torch.float32).tiny) * signs.reshape(features.shape)
        whole, nothing = member.head(features), member.head(torch.zeros_like(features))
        off = float((whole - member.scores(features).mean(dim=(1, 2))).abs().max() / (whole - nothing).abs().max())
        if not off < _MAP_TOLERANCE:
            raise no_map(member.info.name, f"logits that are off the mean of its scores by {off:.1%}")

    def _there(self, images: torch.Tensor) -> torch.Tensor:
        """The batch on the teacher's device; from pinned memory, so that the copy is not waited for."""
        if self.device.type == "cuda" and images.device.type == "cpu":
            images = images.pin_memory()
        return images.to(self.device, non_blocking=True)

    @property
    def _first(self) -> Member:
        return self.members[0]  # type: ignore[return-value]

    def _arithmetic(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()


def labeller_of(teacher: Teacher, settings: Settings) -> Labeller:
    """What the codec of `settings` encodes, from the teacher: distributions, or maps of scores."""
    return kind_of(settings.codec).asked(teacher)


def load_teacher(
    specs: list[TeacherSpec],
    *,
    size: int,
    class_names: list[str],
    class_map: str | None,
    device: torch.device,
    precision: str,
) -> Teacher:
    """Load the teachers and fit their classes to the data set's.

    Args:
        specs: One per teacher.
        size: View size in pixels.
        class_names: Classes of the data set; empty where it is unlabelled (the teacher's classes are used then).
        class_map: None, `auto` (class names are WordNet ids), or the path of a JSON list of teacher classes.
        device: Where to run.
        precision: `fp32` or `bf16`.

    Raises:
        TeacherError: weights or classes do not fit.
        UsageError: an unknown model or a class map that cannot be read.
    """
    members = [Member(s, size, read_class_map(class_map, class_names)) for s in specs]
    for member in members:
        check_classes(member.info, class_names)
    counts = {len(m.info.class_map) if m.info.class_map else m.info.num_classes for m in members}
    if len(counts) > 1:
        raise TeacherError(
            "The teachers do not have the same classes.", found=f"{sorted(counts)} classes", expected="one number"
        )
    return Teacher(members, device, precision)


def teacher_of(settings: Settings, weights: list[Path], device: torch.device) -> Teacher:
    """The teacher that made a reinforced dataset, to run it again.

    Args:
        settings: Of the manifest: names, arguments, class maps, precision.
        weights: A local file per teacher, in order; empty: timm's published weights.
        device: Where to run.

    Raises:
        TeacherError: other weights than those that made the labels.
        UsageError: another number of files than teachers.
    """
    if settings.origin is not None or any(t.weights_sha256 is None for t in settings.teachers):
        raise UsageError(
            "The teacher of these labels is not known well enough to run it again.",
            found="labels that were imported",
            fix="--teacher NAME for another one",
        )
    if weights and len(weights) != len(settings.teachers):
        names = ", ".join(t.name for t in settings.teachers)
        raise UsageError(f"{len(weights)} weights files are given.", expected=f"one per teacher: {names}")
    members = []
    paths: list[Path | None] = list(weights) or [None] * len(settings.teachers)
    for info, path in zip(settings.teachers, paths, strict=True):
        member = Member(TeacherSpec(info.name, path, info.kwargs), settings.size, info.class_map)
        if member.info.weights_sha256 != info.weights_sha256:
            raise TeacherError(
                f"These weights of {info.name} are not those that made the labels.",
                found=f"sha256 {str(member.info.weights_sha256)[:16]}...",
                expected=f"sha256 {str(info.weights_sha256)[:16]}...",
                cause="labels from a local weights file, or weights that were published anew",
                fix="--teacher-weights FILE with the weights used at generation",
            )
        members.append(member)
    return Teacher(members, device, settings.precision)


def no_map(name: str, found: str) -> TeacherError:
    """The error for a teacher without a label map."""
    return TeacherError(
        f"{name} has no label map: its head does not apply to each position by itself.",
        found=found,
        expected="convolutions, then average pooling and one linear layer, as ResNet, RegNet, TResNet and MobileNetV2 have",
        fix="--labels views, which any teacher can, or another --teacher",
    )
