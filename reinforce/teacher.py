"""Teacher: one timm model, or the mean of several, from uint8 views to probabilities.

Each member normalises by its own mean and std from uint8. The soft label is the mean of the members' softmaxes at
temperature 1 (ImageNet+, MEAL V2). A class map picks, for each class of the data set, one class of the member; the softmax
is taken over these.
"""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from reinforce.errors import TeacherError, UsageError
from reinforce.manifest import Settings, TeacherInfo
from reinforce.models import Scalar, create, weights_sha256
from reinforce.names import timm_name


@dataclass(frozen=True)
class TeacherSpec:
    """What a user says of one teacher; `kwargs` go to `timm.create_model`, except `mean` and `std`, which override its own."""

    name: str
    weights: Path | None = None
    kwargs: dict[str, Scalar] = field(default_factory=dict)


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
        logits = self.model((images.float() - self.mean) / self.std).float()
        if self.class_map is not None:
            logits = logits[:, self.class_map]
        return logits.softmax(dim=-1)


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
        images = images.to(self.device, non_blocking=True)
        bf16 = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16) if bf16 else nullcontext():
            probs = [member(images) for member in self.members]
        return torch.stack(probs).mean(dim=0) if len(probs) > 1 else probs[0]


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
    members = [Member(s, size, _read_class_map(class_map, class_names)) for s in specs]
    for member in members:
        _check_classes(member.info, class_names)
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
                found=f"sha256 {member.info.weights_sha256[:16]}...",
                expected=f"sha256 {info.weights_sha256[:16]}...",
                cause="labels from a local weights file, or weights that were published anew",
                fix="--teacher-weights FILE with the weights used at generation",
            )
        members.append(member)
    return Teacher(members, device, settings.precision)


def _check_classes(info: TeacherInfo, class_names: list[str]) -> None:
    if info.class_map is not None:
        if max(info.class_map) >= info.num_classes or min(info.class_map) < 0:
            raise TeacherError(
                f"The class map names classes that {info.name} does not have.",
                found=f"{min(info.class_map)} to {max(info.class_map)}",
                expected=f"0 to {info.num_classes - 1}",
            )
    elif class_names and info.num_classes != len(class_names):
        raise TeacherError(
            f"{info.name} has {info.num_classes} classes and the data set has {len(class_names)}.",
            expected="the same classes in the same order, or a class map",
            cause="a teacher trained on a larger set of classes",
            fix="--class-map auto (folders named by WordNet id), --class-map FILE.json, or --teacher-kwargs num_classes=N",
        )


def _read_class_map(class_map: str | None, class_names: list[str]) -> list[int] | None:
    if class_map is None:
        return None
    if not class_names:
        raise UsageError("--class-map needs a labelled data set.", found="a folder without class folders")
    if class_map == "auto":
        return _imagenet_classes(class_names)
    try:
        indices = json.loads(Path(class_map).read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"The class map {class_map} cannot be read.", found=str(error), expected="a JSON list of numbers, or auto"
        ) from None
    if not isinstance(indices, list) or not all(type(i) is int for i in indices) or len(indices) != len(class_names):
        raise UsageError(
            f"The class map {class_map} does not fit the data set.",
            found=f"{len(indices)} entries" if isinstance(indices, list) else type(indices).__name__,
            expected=f"a JSON list of {len(class_names)} numbers: the teacher's class of each class folder, in sorted order",
        )
    return indices


def _imagenet_classes(class_names: list[str]) -> list[int]:
    from timm.data import ImageNetInfo

    by_wnid = {name: i for i, name in enumerate(ImageNetInfo("imagenet-1k").label_names())}
    unknown = [name for name in class_names if name not in by_wnid]
    if unknown:
        raise UsageError(
            "--class-map auto does not know all class folders.",
            found=f"{len(unknown)} of {len(class_names)}, such as {unknown[0]!r}",
            expected="folders named by the WordNet ids of ImageNet-1k, such as n01440764",
            fix="--class-map FILE.json with the teacher's class of each folder, in sorted order",
        )
    return [by_wnid[name] for name in class_names]
