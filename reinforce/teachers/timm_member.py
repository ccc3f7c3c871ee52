"""Timm member: a timm model as a teacher. It normalises by its own mean and std, from uint8."""

from __future__ import annotations

import torch

from reinforce.errors import TeacherError
from reinforce.settings import TeacherInfo
from reinforce.teachers.models import create, require_logits, weights_sha256
from reinforce.teachers.own_model import channels, of_attributes
from reinforce.teachers.short_names import timm_name
from reinforce.teachers.teacher import Member, no_map
from reinforce.teachers.teacher_spec import TeacherSpec

_MAP_TOLERANCE = 1e-3
"""Largest difference that rounding may cause between logits and the mean of the scores, relative to the largest logit."""


class TimmMember(Member):
    """A timm model with its normalisation and class map."""

    kind = "timm"

    mean: torch.Tensor
    std: torch.Tensor
    class_map: torch.Tensor | None

    def __init__(self, spec: TeacherSpec, size: int, class_map: list[int] | None) -> None:
        super().__init__()
        name = spec.name.removeprefix(f"{self.kind}:")
        model_kwargs = {k: v for k, v in spec.kwargs.items() if k not in ("mean", "std")}
        self.model = create(name, weights=spec.weights, size=size, kwargs=model_kwargs, pretrained=True).eval()
        self.model.requires_grad_(False)
        if getattr(self.model, "num_classes", 1):
            require_logits(self.model, size, "--teacher-kwargs")
        if not self.model.num_classes:
            raise TeacherError(
                f"{timm_name(name)} has no classes to label with.",
                found="num_classes 0",
                fix="--teacher-kwargs num_classes=N",
            )
        self.info = TeacherInfo(
            name=timm_name(name),
            kwargs=dict(spec.kwargs),
            weights_sha256=weights_sha256(self.model),
            num_classes=int(self.model.num_classes),  # type: ignore[arg-type]
            mean=channels(spec, "mean", of_attributes(self.model.pretrained_cfg, "mean")),
            std=channels(spec, "std", of_attributes(self.model.pretrained_cfg, "std")),
            class_map=class_map,
        )
        self.register_buffer("mean", 255 * torch.tensor(self.info.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(self.info.std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("class_map", None if class_map is None else torch.tensor(class_map), persistent=False)

    @classmethod
    def open(cls, spec: TeacherSpec, size: int, class_map: list[int] | None) -> TimmMember:
        return cls(spec, size, class_map)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return self._of_data_set(self.model((images.float() - self.mean) / self.std))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """The input of the head: uint8 `[B, 3, H, W]` to `[B, F, h, w]` or `[B, h, w, F]`.

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

    def weights_sha256(self) -> str:
        return weights_sha256(self.model)

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores(self.features(images))

    def require_maps(self, size: int) -> None:
        """Refuse a model whose logits are not the mean of scores at positions.

        Raises:
            TeacherError: tokens, attention pooling, or a head that is not linear.
        """
        noise = torch.arange(2 * 3 * size * size, device=self.mean.device) * 2654435761 % 2**32 >> 24
        features = self.features(noise.to(torch.uint8).reshape(2, 3, size, size))
        # Scaled to deviation 1 and with alternating signs, so that a head that is not linear gives itself away.
        signs = 1 - 2 * (torch.arange(features.numel(), device=self.mean.device) % 3 % 2)
        features = features / features.std().clamp(min=torch.finfo(torch.float32).tiny) * signs.reshape(features.shape)
        whole, nothing = self.head(features), self.head(torch.zeros_like(features))
        off = float((whole - self.scores(features).mean(dim=(1, 2))).abs().max() / (whole - nothing).abs().max())
        if not off < _MAP_TOLERANCE:
            raise no_map(self.info.name, f"logits that are off the mean of its scores by {off:.1%}")
