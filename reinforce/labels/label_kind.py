"""Label kinds: what is stored of a teacher's answers: a soft label per view, or a map of scores of the whole image.

A kind says which answer of a teacher it stores, which policy, codec and number of views fit it, and how it is described to
users. A codec names the kind that it stores (`Codec.labels`); a new kind is one class and one entry in `LABEL_KINDS`.
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
"""A function that gives a teacher's answers for a batch: uint8 `[B, 3, H, W]` to float32 `[B, ...]`."""


class Asked(Protocol):
    """The methods of a teacher that a kind of labels uses."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Distributions float32 `[B, C]`."""

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Scores at every position, float32 `[B, h, w, C]`."""

    def require_maps(self, size: int) -> None:
        """Raise an error if the teacher has no such scores."""


class LabelKind(ABC):
    """One kind of labels.

    Attributes:
        name: What `--labels` takes.
        codec: The default codec.
        policy: The default policy.
        views: The default number of views.
        unit: What one label describes, in the plural.
        of_any_crop: True: a label can be computed for any crop, and training draws its own views. False: there are labels of
            the stored views only.
        note: What `train` prints before it starts, if the student's pixels are not exactly those that the teacher saw.
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
        """The method of a teacher whose answers are encoded."""

    @abstractmethod
    def about(self, settings: Settings) -> str:
        """What a data set of such labels contains, in words."""

    def count(self, settings: Settings) -> str:
        """How many labels an image has, in words."""
        return f"{settings.views}, stored by {settings.probe_views}"

    def fault(self, policy: Policy, views: int, teachers: int) -> str | None:
        """Why settings do not fit this kind; None if they do."""
        return None

    def require(self, teacher: Asked, size: int) -> None:
        """Refuse a teacher that cannot give such labels for views of a size in pixels.

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
    """The kind of labels that the codec of a manifest stores; an unknown codec counts as one for soft labels of views."""
    known = CODECS.get(str(codec.get("name")))
    return LABEL_KINDS[known.labels if known is not None else ViewLabels.name]
