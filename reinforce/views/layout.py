"""Layout: which params columns the views of a policy have. Pure. Source: FORMAT.md, "Params"."""

from __future__ import annotations

from reinforce.policy import Policy
from reinforce.views.mix import MIX_FIELDS
from reinforce.views.one_way import ONE_WAY_FIELDS
from reinforce.views.params import OP_SLOT_BASE, OTHER_BASE, Field, PixelSpec

_CROP_BOX = (Field.CROP_TOP, Field.CROP_LEFT, Field.CROP_HEIGHT, Field.CROP_WIDTH)
_ERASED = (Field.ERASE_TOP, Field.ERASE_LEFT, Field.ERASE_HEIGHT, Field.ERASE_WIDTH)
_WINDOW = (Field.RESIZE_HEIGHT, Field.RESIZE_WIDTH, Field.WINDOW_TOP, Field.WINDOW_LEFT)


def pixel_spec(policy: Policy, size: int) -> PixelSpec:
    """The params layout of a policy at a view size in pixels; the columns of mixing are the last ones."""
    fields: tuple[int, ...] = _CROP_BOX
    if policy.crop in ("centre", "pad"):
        fields += _WINDOW
    fields += (Field.INTERPOLATION,)
    if policy.augments:
        fields += (Field.HFLIP,)
        fields += _ERASED if policy.reprob else ()
        fields += (Field.ERASE_SEED,) if policy.reprob and policy.remode == "pixel" else ()
        fields += tuple(range(OP_SLOT_BASE, OP_SLOT_BASE + 4 * policy.num_slots))
        fields += MIX_FIELDS if policy.mix else ()
        fields += (*ONE_WAY_FIELDS, *(OTHER_BASE + f for f in fields)) if policy.one_way else ()
    return PixelSpec(size, tuple(map(int, fields)), policy.fill, policy.re_fill)
