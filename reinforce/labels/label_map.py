"""Label map: the teacher's k highest scores at every position of one whole image, from which labels of crops are computed.

The teacher runs once per image instead of once per view; the label of any crop is pooled from the map afterwards. So this
label tells what the teacher saw at these positions within the whole image; it is not the teacher's answer for the crop alone.
Source: ReLabel (Yun et al. 2021, arXiv 2101.05022); FORMAT.md, "Records".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, final

import numpy as np

from reinforce.errors import LabelError
from reinforce.labels.box import WHOLE, Box
from reinforce.labels.codec import class_id_bytes, damaged
from reinforce.labels.sparse import SparseLabel
from reinforce.labels.topk import KeepsK, top_columns

MAX_GRID = 255
_HEADER = 2


class LabelMap(NamedTuple):
    """Scores of one image, h x w positions, K classes at each; every other class has the score 0.

    Attributes:
        class_ids: int64 `[h, w, K]`, without repetition at a position.
        scores: float32 `[h, w, K]`: logits minus one number per position, which does not change a softmax.
        num_classes: C.
    """

    class_ids: np.ndarray
    scores: np.ndarray
    num_classes: int

    def pool(self, box: Box = WHOLE) -> SparseLabel:
        """The label of a crop: the mean of the scores within it (RoIAlign with one bin), then a softmax over all classes."""
        height, width = self.class_ids.shape[:2]
        weights = np.outer(bin_weights(box.top, box.bottom, height), bin_weights(box.left, box.right, width))
        seen = weights != 0
        ids, inverse = np.unique(self.class_ids[seen], return_inverse=True)
        scores = np.bincount(inverse.ravel(), (self.scores[seen] * weights[seen][:, None]).ravel(), len(ids))
        others = self.num_classes - len(ids)
        highest = max(float(scores.max()), 0.0) if others else float(scores.max())
        kept, rest = np.exp(scores - highest), others * math.exp(-highest) if others else 0.0
        total = float(kept.sum()) + rest
        return SparseLabel(ids, (kept / total).astype(np.float32), rest / total)


def bin_weights(start: float, stop: float, cells: int) -> np.ndarray:
    """Weights of the cells of one axis in the mean over [start, stop], fractions of its length: float64 `[cells]`.

    The same as torchvision's `roi_align` on `[start * cells - 0.5, stop * cells - 0.5]` with one bin and `aligned=False`. A
    length below one cell counts as one cell. The length is divided into ceil(length) equal parts, and a sample is taken in
    the middle of each part, interpolated linearly between the two cells around it. Outside the centres of the first and the
    last cell, the value of that cell is used.
    """
    first = start * cells - 0.5
    length = max(stop * cells - 0.5 - first, 1.0)
    count = math.ceil(length - 1e-9)
    at = np.clip(first + (np.arange(count) + 0.5) * (length / count), 0.0, cells - 1)
    low = at.astype(np.int64)
    share = at - low
    weights = np.bincount(low, 1 - share, cells) + np.bincount(np.minimum(low + 1, cells - 1), share, cells)
    return weights / count


def mixed_label(own: SparseLabel, other: SparseLabel, share: float, num_classes: int) -> SparseLabel:
    """The label `share * own + (1 - share) * other`; both labels must spread their remainders evenly, as pooled labels do."""
    ids = np.union1d(own.class_ids, other.class_ids)
    probs, remainder = np.zeros(len(ids)), 0.0
    for label, part in ((own, share), (other, 1.0 - share)):
        each = part * label.remainder / max(1, num_classes - len(label.class_ids))
        row = np.full(len(ids), each)
        row[np.searchsorted(ids, label.class_ids)] = part * label.probs.astype(np.float64)
        probs += row
        remainder += each * (num_classes - len(ids))
    return SparseLabel(ids, probs.astype(np.float32), remainder)


@final
@dataclass(frozen=True)
class MapCodec(KeepsK):
    """The k highest scores of each position: class ids and half floats.

    Layout (little-endian): `u1` h, `u1` w, `u2 ids [h, w, K]` (`u4` when C > 65536), `f2 scores [h, w, K]`, K = min(k, C).
    What is stored are scores minus the level of their position. The level stands for the scores of all classes not kept
    there. It lies half-way between the mean of these scores and the logarithm of the mean of their exponentials, because
    pooling over positions brings scores closer to each other.
    """

    name: ClassVar[str] = "map"
    form: ClassVar[str] = "map:K"
    labels: ClassVar[str] = "map"
    description: ClassVar[str] = "label maps: the K highest scores of each position (--labels map)"

    def encode(self, answers: np.ndarray) -> bytes:
        """Encode one map, float32 `[1, h, w, C]`; see `Codec.encode`."""
        if answers.ndim != 4 or len(answers) != 1 or not 1 <= min(answers.shape[1:3]) <= max(answers.shape[1:3]) <= MAX_GRID:
            raise LabelError("A label map has the wrong shape.", found=answers.shape, expected="[1, h, w, C], h and w to 255")
        if not np.isfinite(answers).all():
            raise LabelError(
                "The teacher's scores hold NaN or infinity.",
                cause="weights that overflow in low precision",
                fix="try --precision fp32",
            )
        scores = answers[0].astype(np.float64)
        k = min(self.k, scores.shape[-1])
        ids = top_columns(scores.reshape(-1, scores.shape[-1]), k).reshape(*scores.shape[:2], k)
        kept = np.take_along_axis(scores, ids, axis=-1) - _level_of_the_rest(scores, ids)
        return self.pack(ids, np.clip(kept, -65504, 65504), scores.shape[-1])

    @staticmethod
    def pack(ids: np.ndarray, scores: np.ndarray, num_classes: int) -> bytes:
        """A record of given classes, int `[h, w, K]`, and their scores minus the level of all others, float `[h, w, K]`."""
        return bytes(ids.shape[:2]) + ids.astype(f"<u{class_id_bytes(num_classes)}").tobytes() + scores.astype("<f2").tobytes()

    def read(self, record: memoryview | bytes, num_classes: int) -> LabelMap:
        """The map of a record.

        Raises:
            LabelError: the record is damaged.
        """
        k, id_bytes = min(self.k, num_classes), class_id_bytes(num_classes)
        height, width = record[:_HEADER] if len(record) >= _HEADER else (0, 0)
        count = height * width * k
        if not count or len(record) != _HEADER + count * (id_bytes + 2):
            raise damaged(
                "A record has the wrong length.",
                f"{len(record)} bytes for {height}x{width} positions",
                f"{_HEADER + count * (id_bytes + 2)} bytes, and at least one position",
            )
        ids = np.frombuffer(record, f"<u{id_bytes}", count, _HEADER).astype(np.int64).reshape(height, width, k)
        scores = np.frombuffer(record, "<f2", count, _HEADER + count * id_bytes).astype(np.float32).reshape(ids.shape)
        if int(ids.max()) >= num_classes or not np.isfinite(scores).all():
            raise damaged(
                "A label map is not valid.",
                f"class id {ids.max()}, or a score that is not finite",
                f"class ids below {num_classes}, finite scores",
            )
        if k > 1 and not np.diff(np.sort(ids, axis=-1), axis=-1).all():
            raise damaged("A record names a class twice.", "equal class ids at a position", "each class at most once")
        return LabelMap(ids, scores, num_classes)

    def decode(self, record: memoryview | bytes, view: int, num_views: int, num_classes: int) -> SparseLabel:
        """The label of the whole image; see `Codec.decode`."""
        return self.read(record, num_classes).pool()

    def decode_all(self, record: memoryview | bytes, num_views: int, num_classes: int) -> list[SparseLabel]:
        """The label of the whole image; see `Codec.decode_all`."""
        return [self.read(record, num_classes).pool()]

    def decode_crops(self, record: memoryview | bytes, boxes: Sequence[Box], num_classes: int) -> list[SparseLabel]:
        """The label of each crop; see `Codec.decode_crops`."""
        label_map = self.read(record, num_classes)
        return [label_map.pool(box) for box in boxes]

    def probabilities(self, answers: np.ndarray) -> np.ndarray:
        """The teacher's distribution for the whole image, float32 `[1, C]`: a softmax over the mean of its scores."""
        scores = answers.mean(axis=(1, 2), dtype=np.float64)
        odds = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=-1, keepdims=True), np.float32)


def _level_of_the_rest(scores: np.ndarray, kept_ids: np.ndarray) -> np.ndarray:
    """The level (see `MapCodec`) of the classes that are not kept, float64 `[h, w, 1]`, from scores float64 `[h, w, C]`."""
    number = scores.shape[-1] - kept_ids.shape[-1]
    if not number:
        made: np.ndarray = np.max(scores, axis=-1, keepdims=True)
        return made
    rest = scores.copy()
    np.put_along_axis(rest, kept_ids, -np.inf, axis=-1)
    highest = rest.max(axis=-1, keepdims=True)
    of_mean = highest + np.log(np.exp(rest - highest).sum(axis=-1, keepdims=True) / number)
    np.put_along_axis(rest, kept_ids, 0.0, axis=-1)
    mean = rest.sum(axis=-1, keepdims=True) / number
    return np.asarray((mean + of_mean) / 2)
