"""The params of one view as the files of ImageNet+ (ml-dr) have them, and as ours: what stands where, in both directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reinforce.policy import Policy
from reinforce.views.draw import place_window, shift_slots, shorter_side
from reinforce.views.one_way import ALONE
from reinforce.views.operations import OPERATIONS
from reinforce.views.params import OP_SLOT_BASE, OTHER_BASE, Q16, Field, Interpolation, Op
from reinforce.views.torchvision_ops import TORCHVISION_OPS, torchvision_magnitude, torchvision_slot

BOX = (Field.CROP_TOP, Field.CROP_LEFT, Field.CROP_HEIGHT, Field.CROP_WIDTH)
_ERASED = (Field.ERASE_TOP, Field.ERASE_LEFT, Field.ERASE_HEIGHT, Field.ERASE_WIDTH)
_PASTED = (Field.PASTE_TOP, Field.PASTE_LEFT, Field.PASTE_HEIGHT, Field.PASTE_WIDTH)
_WINDOW = (Field.RESIZE_HEIGHT, Field.RESIZE_WIDTH, Field.WINDOW_TOP, Field.WINDOW_LEFT)
OPS = 2
"""Ops of a view."""
PADDING = 16
"""Border around CIFAR-100's images in pixels of the view, by its config; the files do not have it."""


@dataclass(frozen=True)
class Layout:
    """What the params of a view hold, in this order: partner, crop, flip, ops, erasing, MixUp, CutMix.

    Attributes:
        augmented: There are ops of RandAugment, and erasing.
        mixed: There are a partner, MixUp and CutMix; with a partner, all between is a pair: of the view and of the partner.
        padded: In place of a random resized crop there are the size of a resize, and first row and column in its result with a
            border (CIFAR-100).
    """

    augmented: bool = False
    mixed: bool = False
    padded: bool = False

    @classmethod
    def of(cls, given: Sequence[Any]) -> Layout:
        """The layout of the params of a view.

        Raises:
            ValueError: there is none with as many parts.
        """
        parts = len(given)
        padded = parts == 5 and isinstance(given[1], (tuple, list)) and list(map(type, given[1])) == [int, int]
        found = {2: cls(), 4: cls(augmented=True), 5: cls(mixed=True), 7: cls(augmented=True, mixed=True)}
        if padded:
            return cls(augmented=True, padded=True)
        if parts not in found:
            raise ValueError(parts)
        return found[parts]

    @property
    def parts(self) -> int:
        """Number of parts of the params of a view."""
        return 2 + 2 * self.augmented + 3 * self.mixed + self.padded

    @property
    def policy(self) -> Policy:
        """The policy that says the same of our params."""
        name = "imagenet-plus" + ("-m" if self.mixed else "") + ("-r" if self.mixed and self.augmented else "")
        if not self.mixed:
            name += "-ra-re" if self.augmented else "-rrc"
        more = {"crop": "pad", "crop_pad": PADDING} if self.padded else {"partners": "any"} if self.mixed else {}
        return Policy.model_validate({"name": name, **more})


def read(given: Sequence[Any], layout: Layout, size: int, width: int, height: int) -> dict[int, int]:
    """Field ids and values of a view, from the params of the files.

    Args:
        given: Those params.
        layout: The layout of all views of the files.
        size: Height and width of a view in pixels.
        width: Of the image, in pixels.
        height: Of the image, in pixels.

    Raises:
        TypeError, ValueError, IndexError, OverflowError: these are no params of that layout.
    """
    if len(given) != layout.parts:
        raise ValueError(len(given))
    if layout.padded:
        return _read_padded(given, size, width, height) | _read_ops(given[3], size, 2) | _read_erased(given[4], size)
    if not layout.mixed:
        return _read_alone(given, layout, size)
    partner, *parts, mixup, cutmix = given
    if partner is None:
        if mixup is not None or cutmix is not None:
            raise ValueError(given)
        return _read_alone(parts, layout, size) | {Field.OTHER: ALONE}
    if type(partner) is not int or partner < 0 or not all(len(part) == 2 for part in parts):
        raise ValueError(given)
    values, other = (_read_alone([part[which] for part in parts], layout, size) for which in (0, 1))
    values |= {OTHER_BASE + field: value for field, value in other.items()}
    return values | {Field.OTHER: partner} | _read_mixing(mixup, cutmix, size)


