"""Soft labels in sparse form, and the way back to dense rows on any device.

A sparse label is: the class ids that were kept, their probabilities, and the remainder, the mass of all other classes,
which is spread evenly over them. It is a distribution: nothing negative, and kept plus remainder is one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from reinforce.errors import LabelError

SUM_TOLERANCE = 1e-4
"""How far the sum of a float32 probability row may be from one before it is refused."""


@dataclass(frozen=True)
class SparseLabels:
    """A batch of sparse soft labels.

    Attributes:
        class_ids: int64 `[B, K]`; rows with fewer classes are padded with `num_classes`.
        probs: float32 `[B, K]`, probability of each class; padding is 0.
        remainder: float32 `[B]`, mass of the classes that are not listed.
        num_classes: C.
    """

    class_ids: torch.Tensor
    probs: torch.Tensor
    remainder: torch.Tensor
    num_classes: int

    @classmethod
    def stack(cls, rows: list[tuple[np.ndarray, np.ndarray, float]], num_classes: int) -> SparseLabels:
        """Collate rows of `(class_ids [k], probs [k], remainder)` with any k into one padded batch."""
        width = max(len(ids) for ids, _, _ in rows)
        class_ids = np.full((len(rows), width), num_classes, dtype=np.int64)
        probs = np.zeros((len(rows), width), dtype=np.float32)
        for i, (ids, values, _) in enumerate(rows):
            class_ids[i, : len(ids)] = ids
            probs[i, : len(ids)] = values
        remainder = np.array([r for _, _, r in rows], dtype=np.float32)
        return cls(torch.from_numpy(class_ids), torch.from_numpy(probs), torch.from_numpy(remainder), num_classes)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SparseLabels:
        """The same labels on another device; they travel sparse."""
        return SparseLabels(
            self.class_ids.to(device, non_blocking=non_blocking),
            self.probs.to(device, non_blocking=non_blocking),
            self.remainder.to(device, non_blocking=non_blocking),
            self.num_classes,
        )

    def pin_memory(self) -> SparseLabels:
        """The same labels in page-locked memory (called by torch's DataLoader)."""
        return SparseLabels(self.class_ids.pin_memory(), self.probs.pin_memory(), self.remainder.pin_memory(), self.num_classes)

    def dense(self) -> torch.Tensor:
        """Dense distributions, float32 `[B, C]`, by one scatter on the labels' own device."""
        kept = (self.class_ids < self.num_classes).sum(dim=1)
        others = (self.num_classes - kept).clamp(min=1)
        # One more column takes the padding and is cut off again.
        rows = (self.remainder / others)[:, None].repeat(1, self.num_classes + 1)
        return rows.scatter_(1, self.class_ids, self.probs)[:, : self.num_classes]


def check_distributions(probs: np.ndarray, what: str = "The teacher's probabilities") -> None:
    """Refuse rows that are not distributions.

    Args:
        probs: float `[N, C]`.
        what: Subject of the error message.

    Raises:
        LabelError: NaN or infinity, a negative value, or a sum away from one by more than `SUM_TOLERANCE`.
    """
    if probs.ndim != 2 or probs.shape[1] < 1:
        raise LabelError(f"{what} have the wrong shape.", found=probs.shape, expected="[rows, classes]")
    finite = np.isfinite(probs).all(axis=1)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise LabelError(
            f"{what} hold NaN or infinity.",
            found=f"{int((~finite).sum())} of {len(probs)} rows, the first is row {row}",
            cause="weights that overflow in low precision, or a teacher in training mode",
            fix="try --precision fp32",
        )
    sums = probs.sum(axis=1, dtype=np.float64)
    bad = (probs.min(axis=1) < 0) | (np.abs(sums - 1) > SUM_TOLERANCE)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise LabelError(
            f"{what} are not distributions.",
            found=f"row {row}: minimum {probs[row].min():.3g}, sum {sums[row]:.6g}",
            expected="non-negative rows that sum to one",
            cause="logits were passed where probabilities are expected",
        )


def kl_divergence(teacher_probs: torch.Tensor, stored_probs: torch.Tensor) -> torch.Tensor:
    """KL(teacher || stored) of each row in nats, float64 `[B]`, from distributions `[B, C]`."""
    p, q = teacher_probs.double(), stored_probs.double()
    return torch.special.xlogy(p, p / q.clamp(min=1e-30)).sum(dim=1)
