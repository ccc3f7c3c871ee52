"""Geometric ops in fixed point: rotate, shear, translate of uint8 `[3, H, W]`, parameters final integers.

An output pixel's centre is mapped back to a source position in units of 1/2^17 pixel, rounded to 1/256 pixel, and the
pixels around it are weighed with integer tables. Semantics are those of Pillow's `transform(AFFINE)` and `rotate`, which
timm's ops call: positions outside the image take the fill, taps past the edge repeat it. Pillow computes in double and
rounds down; the difference is bounded in tests/views/test_ops.py.

Weights of one axis and their products with pixels stay below 2^24, so float32 holds them exactly; it is used because numpy
multiplies it faster. tests/views/test_exact.py compares every bit with integer arithmetic as FORMAT.md defines it.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from reinforce.views import kernels
from reinforce.views.params import Q16, Interpolation

_ONE = 2 * Q16  # one pixel, in position units
_PHASES = 256
_WEIGHT_BITS = 11  # weights of one axis sum to 2^11
_HALF_STEP = _ONE // _PHASES // 2  # rounds to 1/256 pixel

RGB = tuple[int, int, int]


def _bilinear_table() -> np.ndarray:
    t = np.arange(_PHASES)
    return np.stack([_PHASES - t, t]) << (_WEIGHT_BITS - 8)


def _bicubic_table() -> np.ndarray:
    # The cubic kernel of Pillow's transform (a = -1), exact over 256^3, rounded so that each column sums to 2^11.
    t = np.arange(_PHASES)
    n = _PHASES
    taps = np.stack([-t * n**2 + 2 * t**2 * n - t**3, n**3 - 2 * t**2 * n + t**3, t * n**2 + t**2 * n - t**3, t**3 - t**2 * n])
    table = (taps + (1 << 12)) >> 13  # 2^24 -> 2^11, to nearest
    table[np.where(t < n // 2, 1, 2), t] += (1 << _WEIGHT_BITS) - table.sum(axis=0)
    return table


# Interpolation -> weights [taps, phases]; the first tap is 1 - taps / 2 pixels to the right.
_TABLES = {
    Interpolation.NEAREST: np.full((1, _PHASES), 1 << _WEIGHT_BITS),
    Interpolation.BILINEAR: _bilinear_table(),
    Interpolation.BICUBIC: _bicubic_table(),
}


# The same, as the kernels take them: int16, contiguous.
_COMPILED_TABLES = {interpolation: np.ascontiguousarray(table, np.int16) for interpolation, table in _TABLES.items()}


def rotate(image: np.ndarray, interpolation: int, cos: int, sin: int, fill: RGB) -> np.ndarray:
    """Rotate about the centre; `cos` and `sin` in Q16 map a view's pixel back to its source."""
    height, width = image.shape[1:]
    if kernels.compiled is not None:
        table = _COMPILED_TABLES[Interpolation(interpolation)]
        return kernels.made("rotate", image, table, np.array(fill, np.uint8), height, width, len(table), cos, sin)
    # Positions that a policy draws fit in 32 bits; positions from damaged params may need 64.
    narrow = max(abs(cos), abs(sin)) <= Q16 and max(height, width) <= 1 << 12
    dtype = np.int32 if narrow else np.int64
    x = (2 * np.arange(width) + 1 - width).astype(dtype)[None, :]  # twice the offset from the centre, so that it is whole
    y = (2 * np.arange(height) + 1 - height).astype(dtype)[:, None]
    return _sampled(image, cos * x + sin * y + width * Q16, cos * y - sin * x + height * Q16, interpolation, fill)


def shear_x(image: np.ndarray, interpolation: int, coefficient: int, fill: RGB) -> np.ndarray:
    """Source x = x + coefficient * y, both measured at pixel centres; `coefficient` in Q16."""
    return _shifted(image, coefficient * (2 * np.arange(image.shape[1]) + 1), interpolation, fill)


def shear_y(image: np.ndarray, interpolation: int, coefficient: int, fill: RGB) -> np.ndarray:
    """Source y = y + coefficient * x, both measured at pixel centres; `coefficient` in Q16."""
    turned = _transposed(image)
    return _transposed(_shifted(turned, coefficient * (2 * np.arange(image.shape[2]) + 1), interpolation, fill))


def translate_x(image: np.ndarray, interpolation: int, fraction: int, fill: RGB) -> np.ndarray:
    """Source x = x + fraction * width; `fraction` in Q16."""
    return _shifted(image, np.array([2 * fraction * image.shape[2]]), interpolation, fill)


def translate_y(image: np.ndarray, interpolation: int, fraction: int, fill: RGB) -> np.ndarray:
    """Source y = y + fraction * height; `fraction` in Q16."""
    height, width = image.shape[1:]
    if kernels.compiled is not None:
        table, colour = _COMPILED_TABLES[Interpolation(interpolation)], np.array(fill, np.uint8)
        return kernels.made("shift_columns", image, table, colour, height, width, len(table), 2 * fraction * height)
    return _shifted(image.swapaxes(1, 2), np.array([2 * fraction * height]), interpolation, fill).swapaxes(1, 2)


