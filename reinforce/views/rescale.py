"""Rescale: the params of a view at another size than the teacher's. The boxes stay; the pixels are no longer the teacher's.

Crop boxes are in pixels of the image and stay as they are, geometric ops are in fractions of the view; what is in pixels of
the view is scaled: each edge to the nearest whole pixel, the width of a blur in the same proportion, up to the widest that
there is. SHARPNESS stays as it is: its smoothing is of 3x3 pixels at any size.
"""

from __future__ import annotations

import numpy as np

from reinforce.views.operations import OPERATIONS
from reinforce.views.params import OP_SLOT_BASE, OTHER_BASE, Field, PixelSpec

_SPANS = (
    (Field.ERASE_TOP, Field.ERASE_HEIGHT),
    (Field.ERASE_LEFT, Field.ERASE_WIDTH),
    (Field.BOX_TOP, Field.BOX_HEIGHT),
    (Field.BOX_LEFT, Field.BOX_WIDTH),
    (Field.PASTE_TOP, Field.PASTE_HEIGHT),
    (Field.PASTE_LEFT, Field.PASTE_WIDTH),
)


def rescale(params: np.ndarray, spec: PixelSpec, size: int) -> np.ndarray:
    """Params for views of `size` pixels from those for views of `spec.size`: int32 `[..., P]`, a copy where they differ."""
    if size == spec.size:
        return params
    result = params.copy()
    for start, length in _SPANS:
        first, second = spec.column(start), spec.column(length)
        if first is not None and second is not None:
            result[..., first], result[..., second] = _span(params[..., first], params[..., second], spec.size, size)
    for resized, window in ((Field.RESIZE_HEIGHT, Field.WINDOW_TOP), (Field.RESIZE_WIDTH, Field.WINDOW_LEFT)):
        first, second = spec.column(resized), spec.column(window)
        if first is not None and second is not None:
            whole = np.maximum(size, _scaled(params[..., first], spec.size, size))
            result[..., first] = whole
            result[..., second] = np.clip(_scaled(params[..., second], spec.size, size), 0, whole - size)
    growing = [operation.id for operation in OPERATIONS.values() if operation.scaled]
    slots = [column for column, field in enumerate(spec.fields) if OP_SLOT_BASE <= field < OTHER_BASE and field % 4 == 0]
    for *row, slot in np.argwhere(np.isin(params[..., slots], growing)).tolist():
        op, interpolation, a, b = (int(params[(*row, slots[slot] + i)]) for i in range(4))
        operation = OPERATIONS[op]
        if operation.scaled and not operation.fault(interpolation, a, b):  # damaged arguments are refused by `apply`
            result[(*row, slots[slot] + 2)] = operation.scaled(a, size / spec.size)
    if spec.other is not None:
        result[..., spec.other_columns] = rescale(params[..., spec.other_columns], spec.other, size)
    return result


def rescale_boxes(boxes: np.ndarray, old: int, new: int) -> np.ndarray:
    """Boxes int64 `[n, 4]` (top, left, height, width) of views of `old` pixels in views of `new`; as `rescale` does."""
    if old == new:
        return boxes
    top, height = _span(boxes[:, 0], boxes[:, 2], old, new)
    left, width = _span(boxes[:, 1], boxes[:, 3], old, new)
    return np.stack([top, left, height, width], axis=1)


def _scaled(values: np.ndarray, old: int, new: int) -> np.ndarray:
    return (2 * values.astype(np.int64) * new + old) // (2 * old)


def _span(start: np.ndarray, length: np.ndarray, old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    first = _scaled(start, old, new)
    return first, _scaled(start + length, old, new) - first
