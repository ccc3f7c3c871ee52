"""The ops of FORMAT.md as plainly as they can be written, in wide integers, on `[H, W, 3]`: what the fast ones must equal."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from reinforce.views.params import Q16, Interpolation


class OnPixels:
    """The functions of a module that take `[3, H, W]`, taking `[H, W, 3]`."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        function = getattr(self.module, name)
        return lambda image, *given: function(np.ascontiguousarray(image.transpose(2, 0, 1)), *given).transpose(1, 2, 0)


_IDENTITY = np.arange(256, dtype=np.uint8)
_LEVELS = np.arange(256, dtype=np.int64)


def invert(image: np.ndarray) -> np.ndarray:
    """255 - value."""
    return np.subtract(255, image, dtype=np.uint8)


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the `bits` highest bits; 8 or more leave the image as it is."""
    return image if bits >= 8 else image & np.uint8(256 - (1 << (8 - max(bits, 0))))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Invert the values that are at least `threshold`."""
    return np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS).astype(np.uint8)[image]


def solarize_add(image: np.ndarray, addend: int) -> np.ndarray:
    """Add `addend` to the values below 128."""
    return np.where(_LEVELS < 128, np.clip(_LEVELS + addend, 0, 255), _LEVELS).astype(np.uint8)[image]


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0..255."""
    return _per_channel(image, _auto_contrast_table)


def equalize(image: np.ndarray) -> np.ndarray:
    """Flatten the histogram of each channel."""
    return _per_channel(image, _equalize_table)


def brightness(image: np.ndarray, factor: int) -> np.ndarray:
    """Blend with black; `factor` in Q16, 0 is black, Q16 the image."""
    return np.clip(_LEVELS * factor >> 16, 0, 255).astype(np.uint8)[image]


def contrast(image: np.ndarray, factor: int) -> np.ndarray:
    """Blend with the mean grey level; `factor` in Q16."""
    luma = _luma(image)
    mean = (2 * int(luma.sum()) + luma.size) // (2 * luma.size)
    return np.clip((mean * Q16 + factor * (_LEVELS - mean)) >> 16, 0, 255).astype(np.uint8)[image]


def color(image: np.ndarray, factor: int) -> np.ndarray:
    """Blend with the grey image; `factor` in Q16."""
    return _blend(_luma(image)[:, :, None], image, factor)


def sharpness(image: np.ndarray, factor: int) -> np.ndarray:
    """Blend with the smoothed image; `factor` in Q16. The outermost pixels are not smoothed."""
    wide = image.astype(np.int32)
    smooth = wide.copy()
    if min(image.shape[:2]) >= 3:
        rows = wide[:-2] + wide[1:-1] + wide[2:]
        total = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] + 4 * wide[1:-1, 1:-1]
        smooth[1:-1, 1:-1] = (2 * total + 13) // 26
    return _blend(smooth, image, factor)


def gaussian_blur(image: np.ndarray, radius: int) -> np.ndarray:
    """Three boxes along each axis, of 2 radius + 1 pixels; `radius` in Q16, the outermost pixels counted by its fraction.

    How Pillow approximates a Gaussian (Gwosdek et al. 2011); edges are repeated, every pass is rounded to nearest.
    """
    for axis in (1, 0):
        for _ in range(3):
            image = _box_blur(image, radius, axis)
    return image


def _box_blur(image: np.ndarray, radius: int, axis: int) -> np.ndarray:
    whole, fraction = radius >> 16, radius & (Q16 - 1)
    reach, length = whole + 1, image.shape[axis]
    padding = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
    wide = np.pad(image, padding, mode="edge").astype(np.int64)
    shifted = [wide.take(range(k, k + length), axis) for k in range(2 * reach + 1)]
    weight = 2 * radius + Q16
    total = Q16 * sum(shifted[1:-1]) + fraction * (shifted[0] + shifted[-1])
    return ((total + weight // 2) // weight).astype(np.uint8)


def _blend(degenerate: np.ndarray, image: np.ndarray, factor: int) -> np.ndarray:
    # degenerate + factor * (image - degenerate), rounded down: |factor| <= 2 * Q16 keeps every term within int32.
    base = degenerate.astype(np.int32)
    return np.clip(base + ((np.int32(factor) * (image - base)) >> 16), 0, 255).astype(np.uint8)


def _luma(image: np.ndarray) -> np.ndarray:
    # ITU-R 601-2 with Pillow's integer weights. uint8 [H, W, 3] -> int32 [H, W]
    r, g, b = (image[:, :, c].astype(np.int32) for c in range(3))
    return (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16


def _per_channel(image: np.ndarray, table_of: object) -> np.ndarray:
    out = np.empty_like(image)
    for c in range(3):
        channel = image[:, :, c]
        histogram = np.bincount(channel.ravel(), minlength=256)
        out[:, :, c] = table_of(histogram)[channel]  # type: ignore[operator]
    return out


def _auto_contrast_table(histogram: np.ndarray) -> np.ndarray:
    used = np.flatnonzero(histogram)
    low, high = int(used[0]), int(used[-1])
    if high <= low:
        return _IDENTITY
    return np.clip((_LEVELS - low) * 255 // (high - low), 0, 255).astype(np.uint8)


def _equalize_table(histogram: np.ndarray) -> np.ndarray:
    used = histogram[histogram > 0]
    step = int(used.sum() - used[-1]) // 255
    if len(used) <= 1 or step == 0:
        return _IDENTITY
    below = np.cumsum(histogram) - histogram
    return np.clip((step // 2 + below) // step, 0, 255).astype(np.uint8)


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
