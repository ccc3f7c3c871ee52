"""Drawn labels: what is known of a view that training draws: the hard label alone, or the teacher's label of the crop."""

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
    """Labels of drawn views, each of its view by itself."""

    def hard(self, index: int) -> int:
        """The sample's own label, -1 where there is none."""

    def soft(self, index: int, drawn: Sequence[np.ndarray], spec: PixelSpec, size: tuple[int, int]) -> Sequence[Label | None]:
        """What the teacher says of each view of a sample; None where nobody asked it.

        Args:
            index: The sample.
            drawn: Params of each view: int32 `[P]`.
            spec: Of the views.
            size: Width and height of the image in pixels.
        """

    def collate(self, labels: Sequence[Label | None]) -> LabelBatch | None:
        """One batch of soft labels."""

    def mixed(self, own: Label | None, other: Label | None, share: float) -> Label | None:
        """The soft label of two views that are mixed, of which `share` is the first."""


@dataclass(frozen=True)
class HardLabels:
    """Hard labels alone, int64 `[N]`."""

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
    """What the stored labels say of a crop, where their kind is of any crop: pooled from a label map."""

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