def _read_alone(given: Sequence[Any], layout: Layout, size: int) -> dict[int, int]:
    values: dict[int, int] = dict(zip(BOX, map(int, given[0]), strict=True))
    values |= {Field.HFLIP: int(bool(given[1])), Field.INTERPOLATION: int(Interpolation.BILINEAR)}
    if layout.augmented:
        values |= _read_ops(given[2], size) | _read_erased(given[3], size)
    return values


def _read_padded(given: Sequence[Any], size: int, width: int, height: int) -> dict[int, int]:
    """Resize to `size`, a border of `PADDING`, and a crop of it."""
    sizes = given[0] if isinstance(given[0], (tuple, list)) else [given[0]]
    if {int(each) for each in sizes} != {size} or len(sizes) > 2:
        raise ValueError(given)
    resized = [0, 0, height, width, size, size] if len(sizes) == 2 else shorter_side(size, width, height)
    first = [int(at) - PADDING for at in given[1]]
    if any(not -PADDING <= at <= side - size + PADDING for at, side in zip(first, resized[4:], strict=True)):
        raise ValueError(given)
    row, shift = place_window(resized, first, size)
    values: dict[int, int] = dict(zip((*BOX, *_WINDOW), row, strict=True))
    values |= {Field.HFLIP: int(bool(given[2])), Field.INTERPOLATION: int(Interpolation.BILINEAR)}
    return values | dict(enumerate(shift_slots(*shift, bool(given[2]), size), start=OP_SLOT_BASE))


def _read_mixing(mixup: Any, cutmix: Any, size: int) -> dict[int, int]:
    values: dict[int, int] = {Field.OTHER_LAM: Q16}
    if mixup is not None:
        if not 0 <= float(mixup) <= 1:
            raise ValueError(mixup)
        values[Field.OTHER_LAM] = round(float(mixup) * Q16)
    if cutmix is not None:
        _, top, left, bottom, right = cutmix
        box = [int(top), int(left), int(bottom) - int(top), int(right) - int(left)]
        if min(box) < 0 or max(int(bottom), int(right)) > size:
            raise ValueError(cutmix)
        values |= dict(zip(_PASTED, box if box[2] and box[3] else [0] * 4, strict=True))
    return values


def _read_ops(given: Sequence[Any] | None, size: int, first: int = 0) -> dict[int, int]:
    if given is None:  # their RandAugment was skipped
        return {}
    if len(given) != OPS:
        raise ValueError(len(given))
    slots = [value for op, magnitude in given for value in slot_of(int(op), float(magnitude), size)]
    return dict(enumerate(slots, start=OP_SLOT_BASE + 4 * first))


def _read_erased(given: Sequence[Any] | None, size: int) -> dict[int, int]:
    if given is None or int(given[0]) < 0:  # nothing is erased; -1 was written where no rectangle was found
        return {}
    top, left, height, width = map(int, given)
    if min(left, height, width) < 0:
        raise ValueError(given)
    top, left = min(top, size), min(left, size)
    return dict(zip(_ERASED, (top, left, min(height, size - top), min(width, size - left)), strict=True))


def written(values: Mapping[int, int], layout: Layout, size: int) -> list[Any]:
    """The params of the files for the field ids and values of a view, the reverse of `read`; of padded ones there is none."""
    own = _written_alone(values, layout, size)
    if not layout.mixed:
        return own
    if values[Field.OTHER] == ALONE:
        return [None, *own, None, None]
    theirs = {field - OTHER_BASE: value for field, value in values.items() if field > OTHER_BASE}
    pairs = [list(pair) for pair in zip(own, _written_alone(theirs, layout, size), strict=True)]
    lam = values[Field.OTHER_LAM]
    top, left, height, width = (values[f] for f in _PASTED)
    # Their loader does not use the first number of CutMix.
    cutmix = [1 - height * width / size**2, top, left, top + height, left + width] if height and width else None
    return [values[Field.OTHER], *pairs, lam / Q16 if lam < Q16 else None, cutmix]


def _written_alone(values: Mapping[int, int], layout: Layout, size: int) -> list[Any]:
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
