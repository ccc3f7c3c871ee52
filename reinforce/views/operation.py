"""Operation: one op of the params, what it does to a view and which arguments it takes. Which ops there are: `operations.py`.

A new op is a file with its kernel and its `Operation`, a line in `operations.py`, and its row in FORMAT.md, "Params".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from reinforce.policy import RGB
from reinforce.views.params import Interpolation

Kernel = Callable[[np.ndarray, int, int, int, RGB], np.ndarray]
"""`(image uint8 [3, H, W], interpolation, a, b, fill) -> uint8 [3, H, W]`: pure, whole numbers only."""

ANY = (-(1 << 31), (1 << 31) - 1)
"""Any int32."""
GEOMETRIC = (Interpolation.BILINEAR, Interpolation.BICUBIC, Interpolation.NEAREST)


@dataclass(frozen=True)
class Operation:
    """One op.

    Attributes:
        id: Its number in params. A changed op gets a new number, and the old one stays.
        name: As in FORMAT.md.
        kernel: What it does.
        geometric: It moves pixels: it needs an interpolation, and what it uncovers takes the fill.
        a: Lowest and highest first argument.
        b: Lowest and highest second argument.
        scaled: `(a, scale) -> a` for views that are `scale` times as large; None: it is the same at any size.
    """

    id: int
    name: str
    kernel: Kernel
    geometric: bool = False
    a: tuple[int, int] = ANY
    b: tuple[int, int] = ANY
    scaled: Callable[[int, float], int] | None = None

    def fault(self, interpolation: int, a: int, b: int) -> str | None:
        """Which argument it does not take, and what it takes; or None."""
        if self.geometric and interpolation not in GEOMETRIC:
            known = ", ".join(f"{i.value} ({i.name.lower()})" for i in GEOMETRIC)
            return f"interpolation {interpolation}, not one of {known}"
        for name, value, (low, high) in (("a", a, self.a), ("b", b, self.b)):
            if not low <= value <= high:
                return f"{name} = {value}, not within {low} to {high}"
        return None

    def faults(self, interpolation: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Where `fault` finds something: integers `[n]` each to bool `[n]`."""
        wrong = (a < self.a[0]) | (a > self.a[1]) | (b < self.b[0]) | (b > self.b[1])
        return wrong | ~np.isin(interpolation, GEOMETRIC) if self.geometric else wrong
