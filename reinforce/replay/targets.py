"""Targets: the hard and soft labels of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reinforce.labels.label_kind import LabelBatch


@dataclass(frozen=True)
class Targets:
    """The labels of a batch.

    Attributes:
        hard: Hard labels, int64 `[B]`; -1 if a sample has none.
        soft: The teacher's stored soft labels; None if there are none.
        other: Hard label of the sample with which each image is mixed, int64 `[B]`; None if images are not mixed.
        share: Share of the image's own hard label, float32 `[B]`; the rest is the share of `other`. None if images are not
            mixed.
    """

    hard: torch.Tensor
    soft: LabelBatch | None = None
    other: torch.Tensor | None = None
    share: torch.Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Sent between processes as arrays in one message, like the soft labels.
        arrays = [None if t is None else t.numpy() for t in (self.hard, self.other, self.share)]
        return _from_arrays, (self.soft, *arrays)

    def to(self, device: torch.device, non_blocking: bool = False) -> Targets:
        """The same on another device."""
        moved = [t if t is None else t.to(device, non_blocking=non_blocking) for t in (self.other, self.share)]
        soft = None if self.soft is None else self.soft.to(device, non_blocking)
        return Targets(self.hard.to(device, non_blocking=non_blocking), soft, *moved)

    def pin_memory(self) -> Targets:
        """The same in page-locked memory."""
        pinned = [t if t is None else t.pin_memory() for t in (self.other, self.share)]
        return Targets(self.hard.pin_memory(), None if self.soft is None else self.soft.pin_memory(), *pinned)


def _from_arrays(soft: LabelBatch | None, *arrays: np.ndarray | None) -> Targets:
    hard, other, share = (None if a is None else torch.from_numpy(a) for a in arrays)
    assert hard is not None
    return Targets(hard, soft, other, share)
