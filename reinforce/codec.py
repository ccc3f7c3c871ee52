"""Codecs: the soft labels of one sample, float32 `[V, C]`, to the bytes of a record and back, one view at a time.

A codec is a small frozen class behind `Codec`; it opens no files. `parse_codec` reads the text form (`topk:10`). The byte
layouts are normative in FORMAT.md, "Records".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from reinforce.errors import LabelError, UsageError
from reinforce.sparse import check_distributions

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
        stored[over] = _towards_zero(kept[over])
        return order.astype(_id_dtype(probs.shape[1])).tobytes() + stored.tobytes()

    def decode(self, record: memoryview | bytes, view: int, num_views: int, num_classes: int) -> SparseRow:
        """See `Codec.decode`."""
        k = min(self.k, num_classes)
        dtype = _id_dtype(num_classes)
        expected = num_views * k * (dtype.itemsize + 2)
        if len(record) != expected or not 0 <= view < num_views:
            raise LabelError(
                "A record has the wrong length.",
                found=f"{len(record)} bytes, view {view} of {num_views}",
                expected=f"{expected} bytes for topk:{self.k} and {num_classes} classes",
                cause="a damaged file",
                fix="reinforce verify DIR",
            )
        ids = np.frombuffer(record, dtype, k, view * k * dtype.itemsize).astype(np.int64)
        probs = np.frombuffer(record, "<f2", k, num_views * k * dtype.itemsize + view * k * 2).astype(np.float32)
        total = float(probs.sum(dtype=np.float64))
        if not (np.isfinite(total) and probs.min() >= 0.0 and total <= 1.0 and int(ids.max()) < num_classes):
            raise LabelError(
                "A record does not decode to a distribution.",
                found=f"view {view}: probabilities from {probs.min():.3g}, sum {total:.6g}, highest class id {int(ids.max())}",
                expected=f"non-negative, sum <= 1, class ids below {num_classes}",
                cause="a damaged file",
                fix="reinforce verify DIR",
            )
        if k < num_classes:
            return ids, probs, 1.0 - total
        # Every class is listed: the rounding goes where the mass is.
        return ids, (probs / total if total > 0 else np.full(k, 1 / k)).astype(np.float32), 0.0

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
    if option and not (option.isdecimal() and 1 <= int(option) <= 1000):
        raise UsageError(f"Codec {text!r} is not valid.", found=f"K = {option!r}", expected="a whole number from 1 to 1000")
    return TopK(int(option)) if option else TopK()


def codec_from_dict(config: dict[str, Any]) -> Codec:
    """The codec that a manifest names.

    Raises:
        UsageError: a codec or option this version does not know.
    """
    options = {k: v for k, v in config.items() if k != "name"}
    if set(options) != {"k"} or not isinstance(options["k"], int):
        raise UsageError(
            "The manifest's codec is not one this version can read.", found=config, fix="pip install --upgrade reinforce"
        )
    return parse_codec(f"{config.get('name')}:{options['k']}")
