"""Kernels: ops in C, where they were compiled, with the same bits as the numpy code that defines them (`_kernels.c`).

The installation compiles them if it can. Without them, or with REINFORCE_KERNELS=numpy, everything works, more slowly.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np

compiled: ModuleType | None
"""The compiled ops; None: there are none."""
try:
    compiled = import_module("reinforce.views._kernels")
except ImportError:
    compiled = None


def made(name: str, image: np.ndarray, *more: object) -> np.ndarray:
    """The result of a compiled op, an array like `image`.

    Args:
        name: Of the op.
        image: uint8 `[3, H, W]`, any strides.
        more: Further arrays, contiguous, then numbers, in the order that `_kernels.c` states.
    """
    image = np.ascontiguousarray(image)
    out = np.empty(image.shape, np.uint8)
    getattr(compiled, name)(image, out, *more)
    return out
