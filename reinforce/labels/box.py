"""Box: the rectangle of an image that a view shows, and for which a label of the crop is computed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from reinforce.views.params import Field, PixelSpec


class Box(NamedTuple):
    """A rectangle of an image, in fractions of its height and width."""

    top: float
    left: float
    bottom: float
    right: float


WHOLE = Box(0.0, 0.0, 1.0, 1.0)


def box_of(params: np.ndarray, spec: PixelSpec, width: int, height: int) -> Box:
    """The rectangle of an image that a view shows, before ops such as rotation move the pixels.

    Args:
        params: Params of the view, int32 `[P]`.
        spec: Size of the view and layout of its params.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
    """
    value = {Field(f): int(v) for f, v in zip(spec.fields, params, strict=False) if f <= max(Field)}

    def along(start: Field, length: Field, resize: Field, window: Field, whole: int) -> tuple[float, float]:
        scale = value[length] / value.get(resize, spec.size)  # pixels of the image per pixel of the view
        first = value[start] + value.get(window, 0) * scale
        return first / whole, (first + spec.size * scale) / whole

    top, bottom = along(Field.CROP_TOP, Field.CROP_HEIGHT, Field.RESIZE_HEIGHT, Field.WINDOW_TOP, height)
    left, right = along(Field.CROP_LEFT, Field.CROP_WIDTH, Field.RESIZE_WIDTH, Field.WINDOW_LEFT, width)
    return Box(top, left, bottom, right)
