"""Label kinds: what is stored of a teacher: a soft label per view, or a map of scores of the whole image.

A kind says what it is asked of a teacher, which policy, codec and views it goes with, what is shown and said of it. A codec
names the kind that it stores (`Codec.labels`); a new kind is one class and one entry in `LABEL_KINDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch

from reinforce.labels.codecs import CODECS
from reinforce.policy import Policy
from reinforce.settings import Settings

Labeller = Callable[[torch.Tensor], torch.Tensor]
"""What a teacher says of a batch: uint8 `[B, 3, H, W]` to float32 `[B, ...]`."""


class Asked(Protocol):
    """A teacher, as a kind asks it."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Distributions float32 `[B, C]`."""

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Scores at every position, float32 `[B, h, w, C]`."""

    def require_maps(self, size: int) -> None:
        """Refuse a teacher that has none."""


class LabelKind(ABC):
    """One kind.

    Attributes:
        name: What `--labels` takes.
        codec: The codec, policy and number of views that it is generated with by default.
        unit: What one label is of, in the plural.
        of_any_crop: Whether a label can be had for any crop, so that training draws views of its own; else labels belong to
            the stored views.
        note: What `train` says beforehand, where pixels are not exactly those that the teacher saw.
    """

    name: ClassVar[str]
    codec: ClassVar[str]
    policy: ClassVar[str]
    views: ClassVar[int]
    unit: ClassVar[str]
    of_any_crop: ClassVar[bool]
    note: ClassVar[str | None] = None

    @abstractmethod
    def asked(self, teacher: Asked) -> Labeller:
        """What of a teacher is encoded."""

    @abstractmethod
    def about(self, settings: Settings) -> str:
        """What a data set of such labels is, in words."""

    def count(self, settings: Settings) -> str:
        """How many labels an image has, in words."""
        return f"{settings.views}, stored by {settings.probe_views}"

    def fault(self, policy: Policy, views: int, teachers: int) -> str | None:
        """Why settings do not go with the kind, or None."""
        return None

    def require(self, teacher: Asked, size: int) -> None:
        """Refuse a teacher that cannot be asked at a view size in pixels.

        Raises:
            TeacherError: it cannot.
        """
        return


class ViewLabels(LabelKind):
    """A soft label for each stored view."""

    name = "views"
    codec, policy, views = "sqrt", "rrc-ra", 10
    unit = "views"
    of_any_crop = False

    def asked(self, teacher: Asked) -> Labeller:
        return teacher

    def about(self, settings: Settings) -> str:
        return f"soft labels of {settings.views} augmented views of each image"


class MapLabels(LabelKind):
    """The scores at every position of the whole image (ReLabel, arXiv 2101.05022)."""

    name = "map"
    codec, policy, views = "map", "whole", 1
    unit = "whole images"
    of_any_crop = True
    note = "label maps: crops are drawn anew in every epoch, and the teacher never saw them by themselves"

    def asked(self, teacher: Asked) -> Labeller:
        return teacher.maps

    def about(self, settings: Settings) -> str:
        return "label maps of whole images"

    def count(self, settings: Settings) -> str:
        return "1 label map"

    def fault(self, policy: Policy, views: int, teachers: int) -> str | None:
        fits = views == 1 and policy.crop == "whole" and teachers == 1
        return None if fits else "label maps are of one teacher, one view, and the whole image"

    def require(self, teacher: Asked, size: int) -> None:
        teacher.require_maps(size)


LABEL_KINDS: dict[str, LabelKind] = {kind.name: kind for kind in (ViewLabels(), MapLabels())}


def kind_of(codec: dict[str, Any]) -> LabelKind:
    """The kind of labels that the codec of a manifest stores; soft labels of views, where this version does not know it."""
    known = CODECS.get(str(codec.get("name")))
    return LABEL_KINDS[known.labels if known is not None else ViewLabels.name]
