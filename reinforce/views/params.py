"""Params: the integers that define a view's pixels completely (FORMAT.md, "Params").

A view's params are one row of int32. Which integer stands in which column is said by field ids, numbers that are fixed
for ever in FORMAT.md; the layout of a policy is the list of its field ids, stored in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

import numpy as np

from reinforce.errors import StoreError

Q16 = 1 << 16
"""The number 1 in 16.16 fixed point, in which ratios, factors and coefficients are stored."""

OP_SLOT_BASE = 32
"""Field id of the first op slot; slot s has the ids OP_SLOT_BASE + 4 s .. + 3: op, interpolation, a, b."""

MAX_OP_SLOTS = 16

OTHER_BASE = 128
"""Field id OTHER_BASE + f is field f of the other view in one-way mixing: its crop, flip, ops and erasing."""

MAX_BLUR = 16 * Q16
"""Largest radius of a blur's box."""
MAX_FACTOR = 1 << 23
"""Largest factor of a blend, positive or negative: 255 times it still fits in int32."""


class Field(IntEnum):
    """Field ids. Boxes are in pixels of the decoded image; resize and window in pixels of the view."""

    CROP_TOP = 1
    CROP_LEFT = 2
    CROP_HEIGHT = 3
    CROP_WIDTH = 4
    RESIZE_HEIGHT = 5  # absent: the view's size
    RESIZE_WIDTH = 6  # absent: the view's size
    WINDOW_TOP = 7  # absent: 0
    WINDOW_LEFT = 8  # absent: 0
    INTERPOLATION = 9
    HFLIP = 10
    ERASE_TOP = 11  # of the rectangle that is filled, pixels of the view
    ERASE_LEFT = 12
    ERASE_HEIGHT = 13  # 0: nothing is erased
    ERASE_WIDTH = 14
    ERASE_SEED = 15  # of the noise it is filled with; absent: a constant
    PARTNER = 16  # row, within the block, of the sample that this view is mixed with; its own row: none
    LAM = 17  # share of this sample in MixUp, of 255; 255: no MixUp
    BOX_TOP = 18  # of the rectangle that CutMix takes from the partner, pixels of the view
    BOX_LEFT = 19
    BOX_HEIGHT = 20  # 0: no CutMix
    BOX_WIDTH = 21
    OTHER = 22  # sample of the data set that this view is mixed with, in one direction; -1: none
    OTHER_LAM = 23  # share of this sample in MixUp, Q16; 65536: no MixUp
    PASTE_TOP = 24  # of the rectangle that CutMix takes from the other view, pixels of the view
    PASTE_LEFT = 25
    PASTE_HEIGHT = 26  # 0: no CutMix
    PASTE_WIDTH = 27


class Interpolation(IntEnum):
    """Interpolation ids, for the resize and for geometric ops."""

    NONE = 0
    BILINEAR = 1
    BICUBIC = 2
    NEAREST = 3  # of geometric ops only


class Op(IntEnum):
    """Ids of the ops that policies draw; what each does stands in `operations.py`."""

    NONE = 0
    AUTO_CONTRAST = 1
    EQUALIZE = 2
    INVERT = 3
    ROTATE = 4  # a = cos, b = sin, Q16
    POSTERIZE = 5  # a = bits kept
    SOLARIZE = 6  # a = threshold: values >= a are inverted
    SOLARIZE_ADD = 7  # a = addend for values < 128
    COLOR = 8  # a = factor, Q16
    CONTRAST = 9  # a = factor, Q16
    BRIGHTNESS = 10  # a = factor, Q16
    SHARPNESS = 11  # a = factor, Q16
    SHEAR_X = 12  # a = coefficient, Q16
    SHEAR_Y = 13  # a = coefficient, Q16
    TRANSLATE_X = 14  # a = fraction of the width, Q16
    TRANSLATE_Y = 15  # a = fraction of the height, Q16
    GAUSSIAN_BLUR = 16  # a = radius of the box that is applied three times, Q16


