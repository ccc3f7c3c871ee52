"""The laws of an op: what every `Operation` must do for any view and any arguments that it takes."""

from __future__ import annotations

from itertools import product

import numpy as np

from reinforce.testing.law import require
from reinforce.views.operation import ANY, GEOMETRIC, Operation
from reinforce.views.params import Interpolation
from reinforce.views.seeds import view_rng

_FILL = (124, 16, 204)
_SHAPES = ((1, 1), (2, 3), (17, 9), (32, 32))


def check_operation(operation: Operation, seed: int = 0, rounds: int = 4) -> None:
    """Check that an op keeps the laws of the pixel contract.

    From a view it makes a view of the same shape, uint8. It gives the same bytes each time, for every memory layout of the
    view, and does not change its input. This holds for the smallest and largest arguments too; others are refused.

    Args:
        operation: The op.
        seed: Seed of the views and arguments that are tried.
        rounds: How often each shape is tried.

    Raises:
        AssertionError: names the broken law, with the arguments.
    """
    rng = view_rng(seed, 0, 0)
    for _, (height, width) in product(range(rounds), _SHAPES):
        for image in _images(rng, height, width):
            interpolation = int(rng.choice(GEOMETRIC)) if operation.geometric else int(Interpolation.NONE)
            a, b = _argument(rng, operation.a), _argument(rng, operation.b)
            _check(operation, image, interpolation, a, b)
    _check_refusals(operation)


def _check(operation: Operation, image: np.ndarray, interpolation: int, a: int, b: int) -> None:
    said = f"op {operation.name} with interpolation {interpolation}, a = {a}, b = {b} on {image.shape}"
    refused = operation.faults(*(np.array([value]) for value in (interpolation, a, b)))
    require(operation.fault(interpolation, a, b) is None and not refused.any(), f"{said}: refuses what it takes")
    for scale in (0.5, 1.0, 3.0) if operation.scaled else ():
        grown = operation.scaled(a, scale)  # type: ignore[misc]
        within = operation.fault(interpolation, grown, b) is None
        require(within and (scale != 1.0 or abs(grown - a) <= 1), f"{said}: a is {grown} for views {scale} times as large")
    before = image.copy()
    once = operation.kernel(image, interpolation, a, b, _FILL)
    require(isinstance(once, np.ndarray), f"{said}: gives no array")
    require(once.dtype == np.uint8 and once.shape == image.shape, f"{said}: gives {once.dtype} {once.shape}")
    require(np.array_equal(image, before), f"{said}: changes the view that it is given")
    once = once.copy()
    again = operation.kernel(image, interpolation, a, b, _FILL)
    require(np.array_equal(once, again), f"{said}: gives other bytes the second time")
    wide = np.zeros((*image.shape[:2], 2 * image.shape[2]), np.uint8)
    wide[:, :, ::2] = image
    for other in (np.asfortranarray(image), wide[:, :, ::2]):
        found = operation.kernel(other, interpolation, a, b, _FILL)
        require(np.array_equal(once, found), f"{said}: depends on the memory layout")


def _check_refusals(operation: Operation) -> None:
    interpolation = int(GEOMETRIC[0]) if operation.geometric else int(Interpolation.NONE)
    inside = (operation.a[0], operation.b[0])
    for position, (low, high) in enumerate((operation.a, operation.b)):
        for value, beyond in ((low - 1, low > ANY[0]), (high + 1, high < ANY[1])):
            if beyond:
                given = [*inside]
                given[position] = value
                said = f"op {operation.name} takes {'ab'[position]} = {value}"
                require(operation.fault(interpolation, *given) is not None, said)
                require(bool(operation.faults(*(np.array([v]) for v in (interpolation, *given))).all()), said)
    if operation.geometric:
        require(operation.fault(int(Interpolation.NONE), *inside) is not None, f"op {operation.name} takes no interpolation")


def _images(rng: np.random.Generator, height: int, width: int) -> list[np.ndarray]:
    """Images of noise, of 0 and 255 only (these overflow first), and of one colour: uint8 `[3, height, width]`."""
    shape = (3, height, width)
    constant = np.empty(shape, np.uint8)
    constant[:] = rng.integers(0, 256, (3, 1, 1), np.uint8)
    return [rng.integers(0, 256, shape, np.uint8), rng.choice(np.array([0, 255], np.uint8), shape), constant]


def _argument(rng: np.random.Generator, limits: tuple[int, int]) -> int:
    """An argument within limits: the lowest, the highest, a small one, or any."""
    low, high = limits
    small = (max(low, -300), min(high, 300))
    choices = (low, high, int(rng.integers(*small, endpoint=True)), int(rng.integers(low, high, endpoint=True)))
    return int(choices[int(rng.integers(len(choices)))])
