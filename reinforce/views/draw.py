"""Draw: from a generator and a policy to the params of one view. All randomness and all floats of the pixel path end here.

Enters: a `numpy.random.Generator`, a policy, the view's size and the decoded image's. Leaves: int32 params, without the
columns of mixing, which concern two samples (`mix.py`). RandomResizedCrop and random erasing (arXiv 1708.04896) as in
torchvision and timm: ten tries, then the central crop, or nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reinforce.policy import Policy
from reinforce.views.augment import draw_slots, resize_interpolation
from reinforce.views.params import Q16, Interpolation, Op

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
    if policy.crop == "pad":
        row, shift = _padded(rng, policy, size, width, height)
    else:
        row, shift = list(_random_resized_crop(rng, policy, width, height)), None
    interpolation = resize_interpolation(rng, policy.interpolation)
    row += [interpolation, int(rng.random() < policy.hflip)]
    slots = shift_slots(*shift, bool(row[-1]), size) if shift else []
    slots += draw_slots(rng, policy, size)
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


def _padded(rng: np.random.Generator, policy: Policy, size: int, width: int, height: int) -> tuple[list[int], tuple[int, int]]:
    """Crop, resize and window of a view that is cut from the image with a border around it, and the shift over that border."""
    row = shorter_side(size, width, height)
    ends = [side - size + policy.crop_pad for side in row[4:6]]
    first = [int(rng.integers(-policy.crop_pad, end, endpoint=True)) for end in ends]
    return place_window(row, first, size)


def shorter_side(size: int, width: int, height: int) -> list[int]:
    """Crop box and resized height and width of the whole image, its shorter side resized to `size`: as torchvision's Resize."""
    longer = int(size * max(width, height) / min(width, height))
    return [0, 0, height, width, *((longer, size) if width <= height else (size, longer))]


def place_window(resized: list[int], first: Sequence[int], size: int) -> tuple[list[int], tuple[int, int]]:
    """Put a window that may reach past the resized image: the nearest window within it, and what is left of the way.

    Args:
        resized: Crop box, resized height and width.
        first: First row and first column of the window, from that of the resized image; may be negative.
        size: Height and width of a view in pixels.

    Returns:
        Crop box, resized height and width, window; rows and columns by which the window lies beyond: what is shown moves up
        and to the left by as much.
    """
    inside = [min(max(at, 0), side - size) for at, side in zip(first, resized[4:6], strict=True)]
    return [*resized, *inside], (first[0] - inside[0], first[1] - inside[1])


def shift_slots(rows: int, columns: int, mirrored: bool, size: int) -> list[int]:
    """Two op slots that move a view, mirrored already, up by `rows` and left by `columns` of what it was before."""
    sideways = -columns if mirrored else columns
    moves = ((Op.TRANSLATE_X, sideways), (Op.TRANSLATE_Y, rows))
    return [v for op, by in moves for v in (int(op), int(Interpolation.NEAREST), round(by / size * Q16), 0)]


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
