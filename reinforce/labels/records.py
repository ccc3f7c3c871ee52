"""Records: `sqrt` and `topk` decoded in C, where that was compiled, to the same bits as by the Python code (`_records.c`).

The installation compiles it if it can. Without it, or with REINFORCE_KERNELS=numpy, everything works, more slowly. A function
gives None if nothing is compiled, and if a record is damaged: the Python code then says how.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from itertools import accumulate, pairwise
from types import ModuleType

import numpy as np

from reinforce.labels.sparse import EVEN, SparseLabel, Tail

compiled: ModuleType | None
"""The compiled functions; None: there are none."""
try:
    compiled = import_module("reinforce.labels._records")
except ImportError:
    compiled = None

_FLOORS = tuple(2.0 ** (-byte / 4) for byte in range(256))
_INT64, _FLOAT32, _UINT8 = np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.uint8)
_Decompress = Callable[..., bytes]
_new, _array = tuple.__new__, np.ndarray  # faster than the classes' own __new__, and than np.frombuffer


def sqrt_label(
    record: memoryview | bytes, view: int, num_views: int, num_classes: int, most: int, decompress: _Decompress, steps: bytes
) -> SparseLabel | None:
    """The label of one view.

    Args:
        record: All of it.
        view: From 0 to V - 1.
        num_views: V.
        num_classes: C.
        most: Most bytes that a content may have.
        decompress: Of zstd.
        steps: Remainder of each step, float64 `[256]`.
    """
    if compiled is None or (read := compiled.sqrt(record, view, 1, num_views, num_classes, most, decompress, steps)) is None:
        return None
    data, classes, floor, kept, remainder = read
    own, levels = 8 * classes, 8 * classes + 12 * kept
    tail = _new(Tail, (_array(classes, _INT64, data), _array(classes, _UINT8, data, levels), _FLOORS[floor]))
    ids, probs = _array(kept, _INT64, data, own), _array(kept, _FLOAT32, data, own + 8 * kept)
    return _new(SparseLabel, (ids, probs, remainder, tail))


def sqrt_labels(
    record: memoryview | bytes, num_views: int, num_classes: int, most: int, decompress: _Decompress, steps: bytes
) -> list[SparseLabel] | None:
    """The labels of all views; otherwise as `sqrt_label`."""
    if compiled is None:
        return None
    read = compiled.sqrt(record, 0, num_views, num_views, num_classes, most, decompress, steps)
    if read is None:
        return None
    data, classes, floor, *each = read
    total = sum(each[::2])
    ids, probs = _array(total, _INT64, data, 8 * classes), _array(total, _FLOAT32, data, 8 * (classes + total))
    levels = _array(classes, _UINT8, data, 8 * classes + 12 * total)
    tail = Tail(_array(classes, _INT64, data), levels, _FLOORS[floor])
    cuts = pairwise(accumulate(each[::2], initial=0))
    return [SparseLabel(ids[a:b], probs[a:b], mass, tail) for (a, b), mass in zip(cuts, each[1::2], strict=True)]


def topk_labels(
    record: memoryview | bytes, first: int, count: int, num_views: int, num_classes: int, k: int
) -> list[SparseLabel] | None:
    """The labels of `count` views, at least one, from the view `first` on.

    Args:
        record: All of it.
        first: From 0 to V - 1.
        count: At most V - `first`.
        num_views: V.
        num_classes: C.
        k: Classes of each view.
    """
    if compiled is None or (read := compiled.topk(record, first, count, num_views, num_classes, k)) is None:
        return None
    data, *remainders = read
    if count == 1:
        ids, probs = _array(k, _INT64, data), _array(k, _FLOAT32, data, 8 * k)
        return [_new(SparseLabel, (ids, probs, remainders[0], EVEN))]
    rows, all_probs = _array((count, k), _INT64, data), _array((count, k), _FLOAT32, data, 8 * count * k)
    return [SparseLabel(i, p, mass) for i, p, mass in zip(rows, all_probs, remainders, strict=True)]
