"""Geometric ops in fixed point: rotate, shear, translate of uint8 `[H, W, 3]`, parameters final integers.

An output pixel's centre is mapped back to a source position in units of 1/2^17 pixel, rounded to 1/256 pixel, and the
pixels around it are weighed with integer tables. Semantics are those of Pillow's `transform(AFFINE)` and `rotate`, which
timm's ops call: positions outside the image take the fill, taps past the edge repeat it. Pillow computes in double and
rounds down; the difference is bounded in tests/test_warp.py.
"""

from __future__ import annotations

import numpy as np

from reinforce.params import Q16, Interpolation

_ONE = 2 * Q16  # one pixel, in position units
_PHASES = 256
_WEIGHT_BITS = 11  # weights of one axis sum to 2^11


def _bilinear_table() -> np.ndarray:
    t = np.arange(_PHASES)
    return np.stack([_PHASES - t, t], axis=1) << (_WEIGHT_BITS - 8)


def _bicubic_table() -> np.ndarray:
    # The cubic kernel of Pillow's transform (a = -1), exact over 256^3, rounded so that each row sums to 2^11.
    t = np.arange(_PHASES)
    n = _PHASES
    taps = np.stack(
        [-t * n**2 + 2 * t**2 * n - t**3, n**3 - 2 * t**2 * n + t**3, t * n**2 + t**2 * n - t**3, t**3 - t**2 * n], axis=1
    )
    table = (taps + (1 << 12)) >> 13  # 2^24 -> 2^11, to nearest
    table[t, np.where(t < n // 2, 1, 2)] += (1 << _WEIGHT_BITS) - table.sum(axis=1)
    return table


_TABLES = {Interpolation.BILINEAR: _bilinear_table(), Interpolation.BICUBIC: _bicubic_table()}


def rotate(image: np.ndarray, interpolation: int, cos: int, sin: int, fill: tuple[int, int, int]) -> np.ndarray:
    """Rotate about the centre; `cos` and `sin` in Q16 map a view's pixel back to its source."""
    height, width = image.shape[:2]
    x = 2 * np.arange(width)[None, :] + 1 - width  # twice the offset from the centre, so that it is whole
    y = 2 * np.arange(height)[:, None] + 1 - height
    return _warp(image, cos * x + sin * y + width * Q16, -sin * x + cos * y + height * Q16, interpolation, fill)


def shear_x(image: np.ndarray, interpolation: int, coefficient: int, fill: tuple[int, int, int]) -> np.ndarray:
    """Source x = x + coefficient * y, both measured at pixel centres; `coefficient` in Q16."""
    x, y = _centres(image)
    return _warp(image, x * Q16 + coefficient * y, y * Q16, interpolation, fill)


def shear_y(image: np.ndarray, interpolation: int, coefficient: int, fill: tuple[int, int, int]) -> np.ndarray:
    """Source y = y + coefficient * x, both measured at pixel centres; `coefficient` in Q16."""
    x, y = _centres(image)
    return _warp(image, x * Q16, y * Q16 + coefficient * x, interpolation, fill)


def translate_x(image: np.ndarray, interpolation: int, fraction: int, fill: tuple[int, int, int]) -> np.ndarray:
    """Source x = x + fraction * width; `fraction` in Q16."""
    x, y = _centres(image)
    return _warp(image, x * Q16 + 2 * fraction * image.shape[1], y * Q16, interpolation, fill)


def translate_y(image: np.ndarray, interpolation: int, fraction: int, fill: tuple[int, int, int]) -> np.ndarray:
    """Source y = y + fraction * height; `fraction` in Q16."""
    x, y = _centres(image)
    return _warp(image, x * Q16, y * Q16 + 2 * fraction * image.shape[0], interpolation, fill)


def _centres(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Twice the pixel centres: [1, W] and [H, 1].
    return 2 * np.arange(image.shape[1])[None, :] + 1, 2 * np.arange(image.shape[0])[:, None] + 1


def _warp(image: np.ndarray, x: np.ndarray, y: np.ndarray, interpolation: int, fill: tuple[int, int, int]) -> np.ndarray:
    """Sample `image` at positions `x`, `y` (units of 1/2^17 pixel, broadcastable to `[H, W]`)."""
    height, width = image.shape[:2]
    outside = (x < 0) | (x >= width * _ONE) | (y < 0) | (y >= height * _ONE)
    if interpolation == Interpolation.NEAREST:
        nearest = image[np.clip(y >> 17, 0, height - 1), np.clip(x >> 17, 0, width - 1)]
        nearest[np.broadcast_to(outside, nearest.shape[:2])] = fill
        return nearest
    table = _TABLES[Interpolation(interpolation)]
    columns = _taps(x, width, table)
    rows = _taps(y, height, table)
    source = image.reshape(-1, 3).astype(np.int32)
    total: np.ndarray | int = 0
    for row, row_weight in rows:
        for column, column_weight in columns:
            weight = row_weight * column_weight
            total = total + np.take(source, row * width + column, axis=0) * weight[:, :, None]
    out = np.clip(total >> (2 * _WEIGHT_BITS), 0, 255).astype(np.uint8)
    out[np.broadcast_to(outside, out.shape[:2])] = fill
    return out


def _taps(position: np.ndarray, length: int, table: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    # Pixel index (clamped to the image) and weight of each tap along one axis. Taps whose weight is 0 everywhere are left
    # out, which is what makes shears and translations, whole on one axis, four times cheaper than rotations.
    phase = position - Q16 + _ONE // _PHASES // 2  # the centre of pixel 0 is position 1/2; round to 1/256
    base = phase >> 17
    weights = table[(phase >> 9) & (_PHASES - 1)].astype(np.int32)
    first = 1 - table.shape[1] // 2
    return [(np.clip(base + first + k, 0, length - 1), weights[..., k]) for k in range(table.shape[1]) if weights[..., k].any()]
