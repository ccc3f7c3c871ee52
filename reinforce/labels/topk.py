"""`topk`: the k most probable classes of each view; a plain layout, for interchange. Source: FORMAT.md, "Records"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from reinforce.errors import UsageError
from reinforce.labels.codec import Codec, class_id_bytes, damaged
from reinforce.labels.half_floats import half_floats
from reinforce.labels.records import topk_labels
from reinforce.labels.sparse import SparseLabel, check_distributions

MAX_K = 1000
"""Largest k of `topk`."""


def top_columns(values: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k highest values of each row, by falling value, those of equal values rising: int64 `[rows, k]`.

    The same as the first k columns of a stable sort of whole rows, in a tenth of its time for ten thousand columns.

    Args:
        values: float `[rows, n]`, without NaN.
        k: From 1 to n.
    """
    rows, n = values.shape
    least = np.partition(values, n - k, axis=1)[:, n - k, None]
    chosen = values >= least
    surplus = np.flatnonzero(np.count_nonzero(chosen, axis=1) > k)
    if len(surplus):  # several values equal the lowest one that is chosen: the first of them are
        some = values[surplus]
        above, equal = some > least[surplus], some == least[surplus]
        missing = k - np.count_nonzero(above, axis=1)
        chosen[surplus] = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= missing[:, None]))
    found = np.nonzero(chosen)[1].reshape(rows, k)
    order = np.argsort(-np.take_along_axis(values, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


@dataclass(frozen=True)
class KeepsK(Codec):
    """A codec that keeps the k highest probabilities or scores."""

    k: int = 10

    @classmethod
    def parse(cls, option: str) -> Codec:
        """See `Codec.parse`."""
        if not option:
            return cls()
        if option.isdecimal() and len(option) <= 4 and 1 <= int(option) <= MAX_K:
            return cls(int(option))
        raise UsageError(
            f"Codec '{cls.name}:{option}' is not valid.", found=f"K = {option!r}", expected=f"a whole number from 1 to {MAX_K}"
        )

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> Codec:
        """See `Codec.from_dict`."""
        if options.keys() != {"k"} or type(options["k"]) is not int or not 1 <= options["k"] <= MAX_K:
            raise ValueError(f"{cls.name} has no options {options}")
        return cls(options["k"])

    def to_dict(self) -> dict[str, Any]:
        """See `Codec.to_dict`."""
        return {"name": self.name, "k": self.k}


@final
@dataclass(frozen=True)
class TopK(KeepsK):
    """The k most probable classes of each view, class ids and float16 probabilities; for interchange.

    Layout (little-endian): `u2 ids [V, K]` (`u4` when C > 65536), then `f2 probs [V, K]`, K = min(k, C), classes by falling
    probability, ties by rising id. The remainder is one minus the sum of a row's stored probabilities. float16 is rounded
    to nearest, and towards zero in rows whose sum would pass one, so that a remainder is never negative (`half_floats.py`).
    """

    name: ClassVar[str] = "topk"
    form: ClassVar[str] = "topk:K"
    drops_remainder: ClassVar[bool] = True
    keeps_top: ClassVar[bool] = True
    description: ClassVar[str] = "the K likeliest classes, half floats"

    def encode(self, probs: np.ndarray) -> bytes:
        """See `Codec.encode`."""
        check_distributions(probs)
        k = min(self.k, probs.shape[1])
        order = top_columns(probs, k)
        return self.pack(order, np.take_along_axis(probs, order, axis=1), probs.shape[1])

    @staticmethod
    def pack(ids: np.ndarray, kept: np.ndarray, num_classes: int) -> bytes:
        """A record of given classes, int `[V, K]`, and their probabilities, float32 `[V, K]`, by falling probability."""
        stored = half_floats(ids, kept, num_classes - kept.shape[1])
        return ids.astype(_id_dtype(num_classes)).tobytes() + stored.tobytes()

    def decode(self, record: memoryview | bytes, view: int, num_views: int, num_classes: int) -> SparseLabel:
        """See `Codec.decode`."""
        return self._decode(record, view, view + 1, num_views, num_classes)[0]

    def decode_all(self, record: memoryview | bytes, num_views: int, num_classes: int) -> list[SparseLabel]:
        """See `Codec.decode_all`."""
        return self._decode(record, 0, num_views, num_views, num_classes)

    def _decode(self, record: memoryview | bytes, start: int, stop: int, num_views: int, num_classes: int) -> list[SparseLabel]:
        k = min(self.k, num_classes)
        if labels := topk_labels(record, start, stop - start, num_views, num_classes, k):
            return labels
        dtype = _id_dtype(num_classes)
        expected = num_views * k * (dtype.itemsize + 2)
        if len(record) != expected or not 0 <= start < stop <= num_views:
            raise damaged(
                "A record has the wrong length.",
                f"{len(record)} bytes, view {start} of {num_views}",
                f"{expected} bytes for topk:{self.k} and {num_classes} classes",
            )
        count = (stop - start) * k
        ids = np.frombuffer(record, dtype, count, start * k * dtype.itemsize).astype(np.int64).reshape(-1, k)
        stored = np.frombuffer(record, "<f2", count, num_views * k * dtype.itemsize + start * k * 2)
        probs = stored.astype(np.float32).reshape(-1, k)
        with np.errstate(invalid="ignore"):
            totals = probs.sum(axis=1, dtype=np.float64)
        # Written so that NaN fails too: every comparison with NaN is false.
        if not (probs.min() >= 0.0 and totals.max() <= 1.0 and int(ids.max()) < num_classes):
            raise damaged(
                "A record does not decode to a distribution.",
                f"lowest probability {probs.min():.3g}, highest sum {totals.max():.6g}, highest class id {ids.max()}",
                f"non-negative, sum <= 1, class ids below {num_classes}",
            )
        if k > 1 and not np.diff(np.sort(ids, axis=1), axis=1).all():
            raise damaged("A record names a class twice.", "equal class ids in a row", "each class at most once")
        if k < num_classes:
            return [SparseLabel(i, p, 1.0 - float(t)) for i, p, t in zip(ids, probs, totals, strict=True)]
        # Every class is listed, so there is no remainder: the rounding error is shared in proportion to the probabilities.
        whole = np.where(totals[:, None] > 0, probs / np.maximum(totals, 1e-30)[:, None], 1 / k).astype(np.float32)
        return [SparseLabel(i, p, 0.0) for i, p in zip(ids, whole, strict=True)]


def _id_dtype(num_classes: int) -> np.dtype[Any]:
    return np.dtype(f"<u{class_id_bytes(num_classes)}")
