"""Colour and filter ops: uint8 `[H, W, 3]` in, uint8 `[H, W, 3]` out, parameters final integers.

Semantics are those of timm's `rand-m*` ops, which are Pillow's ImageOps and ImageEnhance; arithmetic is integer, so the
result is one and the same on every machine. Where Pillow computes in float the two can differ by one level (measured in
tests/test_ops.py). Point ops are tables of 256 entries.
"""

from __future__ import annotations

import numpy as np

from reinforce.params import Q16

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
