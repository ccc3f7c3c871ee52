"""Drawn labels: gives the labels of views that training draws: hard labels alone, or also the teacher's label of each crop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from reinforce.labels.box import box_of
from reinforce.labels.codec import Label
from reinforce.labels.label_kind import LabelBatch
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.views.params import PixelSpec


class DrawnLabels(Protocol):
    """Labels of drawn views. Each label describes one view before it is mixed with another."""

    def hard(self, index: int) -> int:
        """The sample's own label; -1 if it has none."""

    def soft(self, index: int, drawn: Sequence[np.ndarray], spec: PixelSpec, size: tuple[int, int]) -> Sequence[Label | None]:
        """The teacher's label of each view of a sample; None if there are no teacher's labels.

        Args:
            index: Position of the sample.
            drawn: Params of each view: int32 `[P]`.
            spec: Size and layout of the params.
            size: Width and height of the image in pixels.
        """

    def collate(self, labels: Sequence[Label | None]) -> LabelBatch | None:
        """Make one batch of soft labels; None if there are none."""

    def mixed(self, own: Label | None, other: Label | None, share: float) -> Label | None:
        """The soft label of a mix of two views; `share` is the share of the first view."""


@dataclass(frozen=True)
class HardLabels:
    """Gives hard labels only.

    Attributes:
        labels: int64 `[N]`.
    """

    labels: np.ndarray

    def hard(self, index: int) -> int:
        return int(self.labels[index])

    def soft(self, index: int, drawn: Sequence[np.ndarray], spec: PixelSpec, size: tuple[int, int]) -> Sequence[None]:
        return [None] * len(drawn)

    def collate(self, labels: Sequence[Label | None]) -> None:
        return None

    def mixed(self, own: Label | None, other: Label | None, share: float) -> None:
        return None


@dataclass(frozen=True)
class CropLabels:
    """Gives the teacher's label of any crop, for kinds of labels that allow it: a label map is pooled over the crop."""

    dataset: ReinforcedDataset

    def hard(self, index: int) -> int:
        return int(self.dataset.store.samples.labels[self.dataset.samples[index]])

    def soft(self, index: int, drawn: Sequence[np.ndarray], spec: PixelSpec, size: tuple[int, int]) -> Sequence[Label]:
        boxes = [box_of(params, spec, *size) for params in drawn]
        return self.dataset.store.crop_labels_of(int(self.dataset.samples[index]), boxes)

    def collate(self, labels: Sequence[Label | None]) -> LabelBatch:
        return self.dataset.store.kind.collate(labels, self.dataset.num_classes)

    def mixed(self, own: Label | None, other: Label | None, share: float) -> Label:
        return self.dataset.store.kind.mixed(own, other, share, self.dataset.num_classes)
