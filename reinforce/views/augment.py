"""Augment: draw the op slots of a view, as timm's and torchvision's augmentations do. All randomness and floats end here.

A slot is `[op, interpolation, a, b]`, final integers. Sources: RandAugment (arXiv 1909.13719) as in timm (`rand`) and in
torchvision (`ra`), TrivialAugment (arXiv 2103.10158), AutoAugment (arXiv 1805.09501), 3-Augment (DeiT III, arXiv 2204.07118).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from reinforce.policy import Policy
from reinforce.views.blur import box_radius
from reinforce.views.operations import OPERATIONS
from reinforce.views.params import Q16, Interpolation, Op
from reinforce.views.torchvision_ops import rand_augment, rotation, sign, trivial_augment

_INTERPOLATIONS = {"bilinear": Interpolation.BILINEAR, "bicubic": Interpolation.BICUBIC}
_NOTHING = [int(Op.NONE), int(Interpolation.NONE), 0, 0]
_LEVEL_MAX = 10.0
_BLUR_SIGMA = (0.1, 2.0)


def draw_slots(rng: np.random.Generator, policy: Policy, size: int) -> list[int]:
    """The op slots of one view of a policy, one after the other: four integers each."""
    slots = AUGMENTERS[policy.aa](rng, policy, size)
    if policy.color_jitter:
        slots += _color_jitter(rng, policy.color_jitter)
    return [value for slot in slots for value in slot]


def resize_interpolation(rng: np.random.Generator, name: str) -> int:
    """An interpolation id; drawn where the name is `random`."""
    if name == "random":
        return int(rng.integers(Interpolation.BILINEAR, Interpolation.BICUBIC, endpoint=True))
    return int(_INTERPOLATIONS[name])


# Magnitude to final integers, one function per op. `level` is the magnitude as a fraction of its maximum, 0..1.
# Names and ranges are those of timm's LEVEL_TO_ARG.
_Arguments = Callable[[float, np.random.Generator], tuple[int, int]]


def _q16(value: float) -> int:
    return round(value * Q16)


def _nothing(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return 0, 0


def _rotate(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return rotation(sign(rng) * level * 30.0)


def _posterize(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return int(level * 4), 0


def _posterize_increasing(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return 4 - int(level * 4), 0


def _posterize_original(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return 4 + int(level * 4), 0


def _solarize(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return min(256, int(level * 256)), 0


def _solarize_increasing(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return 256 - min(256, int(level * 256)), 0


def _solarize_add(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return min(128, int(level * 110)), 0


def _enhance(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return _q16(level * 1.8 + 0.1), 0


def _enhance_increasing(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return _q16(max(0.1, 1.0 + sign(rng) * level * 0.9)), 0


def _shear(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return _q16(sign(rng) * level * 0.3), 0


def _translate(level: float, rng: np.random.Generator) -> tuple[int, int]:
    return _q16(sign(rng) * level * 0.45), 0


def _op_set(posterize: _Arguments, solarize: _Arguments, enhance: _Arguments) -> dict[Op, _Arguments]:
    return {
        Op.AUTO_CONTRAST: _nothing,
        Op.EQUALIZE: _nothing,
        Op.INVERT: _nothing,
        Op.ROTATE: _rotate,
        Op.POSTERIZE: posterize,
        Op.SOLARIZE: solarize,
        Op.SOLARIZE_ADD: _solarize_add,
        Op.COLOR: enhance,
        Op.CONTRAST: enhance,
        Op.BRIGHTNESS: enhance,
        Op.SHARPNESS: enhance,
        Op.SHEAR_X: _shear,
        Op.SHEAR_Y: _shear,
        Op.TRANSLATE_X: _translate,
        Op.TRANSLATE_Y: _translate,
    }


_PLAIN = _op_set(_posterize, _solarize, _enhance)
_INCREASING = _op_set(_posterize_increasing, _solarize_increasing, _enhance_increasing)
_ORIGINAL = _op_set(_posterize_original, _solarize, _enhance)


def _timm_slot(rng: np.random.Generator, policy: Policy, op: Op, arguments: _Arguments, level: float) -> list[int]:
    a, b = arguments(level, rng)
    interpolation = resize_interpolation(rng, policy.interpolation) if OPERATIONS[op].geometric else int(Interpolation.NONE)
    return [int(op), interpolation, a, b]


def _rand(rng: np.random.Generator, policy: Policy, size: int) -> list[list[int]]:
    """timm's: n ops with replacement, each with probability p, at a magnitude of normal(m, mstd) clipped to 0..10."""
    ops = list((_INCREASING if policy.inc else _PLAIN).items())
    slots = []
    for _ in range(policy.n):
        op, arguments = ops[int(rng.integers(len(ops)))]
        if rng.random() >= policy.p:
            slots.append(_NOTHING)
            continue
        level = min(max(rng.normal(policy.m, policy.mstd), 0.0), _LEVEL_MAX) / _LEVEL_MAX
        slots.append(_timm_slot(rng, policy, op, arguments, level))
    return slots


