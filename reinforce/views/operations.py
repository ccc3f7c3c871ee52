"""Operations: which ops there are, by their ids (FORMAT.md, "Params"). A new op is one line in `OPERATIONS`."""

from __future__ import annotations

from reinforce.errors import StoreError
from reinforce.views import ops, warp
from reinforce.views.blur import scaled_radius
from reinforce.views.operation import Operation
from reinforce.views.params import MAX_BLUR, MAX_FACTOR, Op

_FACTOR = (-MAX_FACTOR, MAX_FACTOR)

OPERATIONS: dict[int, Operation] = {
    op.id: op
    for op in (
        Operation(Op.NONE, "NONE", lambda image, i, a, b, fill: image),
        Operation(Op.AUTO_CONTRAST, "AUTO_CONTRAST", lambda image, i, a, b, fill: ops.auto_contrast(image)),
        Operation(Op.EQUALIZE, "EQUALIZE", lambda image, i, a, b, fill: ops.equalize(image)),
        Operation(Op.INVERT, "INVERT", lambda image, i, a, b, fill: ops.invert(image)),
        Operation(Op.ROTATE, "ROTATE", lambda image, i, a, b, fill: warp.rotate(image, i, a, b, fill), geometric=True),
        Operation(Op.POSTERIZE, "POSTERIZE", lambda image, i, a, b, fill: ops.posterize(image, a)),
        Operation(Op.SOLARIZE, "SOLARIZE", lambda image, i, a, b, fill: ops.solarize(image, a)),
        Operation(Op.SOLARIZE_ADD, "SOLARIZE_ADD", lambda image, i, a, b, fill: ops.solarize_add(image, a)),
        Operation(Op.COLOR, "COLOR", lambda image, i, a, b, fill: ops.color(image, a), a=_FACTOR),
        Operation(Op.CONTRAST, "CONTRAST", lambda image, i, a, b, fill: ops.contrast(image, a), a=_FACTOR),
        Operation(Op.BRIGHTNESS, "BRIGHTNESS", lambda image, i, a, b, fill: ops.brightness(image, a), a=_FACTOR),
        Operation(Op.SHARPNESS, "SHARPNESS", lambda image, i, a, b, fill: ops.sharpness(image, a), a=_FACTOR),
        Operation(Op.SHEAR_X, "SHEAR_X", lambda image, i, a, b, fill: warp.shear_x(image, i, a, fill), geometric=True),
        Operation(Op.SHEAR_Y, "SHEAR_Y", lambda image, i, a, b, fill: warp.shear_y(image, i, a, fill), geometric=True),
        Operation(
            Op.TRANSLATE_X, "TRANSLATE_X", lambda image, i, a, b, fill: warp.translate_x(image, i, a, fill), geometric=True
        ),
        Operation(
            Op.TRANSLATE_Y, "TRANSLATE_Y", lambda image, i, a, b, fill: warp.translate_y(image, i, a, fill), geometric=True
        ),
        Operation(
            Op.GAUSSIAN_BLUR,
            "GAUSSIAN_BLUR",
            lambda image, i, a, b, fill: ops.gaussian_blur(image, a),
            a=(0, MAX_BLUR),
            scaled=scaled_radius,
        ),
    )
}


def operation_of(op: int, interpolation: int, a: int, b: int) -> Operation:
    """The op of a slot, whose arguments it takes.

    Raises:
        StoreError: no op of this version, or arguments that it does not take.
    """
    if op not in OPERATIONS:
        raise StoreError(
            f"Params name op {op}, which this version does not know.",
            expected=", ".join(f"{each.id} ({each.name.lower()})" for each in OPERATIONS.values()),
            cause="the data set was made by a newer version, or its params are damaged",
            fix="pip install --upgrade reinforce",
        )
    found = OPERATIONS[op]
    if fault := found.fault(interpolation, a, b):
        raise StoreError(
            f"Params give op {found.name.lower()} an argument that it does not take.",
            found=fault,
            cause="the params are damaged, or the data set was made by a newer version",
            fix="reinforce verify DIR",
        )
    return found
