"""Codecs: the soft labels of one sample, float32 `[V, C]`, to the bytes of a record and back, one view at a time.

A codec is a small frozen class behind `Codec`; it opens no files. `parse_codec` reads the text form (`topk:10`). The byte
layouts are normative in FORMAT.md, "Records".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from reinforce.errors import LabelError, StoreError, UsageError
from reinforce.sparse import check_distributions

MAX_K = 1000
"""Largest k of `topk`."""

SparseRow = tuple[np.ndarray, np.ndarray, float]
"""`(class_ids int64 [k], probs float32 [k], remainder)` of one view."""


class Codec(ABC):
    """Distributions to bytes and back."""

    name: ClassVar[str]

    @abstractmethod
    def encode(self, probs: np.ndarray) -> bytes:
        """Encode the soft labels of one sample.

        Args:
            probs: float32 `[V, C]`, each row a distribution.

        Raises:
            LabelError: a row is not a distribution.
        """

    @abstractmethod
    def decode(self, record: memoryview | bytes, view: int, num_views: int, num_classes: int) -> SparseRow:
        """Decode the soft label of one view.

        Raises:
            LabelError: the record is damaged.
        """

    def decode_all(self, record: memoryview | bytes, num_views: int, num_classes: int) -> list[SparseRow]:
        """Decode the soft labels of all views; a codec that can do better than one by one overrides it."""
        return [self.decode(record, view, num_views, num_classes) for view in range(num_views)]

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Configuration for the manifest; `codec_from_dict` reads it."""


@final
@dataclass(frozen=True)
class TopK(Codec):
    """The k most probable classes of each view, class ids and float16 probabilities; for interchange.

    Layout (little-endian): `u2 ids [V, K]` (`u4` when C > 65536), then `f2 probs [V, K]`, K = min(k, C), classes by falling
    probability, ties by rising id. The remainder is one minus the sum of a row's stored probabilities. float16 is rounded
    to nearest, and towards zero in rows whose sum would pass one, so that a remainder is never negative.
    """

    k: int = 10
    name: ClassVar[str] = "topk"

    def encode(self, probs: np.ndarray) -> bytes:
        """See `Codec.encode`."""
        check_distributions(probs)
        k = min(self.k, probs.shape[1])
        order = np.argsort(-probs, axis=1, kind="stable")[:, :k]
        kept = np.take_along_axis(probs, order, axis=1)
        stored = kept.astype("<f2")
        over = stored.sum(axis=1, dtype=np.float64) > 1.0
        # A row may sum to a little over one within the tolerance; rounding alone cannot lower what a half float holds exactly.
        total = np.maximum(kept[over].sum(axis=1, dtype=np.float64, keepdims=True), 1.0)
        stored[over] = _towards_zero(kept[over] / total)
        return order.astype(_id_dtype(probs.shape[1])).tobytes() + stored.tobytes()

    def decode(self, record: memoryview | bytes, view: int, num_views: int, num_classes: int) -> SparseRow:
        """See `Codec.decode`."""
        return self._decode(record, view, view + 1, num_views, num_classes)[0]

    def decode_all(self, record: memoryview | bytes, num_views: int, num_classes: int) -> list[SparseRow]:
        """See `Codec.decode_all`."""
        return self._decode(record, 0, num_views, num_views, num_classes)

    def _decode(self, record: memoryview | bytes, start: int, stop: int, num_views: int, num_classes: int) -> list[SparseRow]:
        k = min(self.k, num_classes)
        dtype = _id_dtype(num_classes)
        expected = num_views * k * (dtype.itemsize + 2)
        if len(record) != expected or not 0 <= start < stop <= num_views:
            raise LabelError(
                "A record has the wrong length.",
                found=f"{len(record)} bytes, view {start} of {num_views}",
                expected=f"{expected} bytes for topk:{self.k} and {num_classes} classes",
                cause="a damaged file",
                fix="reinforce verify DIR",
            )
        count = (stop - start) * k
        ids = np.frombuffer(record, dtype, count, start * k * dtype.itemsize).astype(np.int64).reshape(-1, k)
        stored = np.frombuffer(record, "<f2", count, num_views * k * dtype.itemsize + start * k * 2)
        probs = stored.astype(np.float32).reshape(-1, k)
        with np.errstate(invalid="ignore"):
            totals = probs.sum(axis=1, dtype=np.float64)
        # NaN fails every comparison, infinity the one with one.
        if not (probs.min() >= 0.0 and totals.max() <= 1.0 and int(ids.max()) < num_classes):
            raise LabelError(
                "A record does not decode to a distribution.",
                found=f"lowest probability {probs.min():.3g}, highest sum {totals.max():.6g}, highest class id {ids.max()}",
                expected=f"non-negative, sum <= 1, class ids below {num_classes}",
                cause="a damaged file",
                fix="reinforce verify DIR",
            )
        if k > 1 and not np.diff(np.sort(ids, axis=1), axis=1).all():
            raise LabelError("A record names a class twice.", cause="a damaged file", fix="reinforce verify DIR")
        if k < num_classes:
            return [(i, p, 1.0 - float(t)) for i, p, t in zip(ids, probs, totals, strict=True)]
        # Every class is listed: the rounding goes where the mass is.
        whole = np.where(totals[:, None] > 0, probs / np.maximum(totals, 1e-30)[:, None], 1 / k).astype(np.float32)
        return [(i, p, 0.0) for i, p in zip(ids, whole, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """See `Codec.to_dict`."""
        return {"name": self.name, "k": self.k}


def _id_dtype(num_classes: int) -> np.dtype[Any]:
    return np.dtype("<u2") if num_classes <= 1 << 16 else np.dtype("<u4")


def _towards_zero(values: np.ndarray) -> np.ndarray:
    rounded = values.astype(np.float16)
    return np.where(rounded.astype(np.float32) > values, np.nextafter(rounded, np.float16(0)), rounded).astype("<f2")


def parse_codec(text: str) -> Codec:
    """Read a codec's text form, `topk` or `topk:K`.

    Raises:
        UsageError: unknown codec, or K out of range.
    """
    name, _, option = text.partition(":")
    if name != TopK.name:
        raise UsageError(f"There is no codec {name!r}.", expected="topk:K", fix="--codec topk:10")
    if option and not (option.isdecimal() and len(option) <= 4 and 1 <= int(option) <= MAX_K):
        raise UsageError(f"Codec {text!r} is not valid.", found=f"K = {option!r}", expected=f"a whole number from 1 to {MAX_K}")
    return TopK(int(option)) if option else TopK()


def codec_from_dict(config: dict[str, Any]) -> Codec:
    """The codec that a manifest names.

    Raises:
        StoreError: a codec or option this version does not know.
    """
    k = config.get("k")
    if config.keys() != {"name", "k"} or config["name"] != TopK.name or type(k) is not int or not 1 <= k <= MAX_K:
        raise StoreError(
            "The manifest's codec is not one this version can read.",
            found=config,
            expected='{"name": "topk", "k": 10}',
            cause="the data set was made by a newer version, or the manifest was edited",
            fix="pip install --upgrade reinforce",
        )
    return TopK(k)