# The 25 sub-policies for ImageNet (AutoAugment, table 9). Each has two ops: id, probability in tenths, magnitude out of 10.
_P, _R, _S, _A, _E = Op.POSTERIZE, Op.ROTATE, Op.SOLARIZE, Op.AUTO_CONTRAST, Op.EQUALIZE
_I, _C, _K, _H, _X = Op.INVERT, Op.COLOR, Op.CONTRAST, Op.SHARPNESS, Op.SHEAR_X
_SUB_POLICIES = (
    (_P, 4, 8, _R, 6, 9), (_S, 6, 5, _A, 6, 5), (_E, 8, 8, _E, 6, 3), (_P, 6, 7, _P, 6, 6), (_E, 4, 7, _S, 2, 4),
    (_E, 4, 4, _R, 8, 8), (_S, 6, 3, _E, 6, 7), (_P, 8, 5, _E, 10, 2), (_R, 2, 3, _S, 6, 8), (_E, 6, 8, _P, 4, 6),
    (_R, 8, 8, _C, 4, 0), (_R, 4, 9, _E, 6, 2), (_E, 0, 7, _E, 8, 8), (_I, 6, 4, _E, 10, 8), (_C, 6, 4, _K, 10, 8),
    (_R, 8, 8, _C, 10, 2), (_C, 8, 8, _S, 8, 7), (_H, 4, 7, _I, 6, 8), (_X, 6, 5, _E, 10, 9), (_C, 4, 0, _E, 6, 3),
    (_E, 4, 7, _S, 2, 4), (_S, 6, 5, _A, 6, 5), (_I, 6, 4, _E, 10, 8), (_C, 6, 4, _K, 10, 8), (_E, 8, 8, _E, 6, 3),
)  # fmt: skip


def _auto(rng: np.random.Generator, policy: Policy, size: int) -> list[list[int]]:
    """Timm's `original`: one of the sub-policies, each of its two ops with its own probability."""
    chosen = _SUB_POLICIES[int(rng.integers(len(_SUB_POLICIES)))]
    slots = []
    for op, tenths, magnitude in (chosen[:3], chosen[3:]):
        applied = rng.random() < tenths / 10
        slots.append(_timm_slot(rng, policy, Op(op), _ORIGINAL[Op(op)], magnitude / _LEVEL_MAX) if applied else _NOTHING)
    return slots


def _none(rng: np.random.Generator, policy: Policy, size: int) -> list[list[int]]:
    return []


def _three(rng: np.random.Generator, policy: Policy, size: int) -> list[list[int]]:
    """DeiT III's 3-Augment: grey, solarized from 128, or blurred, each a third."""
    kind = int(rng.integers(3))
    op, a = [(Op.COLOR, 0), (Op.SOLARIZE, 128), (Op.GAUSSIAN_BLUR, _q16(box_radius(rng.uniform(*_BLUR_SIGMA))))][kind]
    return [[int(op), int(Interpolation.NONE), a, 0]]


def _color_jitter(rng: np.random.Generator, amount: float) -> list[list[int]]:
    """Torchvision's ColorJitter: brightness, contrast and saturation by factors of 1 +- amount, in random order."""
    ops = [(Op.BRIGHTNESS, Op.CONTRAST, Op.COLOR)[i] for i in rng.permutation(3)]
    return [[int(op), int(Interpolation.NONE), _q16(rng.uniform(1 - amount, 1 + amount)), 0] for op in ops]


Augmenter = Callable[[np.random.Generator, Policy, int], list[list[int]]]
"""`(rng, policy, view size) -> slots`, as many as `policy.AUGMENTATIONS` says."""

AUGMENTERS: dict[str, Augmenter] = {
    "none": _none,
    "rand": _rand,
    "ra": rand_augment,
    "trivial": trivial_augment,
    "auto": _auto,
    "three": _three,
}
