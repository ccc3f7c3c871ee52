"""Draw: from a generator and a policy to the params of one view. All randomness and all floats of the pixel path end here.

Enters: a `numpy.random.Generator`, a policy, the view's size and the decoded image's. Leaves: int32 params, without the
columns of mixing, which concern two samples (`mix.py`). RandomResizedCrop and random erasing (arXiv 1708.04896) as in
torchvision and timm: ten tries, then the central crop, or nothing.
"""

from __future__ import annotations

import math

import numpy as np

from reinforce.policy import Policy
from reinforce.views.augment import draw_slots, resize_interpolation

_TRIES = 10


def draw(rng: np.random.Generator, policy: Policy, size: int, width: int, height: int) -> np.ndarray:
    """Draw one view of a `width` x `height` image.

    Returns:
        int32 `[P]`, columns as in `pixel_spec(policy, size).fields`, without those of mixing.
    """
    if policy.crop == "centre":
        row = _centre(policy, size, width, height)
        return np.array([*row, resize_interpolation(rng, policy.interpolation)], dtype=np.int32)
    if policy.crop == "whole":
        return np.array([0, 0, height, width, resize_interpolation(rng, policy.interpolation)], dtype=np.int32)
    top, left, crop_height, crop_width = _random_resized_crop(rng, policy, width, height)
    interpolation = resize_interpolation(rng, policy.interpolation)
    row = [top, left, crop_height, crop_width, interpolation, int(rng.random() < policy.hflip)]
    slots = draw_slots(rng, policy, size)
    if policy.reprob:
        row += _erased(rng, policy, size)
        if policy.remode == "pixel":
            row.append(int(rng.integers(1 << 31)) if row[-1] else 0)
    return np.array(row + slots, dtype=np.int32)


def _centre(policy: Policy, size: int, width: int, height: int) -> list[int]:
    shorter = max(size, math.floor(size / policy.crop_pct))
    if width <= height:
        resized_width, resized_height = shorter, max(size, int(shorter * height / width))
    else:
        resized_width, resized_height = max(size, int(shorter * width / height)), shorter
    top, left = round((resized_height - size) / 2), round((resized_width - size) / 2)
    return [0, 0, height, width, resized_height, resized_width, top, left]


def _random_resized_crop(rng: np.random.Generator, policy: Policy, width: int, height: int) -> tuple[int, int, int, int]:
    low, high = policy.ratio
    for _ in range(_TRIES):
        area = rng.uniform(*policy.scale) * width * height
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(0, height - crop_height, endpoint=True))
            left = int(rng.integers(0, width - crop_width, endpoint=True))
            return top, left, crop_height, crop_width
    crop_width, crop_height = width, height
    if width / height < low:
        crop_height = min(height, max(1, round(width / low)))
    elif width / height > high:
        crop_width = min(width, max(1, round(height * high)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def _erased(rng: np.random.Generator, policy: Policy, size: int) -> list[int]:
    """Top, left, height, width of what is erased, in pixels of the view; zeros: nothing."""
    if rng.random() >= policy.reprob:
        return [0, 0, 0, 0]
    low, high = policy.re_ratio
    for _ in range(_TRIES):
        area = rng.uniform(*policy.re_scale) * size * size
        aspect = math.exp(rng.uniform(math.log(low), math.log(high)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < height < size and 0 < width < size:
            top = int(rng.integers(0, size - height, endpoint=True))
            left = int(rng.integers(0, size - width, endpoint=True))
            return [top, left, height, width]
    return [0, 0, 0, 0]
