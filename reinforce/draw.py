"""Draw: from a generator and a policy to the params of one view. All randomness and all floats of the pixel path end here.

Enters: a `numpy.random.Generator`, a policy, the view's size and the decoded image's. Leaves: int32 params.
Semantics: RandomResizedCrop as in torchvision and timm (ten tries, then the central crop); RandAugment as in timm
(`rand_augment_transform`): n ops with replacement, each applied with probability p, at a magnitude of normal(m, mstd)
clipped to 0..10.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from reinforce.params import GEOMETRIC_OPS, Q16, Interpolation, Op
from reinforce.policy import NonePolicy, RRCPolicy, RRCRandAugmentPolicy

_INTERPOLATIONS = {"bilinear": Interpolation.BILINEAR, "bicubic": Interpolation.BICUBIC}
_CROP_TRIES = 10
_LEVEL_MAX = 10.0


def draw(
    rng: np.random.Generator,
    policy: NonePolicy | RRCPolicy | RRCRandAugmentPolicy,
    size: int,
    width: int,
    height: int,
) -> np.ndarray:
    """Draw one view of a `width` x `height` image.

    Returns:
        int32 `[P]`, columns as in `policy.spec(size).fields`.
    """
    if isinstance(policy, NonePolicy):
        return np.array(_centre(policy, size, width, height), dtype=np.int32)
    top, left, crop_height, crop_width = _random_resized_crop(rng, policy, width, height)
    row = [top, left, crop_height, crop_width, _interpolation(rng, policy), int(rng.random() < policy.hflip)]
    if isinstance(policy, RRCRandAugmentPolicy):
        for _ in range(policy.n):
            row += _rand_augment_slot(rng, policy)
    return np.array(row, dtype=np.int32)


def _centre(policy: NonePolicy, size: int, width: int, height: int) -> list[int]:
    shorter = max(size, math.floor(size / policy.crop_pct))
    if width <= height:
        resized_width, resized_height = shorter, max(size, int(shorter * height / width))
    else:
        resized_width, resized_height = max(size, int(shorter * width / height)), shorter
    top, left = round((resized_height - size) / 2), round((resized_width - size) / 2)
    return [0, 0, height, width, resized_height, resized_width, top, left, _INTERPOLATIONS[policy.interpolation]]


def _random_resized_crop(rng: np.random.Generator, policy: RRCPolicy, width: int, height: int) -> tuple[int, int, int, int]:
    low, high = policy.ratio
    for _ in range(_CROP_TRIES):
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


def _interpolation(rng: np.random.Generator, policy: RRCPolicy) -> int:
    if policy.interpolation == "random":
        return int(rng.integers(Interpolation.BILINEAR, Interpolation.BICUBIC, endpoint=True))
    return _INTERPOLATIONS[policy.interpolation]


def _rand_augment_slot(rng: np.random.Generator, policy: RRCRandAugmentPolicy) -> list[int]:
    ops = _INCREASING if policy.inc else _PLAIN
    op, arguments = ops[int(rng.integers(len(ops)))]
    if rng.random() >= policy.p:
        return [Op.NONE, Interpolation.NONE, 0, 0]
    level = min(max(rng.normal(policy.m, policy.mstd), 0.0), _LEVEL_MAX) / _LEVEL_MAX
    a, b = arguments(level, rng)
    return [op, _interpolation(rng, policy) if op in GEOMETRIC_OPS else Interpolation.NONE, a, b]


# Magnitude to final integers, one function per op. `level` is the magnitude as a fraction of its maximum, 0..1.
# Names and ranges are those of timm's LEVEL_TO_ARG.
_Arguments = Callable[[float, np.random.Generator], tuple[int, int]]


def _sign(rng: np.random.Generator) -> float:
    return -1.0 if rng.random() > 0.5 else 1.0


def _q16(value: float) -> int:
    return round(value * Q16)


def _nothing(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return 0, 0


def _rotate(level: float, rng: np.random.Generator) -> tuple[int, int]:
    # Counter-clockwise degrees; the coefficients map a view's pixel back to where it comes from.
    angle = -math.radians(_sign(rng) * level * 30.0)
    return _q16(math.cos(angle)), _q16(math.sin(angle))


def _posterize(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return int(level * 4), 0


def _posterize_increasing(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return 4 - int(level * 4), 0


def _solarize(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return min(256, int(level * 256)), 0


def _solarize_increasing(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return 256 - min(256, int(level * 256)), 0


def _solarize_add(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return min(128, int(level * 110)), 0


def _enhance(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return _q16(level * 1.8 + 0.1), 0


def _enhance_increasing(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return _q16(max(0.1, 1.0 + _sign(rng) * level * 0.9)), 0


def _shear(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return _q16(_sign(rng) * level * 0.3), 0


def _translate(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return _q16(_sign(rng) * level * 0.45), 0


def _op_set(posterize: _Arguments, solarize: _Arguments, enhance: _Arguments) -> list[tuple[Op, _Arguments]]:
    return [
        (Op.AUTO_CONTRAST, _nothing),
        (Op.EQUALIZE, _nothing),
        (Op.INVERT, _nothing),
        (Op.ROTATE, _rotate),
        (Op.POSTERIZE, posterize),
        (Op.SOLARIZE, solarize),
        (Op.SOLARIZE_ADD, _solarize_add),
        (Op.COLOR, enhance),
        (Op.CONTRAST, enhance),
        (Op.BRIGHTNESS, enhance),
        (Op.SHARPNESS, enhance),
        (Op.SHEAR_X, _shear),
        (Op.SHEAR_Y, _shear),
        (Op.TRANSLATE_X, _translate),
        (Op.TRANSLATE_Y, _translate),
    ]


_PLAIN = _op_set(_posterize, _solarize, _enhance)
_INCREASING = _op_set(_posterize_increasing, _solarize_increasing, _enhance_increasing)
