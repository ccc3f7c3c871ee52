"""Colour and filter ops: uint8 `[3, H, W]` in, uint8 `[3, H, W]` out, parameters final integers.

Semantics are those of timm's `rand-m*` ops, which are Pillow's ImageOps and ImageEnhance; arithmetic is integer, so the
result is one and the same on every machine. Where Pillow computes in float the two can differ by one level (measured in
tests/views/test_ops.py). Point ops are tables of 256 entries. For speed each op uses the narrowest integer type that holds all
its terms; tests/views/test_exact.py compares it with the same op written in wide integers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reinforce.views import kernels
from reinforce.views.params import Q16

_IDENTITY = np.arange(256, dtype=np.uint8)
_LEVELS = np.arange(256, dtype=np.int64)
_THIRTEENTH = ((2 * np.arange(13 * 255 + 1) + 13) // 26).astype(np.int16)  # to nearest


def invert(image: np.ndarray) -> np.ndarray:
    """255 - value."""
    pixels: np.ndarray = np.subtract(255, image, dtype=np.uint8)
    return pixels


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Keep the `bits` highest bits; 8 or more leave the image as it is."""
    return image if bits >= 8 else image & np.uint8(256 - (1 << (8 - max(bits, 0))))


def solarize(image: np.ndarray, threshold: int) -> np.ndarray:
    """Invert the values that are at least `threshold`."""
    return _mapped(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def solarize_add(image: np.ndarray, addend: int) -> np.ndarray:
    """Add `addend` to the values below 128."""
    return _mapped(image, np.where(_LEVELS < 128, np.clip(_LEVELS + addend, 0, 255), _LEVELS))


def auto_contrast(image: np.ndarray) -> np.ndarray:
    """Stretch each channel to 0..255."""
    return _per_channel(image, _auto_contrast_table)


def equalize(image: np.ndarray) -> np.ndarray:
    """Flatten the histogram of each channel."""
    return _per_channel(image, _equalize_table)


def brightness(image: np.ndarray, factor: int) -> np.ndarray:
    """Blend with black; `factor` in Q16, 0 is black, Q16 the image."""
    return _mapped(image, np.clip(_LEVELS * factor >> 16, 0, 255))


def contrast(image: np.ndarray, factor: int) -> np.ndarray:
    """Blend with the mean grey level; `factor` in Q16."""
    total, size = _luma_sum(image), image[0].size
    mean = (2 * total + size) // (2 * size)
    return _mapped(image, np.clip((mean * Q16 + factor * (_LEVELS - mean)) >> 16, 0, 255))


def color(image: np.ndarray, factor: int) -> np.ndarray:
    """Blend with the grey image; `factor` in Q16."""
    if kernels.compiled is not None:
        return kernels.made("blend_grey", image, image[0].size, factor)
    return _blend(_luma(image), image, factor)


def sharpness(image: np.ndarray, factor: int) -> np.ndarray:
    """Blend with the smoothed image; `factor` in Q16. The outermost pixels are not smoothed."""
    if kernels.compiled is not None:
        return kernels.made("sharpen", image, *image.shape[1:], factor)
    wide = image.astype(np.int16)
    smooth = wide.copy()
    if min(image.shape[1:]) >= 3:
        rows = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
        total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * wide[:, 1:-1, 1:-1]
        smooth[:, 1:-1, 1:-1] = _THIRTEENTH.take(total)
    return _blend(smooth, image, factor)


def gaussian_blur(image: np.ndarray, radius: int) -> np.ndarray:
    """Three passes of a box filter along each axis; the box is 2 radius + 1 pixels wide, `radius` in Q16.

    The fraction of `radius` is the weight of the two outermost pixels of the box. Pillow approximates a Gaussian like this
    (Gwosdek et al. 2011). Pixels outside of the image repeat the edge; each pass is rounded to nearest.
    """
    if kernels.compiled is not None:
        return kernels.made("blur", image, *image.shape[1:], radius)
    for axis in (2, 1):
        for _ in range(3):
            image = _box_blur(image, radius, axis)
    return image


def _box_blur(image: np.ndarray, radius: int, axis: int) -> np.ndarray:
    whole, fraction = radius >> 16, radius & (Q16 - 1)
    reach, length = whole + 1, image.shape[axis]
    padded = np.pad(image, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge").astype(np.uint32)

    def shifted(first: int) -> np.ndarray:
        return padded[tuple(slice(first, first + length) if a == axis else slice(None) for a in range(3))]

    total = shifted(1).copy()
    for k in range(2, 2 * reach):
        total += shifted(k)
    weight = 2 * radius + Q16  # for the largest radius, 255 times this is below 2^30: uint32 holds the sums
    total *= Q16
    total += fraction * (shifted(0) + shifted(2 * reach)) + weight // 2
    return (total // weight).astype(np.uint8)


def _blend(degenerate: np.ndarray, image: np.ndarray, factor: int) -> np.ndarray:
    # degenerate + factor * (image - degenerate), rounded down. |factor| <= MAX_FACTOR keeps every term within int32.
    base = degenerate.astype(np.int32)
    scaled = np.subtract(image, base, dtype=np.int32)
    scaled *= np.int32(factor)
    scaled >>= 16
    scaled += base
    pixels: np.ndarray = np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)
    return pixels


def _luma(image: np.ndarray) -> np.ndarray:
    # ITU-R 601-2 with Pillow's integer weights. uint8 [3, H, W] -> int32 [H, W]
    r, g, b = image.astype(np.int32)
    luma: np.ndarray = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16
    return luma


def _luma_sum(image: np.ndarray) -> int:
    if kernels.compiled is None:
        return int(_luma(image).sum())
    total = np.empty(1, np.int64)
    kernels.compiled.luma_sum(np.ascontiguousarray(image), total, image[0].size)
    return int(total[0])


def _mapped(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    if kernels.compiled is not None:
        return kernels.made("look_up", image, np.tile(table.astype(np.uint8), 3), image[0].size)
    return table.astype(np.uint8).take(image)


def _per_channel(image: np.ndarray, table_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    if kernels.compiled is not None:
        image, histograms = np.ascontiguousarray(image), np.empty((3, 256), np.int64)
        kernels.compiled.histograms(image, histograms, image[0].size)
        return kernels.made("look_up", image, np.stack([table_of(each) for each in histograms]), image[0].size)
    return np.stack([_mapped(channel, table_of(np.bincount(channel.ravel(), minlength=256))) for channel in image])


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
    table: np.ndarray = np.clip((step // 2 + below) // step, 0, 255).astype(np.uint8)
    return table
