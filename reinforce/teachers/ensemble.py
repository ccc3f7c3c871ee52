"""Ensemble: a teacher of one or more models on one device."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import nn

from reinforce.errors import UsageError
from reinforce.teachers.teacher import Member, Teacher


class Ensemble(Teacher):
    """One or more models: the mean of their softmaxes at temperature 1 (ImageNet+, MEAL V2).

    Args:
        members: At least one, all with the same number of (mapped) classes.
        device: Where to run.
        precision: `fp32`, or `bf16` for autocast.
    """

    def __init__(self, members: list[Member], device: torch.device, precision: str) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.infos = [member.info for member in members]
        self.precision = precision
        self.move(device)
        self.eval()

    def move(self, device: torch.device) -> None:
        super().move(device)
        self.to(memory_format=torch.channels_last if device.type == "cuda" else torch.contiguous_format)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = self._there(images)
        with self._arithmetic():
            probs = [member(images) for member in self.members]
        return torch.stack(probs).mean(dim=0) if len(probs) > 1 else probs[0]

    @torch.no_grad()
    def maps(self, images: torch.Tensor) -> torch.Tensor:
        with self._arithmetic():
            return self._first.maps(self._there(images))

    def weights_sha256(self) -> list[str | None]:
        return [member.weights_sha256() for member in self.members]  # type: ignore[operator]

    @torch.no_grad()
    def require_maps(self, size: int) -> None:
        if len(self.members) > 1:
            raise UsageError(
                "A label map is of one teacher.", found=f"{len(self.members)} teachers", expected="one", fix="--labels views"
            )
        self._first.require_maps(size)

    def _there(self, images: torch.Tensor) -> torch.Tensor:
        """The batch on the teacher's device; copied from pinned memory, so that the CPU need not wait for the copy."""
        if self.device.type == "cuda" and images.device.type == "cpu":
            images = images.pin_memory()
        return images.to(self.device, non_blocking=True)

    @property
    def _first(self) -> Member:
        return self.members[0]  # type: ignore[return-value]

    def _arithmetic(self) -> AbstractContextManager[object]:
        # Also where the caller computes in another precision, as a student with --amp does.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")