_SLOTS = range(OP_SLOT_BASE, OP_SLOT_BASE + 4 * MAX_OP_SLOTS)
_KNOWN = {*map(int, Field), *_SLOTS, *(OTHER_BASE + f for f in (*range(1, Field.PARTNER), *_SLOTS))}


@dataclass(frozen=True)
class PixelSpec:
    """What `apply` needs beside a view's params: constants of the whole reinforced dataset.

    Attributes:
        size: Height and width of a view in pixels.
        fields: Field id of every params column, in column order.
        fill: RGB value of pixels that a geometric op uncovers.
        erase_fill: RGB value of erased pixels, where they are not filled with noise.
    """

    size: int
    fields: tuple[int, ...]
    fill: tuple[int, int, int] = (124, 116, 104)
    erase_fill: tuple[int, int, int] = (124, 116, 104)

    def __post_init__(self) -> None:
        unknown = [f for f in self.fields if f not in _KNOWN]
        boxes = [Field(f) for f in range(Field.CROP_TOP, Field.CROP_WIDTH + 1)]
        needed = [f.name for f in boxes if f not in self.fields]
        pairs, one_way = range(Field.PARTNER, Field.BOX_WIDTH + 1), range(Field.OTHER, Field.PASTE_WIDTH + 1)
        groups = [pairs, one_way]
        broken = {*pairs, *one_way} <= set(self.fields)
        for base in (0, OTHER_BASE):
            slots = [f for f in self.fields if base + OP_SLOT_BASE <= f < base + OTHER_BASE]
            first = base + OP_SLOT_BASE
            broken = broken or slots != list(range(first, first + len(slots))) or len(slots) % 4 != 0
            groups.append(range(base + Field.ERASE_TOP, base + Field.ERASE_SEED))
            broken = broken or (base + Field.ERASE_SEED in self.fields and base + Field.ERASE_TOP not in self.fields)
        if Field.OTHER in self.fields or max(self.fields, default=0) > OTHER_BASE:
            groups += [range(OTHER_BASE + Field.CROP_TOP, OTHER_BASE + Field.CROP_WIDTH + 1)]
            broken = broken or Field.OTHER not in self.fields or OTHER_BASE + Field.CROP_TOP not in self.fields
        for group in groups:
            broken = broken or 0 < sum(f in self.fields for f in group) < len(group)
        if unknown or needed or broken or len(set(self.fields)) != len(self.fields):
            raise StoreError(
                "The params layout is not one this version can read.",
                found=list(self.fields),
                expected="distinct field ids of FORMAT.md, with a whole crop box and whole op slots",
                cause="the data set was made by a newer version, or the manifest was edited",
                fix="pip install --upgrade reinforce",
            )

    @property
    def num_slots(self) -> int:
        """Number of op slots."""
        return sum(OP_SLOT_BASE <= f < OTHER_BASE for f in self.fields) // 4

    @cached_property
    def other(self) -> PixelSpec | None:
        """The layout of the other view in one-way mixing, whose params are those of `other_columns`; None: there is none."""
        if Field.OTHER not in self.fields:
            return None
        return replace(self, fields=tuple(f - OTHER_BASE for f in self.fields if f > OTHER_BASE))

    @cached_property
    def other_columns(self) -> list[int]:
        """The columns of the other view's params in one-way mixing."""
        return [column for column, field in enumerate(self.fields) if field > OTHER_BASE]

    def column(self, field: int) -> int | None:
        """Column of a field, or None where the layout has no such field."""
        return self.fields.index(field) if field in self.fields else None

    def read(self, params: np.ndarray, field: int, default: int) -> int:
        """The value of `field` in one row of params, or `default` where the layout has no such field."""
        column = self.column(field)
        return default if column is None else int(params[column])

    def ops(self, params: np.ndarray) -> list[tuple[int, int, int, int]]:
        """The op slots of one row, `(op, interpolation, a, b)` each, in order of application."""
        first = self.column(OP_SLOT_BASE)
        if first is None:
            return []
        values = params[first : first + 4 * self.num_slots].tolist()
        return [tuple(values[i : i + 4]) for i in range(0, len(values), 4)]
