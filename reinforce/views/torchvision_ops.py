"""Torchvision's ops: the 14 of its RandAugment and TrivialAugmentWide, by magnitude. ImageNet+ numbers its ops as here.

A magnitude is the argument of torchvision with its sign: degrees, pixels, bits, a threshold, or a factor less one. A
positive one moves a picture to the right or down; our slots say where a pixel comes from, so theirs has the other sign.
"""

from __future__ import annotations

import math
from itertools import pairwise

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
        a = -round(int(magnitude) / size * Q16)
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
    """The shortest decimal that `torchvision_slot` turns into this slot.

    Raises:
        ValueError: no magnitude gives these arguments.
    """
    guesses = [float(a)]
    if op in _TRANSLATIONS:
        guesses = [float(-round(a * size / Q16))]
    elif op == Op.ROTATE:
        guesses = _degrees(a, b)
    elif op in _BLENDS:
        guesses = [a / Q16 - 1.0]
    elif op in _SHEARS:
        guesses = [a / Q16]
    for guess in guesses:
        for digits in range(12):
            if torchvision_slot(op, round(guess, digits), size)[2:] == [a, b]:
                return round(guess, digits)
    raise ValueError(f"{op.name} with {a} and {b}")


def _degrees(a: int, b: int) -> list[float]:
    """Angles of which one has `a` and `b` as its rounded cosine and sine, if there is one at all.

    Both are rounded, each for itself, so the angle between the two need not give both again. What gives them lies between two
    neighbours of the angles at which one of them is rounded to another number.
    """
    angle, edges = math.atan2(b, a), []
    for half in (-0.5, 0.5):
        cosine, sine = (min(1.0, max(-1.0, (value + half) / Q16)) for value in (a, b))
        edges += [math.acos(cosine), -math.acos(cosine), math.asin(sine), math.pi - math.asin(sine)]
    near = sorted(angle + math.remainder(edge - angle, math.tau) for edge in edges)
    return [-math.degrees(each) for each in (angle, *((low + high) / 2 for low, high in pairwise(near)))]


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
        magnitude = -way * level * pixels
    elif op == Op.ROTATE:
        magnitude = way * level * degrees
    elif op in _BLENDS:
        magnitude = way * level * enhance
    elif op == Op.POSTERIZE:
        magnitude = 8 - round(bin_ / ((_BINS - 1) / bits))
    elif op == Op.SOLARIZE:
        magnitude = 255.0 - 255.0 * level
    return torchvision_slot(op, magnitude, size)
