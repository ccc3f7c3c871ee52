"""Torchvision's ops: the 14 of its RandAugment and TrivialAugmentWide, by magnitude. ImageNet+ numbers its ops as here.

A magnitude is torchvision's argument with its sign: degrees, pixels, bits, a threshold, or a factor less one.
"""

from __future__ import annotations

import math

import numpy as np

from reinforce.policy import Policy
from reinforce.views.operations import OPERATIONS
from reinforce.views.params import Q16, Interpolation, Op

TORCHVISION_OPS = (
    Op.NONE, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y, Op.ROTATE, Op.BRIGHTNESS, Op.COLOR, Op.CONTRAST,
    Op.SHARPNESS, Op.POSTERIZE, Op.SOLARIZE, Op.AUTO_CONTRAST, Op.EQUALIZE,
)  # fmt: skip
"""In torchvision's order."""
_BINS = 31  # of magnitudes
_SHEARS = (Op.SHEAR_X, Op.SHEAR_Y)
_TRANSLATIONS = (Op.TRANSLATE_X, Op.TRANSLATE_Y)
_BLENDS = (Op.BRIGHTNESS, Op.COLOR, Op.CONTRAST, Op.SHARPNESS)


def sign(rng: np.random.Generator) -> float:
    """1 or -1."""
    return -1.0 if rng.random() > 0.5 else 1.0


def rotation(degrees: float) -> tuple[int, int]:
    """Counter-clockwise: cosine and sine in Q16, which map a view's pixel back to where it comes from."""
    angle = -math.radians(degrees)
    return round(math.cos(angle) * Q16), round(math.sin(angle) * Q16)


def torchvision_slot(op: Op, magnitude: float, size: int) -> list[int]:
    """The slot `[op, interpolation, a, b]` of an op at a magnitude, on views of `size` pixels."""
    a = b = 0
    if op in _SHEARS:
        a = round(magnitude * Q16)
    elif op in _TRANSLATIONS:
        a = round(int(magnitude) / size * Q16)
    elif op == Op.ROTATE:
        a, b = rotation(magnitude)
    elif op in _BLENDS:
        a = round((1.0 + magnitude) * Q16)
    elif op == Op.POSTERIZE:
        a = int(magnitude)
    elif op == Op.SOLARIZE:
        a = math.ceil(magnitude)
    return [int(op), int(Interpolation.NEAREST if OPERATIONS[op].geometric else Interpolation.NONE), a, b]


def torchvision_magnitude(op: Op, a: int, b: int, size: int) -> float:
    """The magnitude of a slot, the reverse of `torchvision_slot`."""
    if op in _TRANSLATIONS:
        return float(round(a * size / Q16))
    if op == Op.ROTATE:
        return -math.degrees(math.atan2(b, a))
    if op in _BLENDS:
        return a / Q16 - 1.0
    return a / Q16 if op in _SHEARS else float(a)


def rand_augment(rng: np.random.Generator, policy: Policy, size: int) -> list[list[int]]:
    """RandAugment: n of the ops with replacement, all at magnitude m of 31 bins; geometric ones nearest."""
    largest = {"shear": 0.3, "pixels": 150.0 / 331.0 * size, "degrees": 30.0, "enhance": 0.9, "bits": 4}
    return [_drawn(rng, int(policy.m), size, **largest) for _ in range(policy.n)]  # type: ignore[arg-type]


def trivial_augment(rng: np.random.Generator, policy: Policy, size: int) -> list[list[int]]:
    """TrivialAugmentWide: one of the ops at any of 31 magnitudes."""
    return [_drawn(rng, int(rng.integers(_BINS)), size, shear=0.99, pixels=32.0, degrees=135.0, enhance=0.99, bits=6)]


def _drawn(
    rng: np.random.Generator, bin_: int, size: int, *, shear: float, pixels: float, degrees: float, enhance: float, bits: int
) -> list[int]:
    """One of the ops at magnitude `bin_` of 31, where the keywords are what the largest means."""
    op, way, level = TORCHVISION_OPS[int(rng.integers(len(TORCHVISION_OPS)))], sign(rng), bin_ / (_BINS - 1)
    magnitude = 0.0
    if op in _SHEARS:
        magnitude = way * level * shear
    elif op in _TRANSLATIONS:
        magnitude = way * level * pixels
    elif op == Op.ROTATE:
        magnitude = way * level * degrees
    elif op in _BLENDS:
        magnitude = way * level * enhance
    elif op == Op.POSTERIZE:
        magnitude = 8 - round(bin_ / ((_BINS - 1) / bits))
    elif op == Op.SOLARIZE:
        magnitude = 255.0 - 255.0 * level
    return torchvision_slot(op, magnitude, size)
