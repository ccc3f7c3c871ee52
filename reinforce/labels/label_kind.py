"""Label kinds: which of a teacher's answers are stored: a soft label per view, or a map of scores of the whole image.

A kind defines which answer of a teacher is stored, which policy, codec and number of views fit it, and how it is described to
users; and how its labels are collated, mixed, checked and compared with the teacher. A codec names the kind that it stores
(`Codec.labels`) and decodes labels to the type that this kind uses. To add a kind, write one class and add it to `LABEL_KINDS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import torch

from reinforce.labels.codec import Codec, Label
from reinforce.labels.codecs import CODECS
from reinforce.labels.fidelity import Fidelity, measure
from reinforce.labels.label_map import mixed_label
from reinforce.labels.sparse import SparseLabel, SparseLabels, kl_divergence
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
        """Raise an error if the teacher cannot give `maps` of images of `size` pixels."""


class LabelBatch(Protocol):
    """Labels of a batch as tensors. Worker processes make them; the training process moves them to its device."""

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        """The same on another device."""

    def pin_memory(self) -> Self:
        """The same in page-locked memory."""

    def dense(self) -> torch.Tensor:
        """The targets of a loss: a row per label, float32 `[B, ...]`."""


class LabelKind(ABC):
    """One kind of labels.

    Attributes:
        name: The name that a user gives to `generate --labels`.
        codec: The default codec.
        policy: The default policy.
        views: The default number of views.
        unit: The thing that one label describes, as a plural noun for messages.
        of_any_crop: True: a label can be computed for any crop, and training draws its own views. False: there are labels of
            the stored views only.
        note: Text that `train` prints before it starts, if the student's pixels are not exactly those that the teacher saw.
        distance_name: Name of the measure that `distance` uses.
        distance_unit: Unit of `distance`; empty: it has none.
    """

    name: ClassVar[str]
    codec: ClassVar[str]
    policy: ClassVar[str]
    views: ClassVar[int]
    unit: ClassVar[str]
    of_any_crop: ClassVar[bool]
    note: ClassVar[str | None] = None
    distance_name: ClassVar[str]
    distance_unit: ClassVar[str] = ""

    @abstractmethod
    def asked(self, teacher: Asked) -> Labeller:
        """The method of the teacher that gives the answers to encode."""

    @abstractmethod
    def about(self, settings: Settings) -> str:
        """The content of a data set with such labels, as text for users."""

    def count(self, settings: Settings) -> str:
        """How many labels an image has, as text for users."""
        return f"{settings.views}, stored by {settings.probe_views}"

    def fault(self, policy: Policy, views: int, teachers: int) -> str | None:
        """Why settings do not fit this kind; None if they do."""
        return None

    def require(self, teacher: Asked, size: int) -> None:
        """Refuse a teacher that cannot give such labels for views of `size` pixels.

        Raises:
            TeacherError: the teacher cannot give them.
        """
        return

    @abstractmethod
    def collate(self, labels: Sequence[Label], num_classes: int) -> LabelBatch:
        """One batch of labels."""

    @abstractmethod
    def mixed(self, own: Label, other: Label, share: float, num_classes: int) -> Label:
        """The label of a mix of two images, computed from the label of each image; `share` is the share of the first image."""

    @abstractmethod
    def label_fault(self, label: Label) -> str | None:
        """What is wrong with a decoded label; None if it is valid."""

    @abstractmethod
    def distance(self, codec: Codec, answers: np.ndarray, labels: Sequence[Label]) -> np.ndarray:
        """Distance between stored labels and the teacher's new answers for the same views, at least 0: float64 `[V]`.

        Args:
            codec: The codec of the labels.
            answers: Answers of the teacher's method `asked`, float32 `[V, ...]`.
            labels: One stored label per view.
        """

    def lost(self, codec: Codec, records: list[bytes], answers: np.ndarray, stripe_views: int) -> Fidelity | None:
        """The codec's error: a sample's records compared with the teacher's answers `[V, ...]`; None: not measured."""
        return None

    def distribution(self, label: Label) -> SparseLabel | None:
        """A label as a distribution over the classes, for statistics and pictures; None if it is not a distribution."""
        return None


class ClassLabels(LabelKind):
    """Labels that are distributions over the classes, in sparse form."""

    distance_name, distance_unit = "KL(teacher || stored)", "nats"

    def collate(self, labels: Sequence[SparseLabel], num_classes: int) -> SparseLabels:
        return SparseLabels.stack(labels, num_classes)

    def mixed(self, own: SparseLabel, other: SparseLabel, share: float, num_classes: int) -> SparseLabel:
        return mixed_label(own, other, share, num_classes)

    def label_fault(self, label: SparseLabel) -> str | None:
        ids, probs, remainder, tail = label
        total = float(probs.sum(dtype=np.float64)) + remainder
        doubled = any(len(set(each.tolist())) != len(each) for each in (ids, tail.class_ids))
        if doubled or probs.min(initial=0) < 0 or remainder < 0 or abs(total - 1) > 1e-6:
            return f"not a distribution: sum {total:.8f}, remainder {remainder:.3g}, {len(ids)} classes"
        return None

    def distance(self, codec: Codec, answers: np.ndarray, labels: Sequence[SparseLabel]) -> np.ndarray:
        truth = torch.from_numpy(codec.probabilities(answers))
        return kl_divergence(truth, SparseLabels.stack(labels, truth.shape[1]).dense()).numpy()

    def lost(self, codec: Codec, records: list[bytes], answers: np.ndarray, stripe_views: int) -> Fidelity:
        return measure(codec, records, answers, stripe_views)

    def distribution(self, label: SparseLabel) -> SparseLabel:
        return label


class ViewLabels(ClassLabels):
    """A soft label for each stored view."""

    name = "views"
    codec, policy, views = "sqrt", "rrc-ra", 10
    unit = "views"
    of_any_crop = False

    def asked(self, teacher: Asked) -> Labeller:
        return teacher

    def about(self, settings: Settings) -> str:
        return f"soft labels of {settings.views} augmented views of each image"


class MapLabels(ClassLabels):
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