def _shifted(image: np.ndarray, offset: np.ndarray, interpolation: int, fill: RGB) -> np.ndarray:
    """Move each row along itself: the pixel at x comes from x + offset (units of 1/2^17 pixel).

    All pixels of a row lie at one distance from the pixel grid, so their taps are slices with one weight each.

    Args:
        image: uint8 `[3, R, L]`, any strides.
        offset: int64 `[R]`, or `[1]` for all rows.
        interpolation: Id.
        fill: Of pixels that come from outside.
    """
    rows, length = image.shape[1:]
    if kernels.compiled is not None:
        given, (red, green, blue) = _COMPILED_TABLES[Interpolation(interpolation)], np.array(fill, np.uint8).tolist()
        colour = red << 16 | green << 8 | blue
        return kernels.made("shift_rows", image, given, offset, rows, length, len(given), len(offset), colour)
    table = _TABLES[Interpolation(interpolation)]
    taps = len(table)
    inside = np.clip(offset + Q16 >> 17, -length, length)  # pixels before the row that are looked at first
    step = _HALF_STEP if taps > 1 else Q16
    whole = np.clip(offset + step >> 17, -length - 1, length)
    weights = (table / (1 << _WEIGHT_BITS)).astype(np.float32)[:, (offset + step >> 9) & (_PHASES - 1)]
    reach = int(np.abs(whole).max()) + taps
    padded = _empty_like(image, length + 2 * reach)
    padded[:, :, reach : reach + length] = image
    padded[:, :, :reach], padded[:, :, reach + length :] = image[:, :, :1], image[:, :, -1:]
    taken = _empty_like(image, length + taps - 1)
    for first, last in _runs(whole, rows):
        start = reach + int(whole[first]) + 1 - (taps + 1) // 2
        taken[:, first:last] = padded[:, first:last, start : start + length + taps - 1]
    if taps == 1:
        out = taken
    else:
        wide = taken.astype(np.float32)
        total = wide[:, :, :length] * weights[0][:, None]
        for k in range(1, taps):
            if weights[k].any():
                total += wide[:, :, k : k + length] * weights[k][:, None]
        out = np.clip(total, 0, 255, out=total).astype(np.uint8)
    for first, last in _runs(inside, rows):
        n = int(inside[first])
        out[:, first:last, : max(0, -n)] = out[:, first:last, max(0, length - n) :] = np.array(fill, np.uint8)[:, None, None]
    return out


def _transposed(image: np.ndarray) -> np.ndarray:
    if kernels.compiled is None:
        return np.ascontiguousarray(image.swapaxes(1, 2))
    height, width = image.shape[1:]
    return kernels.made("transpose", image, height, width).reshape(3, width, height)


def _runs(values: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Runs of equal neighbours: [first, last) of each; an array of one value is one run of `count`."""
    if len(values) == 1:
        return [(0, count)]
    cuts = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), count]
    return list(pairwise(cuts))


def _empty_like(image: np.ndarray, length: int) -> np.ndarray:
    return np.empty_like(image, shape=(*image.shape[:2], length))


def _sampled(image: np.ndarray, x: np.ndarray, y: np.ndarray, interpolation: int, fill: RGB) -> np.ndarray:
    """Sample at any positions.

    Args:
        image: uint8 `[3, H, W]`.
        x: Integer `[H, W]`, units of 1/2^17 pixel; y likewise.
        y: See `x`.
        interpolation: Id.
        fill: Of pixels that come from outside.
    """
    height, width = image.shape[1:]
    outside = (x < 0) | (x >= width * _ONE) | (y < 0) | (y >= height * _ONE)
    table = _TABLES[Interpolation(interpolation)]
    taps = len(table)
    border = taps
    padded = np.empty((3, height + 2 * border, width + 2 * border), np.float32)
    padded[:, border : border + height, border : border + width] = image
    padded[:, border : border + height, :border] = image[:, :, :1]
    padded[:, border : border + height, border + width :] = image[:, :, -1:]
    padded[:, :border], padded[:, border + height :] = padded[:, border : border + 1], padded[:, border + height - 1, None]
    stride, first = padded.shape[2], border + 1 - (taps + 1) // 2
    if taps > 1:
        x, y = x + (_HALF_STEP - Q16), y + (_HALF_STEP - Q16)
    # Pixels from outside are filled at the end; until then their positions are clipped to be readable.
    columns, rows = np.clip(x >> 17, -1, width - 1) + first, np.clip(y >> 17, -1, height - 1) + first
    index = (rows * stride + columns).astype(np.intp).ravel()
    phase_x, phase_y = ((x >> 9) & (_PHASES - 1)).astype(np.intp).ravel(), ((y >> 9) & (_PHASES - 1)).astype(np.intp).ravel()
    weights_x = [w.take(phase_x) for w in table.astype(np.float32)]
    weights_y = [w.take(phase_y) for w in table.astype(np.int32)]
    out = np.empty(image.shape, np.uint8)
    for plane, result in zip(padded.reshape(3, -1), out.reshape(3, -1), strict=True):
        total = np.zeros(len(index), np.int32)
        for r, weight_y in enumerate(weights_y):
            row = plane[r * stride :].take(index) * weights_x[0]
            for c in range(1, taps):
                row += plane[r * stride + c :].take(index) * weights_x[c]
            total += row.astype(np.int32) * weight_y
        result[:] = np.clip(total >> (2 * _WEIGHT_BITS), 0, 255)
    out[:, outside] = np.array(fill, np.uint8)[:, None]
    return out
