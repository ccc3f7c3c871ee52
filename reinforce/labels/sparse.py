"""Soft labels in sparse form, and the way back to dense rows on any device.

A sparse label is: the class ids that were kept, their probabilities, the remainder, which is the mass of all other classes,
and the tail, which says how the remainder is spread over them. It is a distribution: no probability is negative, and the kept
probabilities and the remainder sum to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from reinforce.errors import LabelError

SUM_TOLERANCE = 1e-4
"""How far the sum of a float32 probability row may be from one before it is refused."""


MAX_LEVEL = 63
"""Highest level of a tail weight: 2^-63, which is negligible beside other weights but still a normal float32."""


class Tail(NamedTuple):
    """How a remainder is spread over the classes that were not kept: in proportion to weights of 2^-level.

    Attributes:
        class_ids: int64 `[T]`, without repetition; kept classes may be among them, but get no share of the remainder.
        levels: uint8 `[T]`; above `MAX_LEVEL` counts as `MAX_LEVEL`.
        floor: Weight of every class that is not in `class_ids`, positive.
    """

    class_ids: np.ndarray
    levels: np.ndarray
    floor: float


EVEN = Tail(np.empty(0, np.int64), np.empty(0, np.uint8), 1.0)
"""The tail that spreads a remainder evenly."""


class SparseLabel(NamedTuple):
    """The soft label of one view.

    Attributes:
        class_ids: int64 `[k]`, the classes kept, without repetition.
        probs: float32 `[k]`, their probabilities.
        remainder: Mass of all other classes.
        tail: How that mass is spread.
    """

    class_ids: np.ndarray
    probs: np.ndarray
    remainder: float
    tail: Tail = EVEN


@dataclass(frozen=True)
class SparseLabels:
    """A batch of sparse soft labels; rows shorter than the longest are padded with class id C.

    Attributes:
        class_ids: int64 `[B, K]`, the classes kept.
        probs: float32 `[B, K]`, probability of each; padding is 0.
        remainder: float32 `[B]`, mass of the classes that were not kept.
        tail_ids: int64 `[B, T]`, classes with a tail weight of their own.
        tail_levels: uint8 `[B, T]`, their tail weights: 2^-level.
        tail_floor: float32 `[B]`, tail weight of all other classes.
        num_classes: C.
    """

    class_ids: torch.Tensor
    probs: torch.Tensor
    remainder: torch.Tensor
    tail_ids: torch.Tensor
    tail_levels: torch.Tensor
    tail_floor: torch.Tensor
    num_classes: int

    @classmethod
    def stack(cls, labels: Sequence[SparseLabel], num_classes: int) -> SparseLabels:
        """Collate labels with any number of classes kept into one padded batch."""
        tails = [label.tail for label in labels]
        return cls(
            class_ids=_padded([label.class_ids for label in labels], num_classes, np.int64),
            probs=_padded([label.probs for label in labels], 0, np.float32),
            remainder=torch.tensor([label.remainder for label in labels], dtype=torch.float32),
            tail_ids=_padded([tail.class_ids for tail in tails], num_classes, np.int64),
            tail_levels=_padded([tail.levels for tail in tails], 0, np.uint8),
            tail_floor=torch.tensor([tail.floor for tail in tails], dtype=torch.float32),
            num_classes=num_classes,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SparseLabels:
        """The same labels on another device; the sparse form is copied, not dense rows."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SparseLabels:
        """The same labels in page-locked memory (called by torch's DataLoader)."""
        return self._each(torch.Tensor.pin_memory)

    def __reduce__(self) -> tuple[Any, ...]:
        # Sent to another process as arrays in one message: shared memory for each of six small tensors costs more than a copy.
        tensors = (self.class_ids, self.probs, self.remainder, self.tail_ids, self.tail_levels, self.tail_floor)
        return _from_arrays, (*(t.numpy() for t in tensors), self.num_classes)

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> SparseLabels:
        return SparseLabels(
            class_ids=change(self.class_ids),
            probs=change(self.probs),
            remainder=change(self.remainder),
            tail_ids=change(self.tail_ids),
            tail_levels=change(self.tail_levels),
            tail_floor=change(self.tail_floor),
            num_classes=self.num_classes,
        )

    def dense(self) -> torch.Tensor:
        """Dense distributions, float32 `[B, C]`, by three scatters on the labels' own device."""
        # Padding has class id C: it goes to one more column, which is cut off at the end.
        rows = self.tail_floor[:, None].repeat(1, self.num_classes + 1)
        rows.scatter_(1, self.tail_ids, _tail_weights(self.tail_levels)).scatter_(1, self.class_ids, 0.0)
        rows[:, self.num_classes] = 0.0
        # If a row keeps all classes, its weights sum to zero, and so its remainder is zero: the clamp avoids 0 / 0.
        rows *= (self.remainder / rows.sum(dim=1).clamp(min=torch.finfo(rows.dtype).tiny))[:, None]
        return rows.scatter_(1, self.class_ids, self.probs)[:, : self.num_classes]


def _tail_weights(levels: torch.Tensor) -> torch.Tensor:
    """2^-level for uint8 levels, exact, by setting a float32's exponent: a table would be copied to the device each step."""
    return ((127 - levels.int().clamp(max=MAX_LEVEL)) << 23).view(torch.float32)


def _from_arrays(*given: Any) -> SparseLabels:
    *arrays, num_classes = given
    ids, probs, remainder, tail_ids, tail_levels, tail_floor = map(torch.from_numpy, arrays)
    return SparseLabels(ids, probs, remainder, tail_ids, tail_levels, tail_floor, num_classes)


def _padded(rows: list[np.ndarray], padding: int, dtype: type) -> torch.Tensor:
    result: np.ndarray = np.full((len(rows), max(map(len, rows))), padding, dtype)
    for i, row in enumerate(rows):
        result[i, : len(row)] = row
    return torch.from_numpy(result)


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
    made: torch.Tensor = torch.special.xlogy(p, p / q.clamp(min=1e-30)).sum(dim=1)
    return made
