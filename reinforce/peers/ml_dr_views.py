"""The params of one view as the files of ImageNet+ (ml-dr) have them, and as ours: what stands where, in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reinforce.views.operations import OPERATIONS
from reinforce.views.params import OP_SLOT_BASE, Field, Interpolation, Op
from reinforce.views.torchvision_ops import TORCHVISION_OPS, torchvision_magnitude, torchvision_slot

BOX = (Field.CROP_TOP, Field.CROP_LEFT, Field.CROP_HEIGHT, Field.CROP_WIDTH)
_ERASED = (Field.ERASE_TOP, Field.ERASE_LEFT, Field.ERASE_HEIGHT, Field.ERASE_WIDTH)
OPS = 2
"""Ops of a view."""


@dataclass(frozen=True)
class Layout:
    """What the params of a view hold: crop, flip, and more where their config had it.

    Attributes:
        augmented: Ops of RandAugment, and erasing.
    """

    augmented: bool = False

    @classmethod
    def of(cls, given: Sequence[Any]) -> Layout:
        """The layout of the params of a view.

        Raises:
            ValueError: there is none with as many parts.
        """
        if len(given) not in (2, 4):
            raise ValueError(len(given))
        return cls(augmented=len(given) == 4)


def read(given: Sequence[Any], layout: Layout, size: int) -> dict[int, int]:
    """Field ids and values of a view, from the params of the files.

    Raises:
        TypeError, ValueError, IndexError, OverflowError: these are no params of that layout.
    """
    if len(given) != (4 if layout.augmented else 2):
        raise ValueError(len(given))
    values: dict[int, int] = dict(zip(BOX, map(int, given[0]), strict=True))
    values |= {Field.HFLIP: int(bool(given[1])), Field.INTERPOLATION: int(Interpolation.BILINEAR)}
    if layout.augmented:
        values |= _read_ops(given[2], size) | _read_erased(given[3], size)
    return values


def _read_ops(given: Sequence[Any] | None, size: int) -> dict[int, int]:
    if given is None:  # their RandAugment was skipped
        return {}
    if len(given) != OPS:
        raise ValueError(len(given))
    slots = [value for op, magnitude in given for value in slot_of(int(op), float(magnitude), size)]
    return dict(enumerate(slots, start=OP_SLOT_BASE))


def _read_erased(given: Sequence[Any] | None, size: int) -> dict[int, int]:
    if given is None or int(given[0]) < 0:  # nothing is erased; -1 was written where no rectangle was found
        return {}
    top, left, height, width = map(int, given)
    if min(left, height, width) < 0:
        raise ValueError(given)
    top, left = min(top, size), min(left, size)
    return dict(zip(_ERASED, (top, left, min(height, size - top), min(width, size - left)), strict=True))


def written(values: Mapping[int, int], layout: Layout, size: int) -> list[Any]:
    """The params of the files for the field ids and values of a view, the reverse of `read`."""
    given: list[Any] = [tuple(values[f] for f in BOX), bool(values[Field.HFLIP])]
    if layout.augmented:
        slots = [[values[OP_SLOT_BASE + 4 * slot + part] for part in range(4)] for slot in range(OPS)]
        erased = tuple(values.get(f, 0) for f in _ERASED)
        given += [[op_of(slot, size) for slot in slots], erased if erased[2] and erased[3] else None]
    return given


def slot_of(number: int, magnitude: float, size: int) -> list[int]:
    """Op, interpolation, a and b for one op of the files, given by its number there and its signed magnitude.

    Raises:
        ValueError: the files' format has no such op, or the op does not take this magnitude.
    """
    if not 0 <= number < len(TORCHVISION_OPS) or not math.isfinite(magnitude) or abs(magnitude) > 1e4:
        raise ValueError(number)
    op, *arguments = torchvision_slot(TORCHVISION_OPS[number], magnitude, size)
    if fault := OPERATIONS[op].fault(*arguments):
        raise ValueError(fault)
    return [op, *arguments]


def op_of(slot: Sequence[int], size: int) -> tuple[int, float]:
    """Number and magnitude of a slot, the reverse of `slot_of`.

    Raises:
        ValueError: the files' format has no such op.
    """
    op, _, a, b = slot
    return TORCHVISION_OPS.index(Op(op)), torchvision_magnitude(Op(op), a, b, size)
