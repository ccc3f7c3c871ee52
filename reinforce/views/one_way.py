"""One-way mixing: MixUp and CutMix of a view with a view of any other sample (FORMAT.md, "Pixel contract", "Mix one way").

Only imported labels have it: ImageNet+'s writer mixes a view with any image of its batch, and that image's own views are mixed
with others. So the other view's params stand beside those of the view itself, and its image must be decoded too.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from reinforce.errors import StoreError
from reinforce.views.apply import apply
from reinforce.views.params import Q16, Field, PixelSpec

ONE_WAY_FIELDS = (
    Field.OTHER, Field.OTHER_LAM, Field.PASTE_TOP, Field.PASTE_LEFT, Field.PASTE_HEIGHT, Field.PASTE_WIDTH,
)  # fmt: skip
"""The columns of one-way mixing in params, in order; after them stand those of the other view."""
ALONE = -1
"""Value of OTHER in a view that is not mixed; all other columns of mixing are 0."""


def one_way_view(image: np.ndarray, params: np.ndarray, spec: PixelSpec, image_of: Callable[[int], np.ndarray]) -> torch.Tensor:
    """The pixels of one stored view, mixed with the other view where it has one.

    Args:
        image: Decoded image of the sample, uint8 `[H, W, 3]`.
        params: int32 `[P]`.
        spec: Size, layout and fill; any layout, with one-way mixing or without.
        image_of: Sample of the data set to its decoded image; called only if the view is mixed.

    Returns:
        uint8 `[3, size, size]`.

    Raises:
        StoreError: params that one of the images cannot give, or a share or a rectangle that cannot be.
    """
    own = apply(image, params, spec)
    sample = other_of(params, spec)
    if spec.other is None or sample == ALONE:
        return own
    if fault := one_way_fault(params[None], spec):
        raise StoreError(
            "Params mix a view in a way that cannot be.",
            found=fault,
            cause="the params are damaged",
            fix="reinforce verify DIR",
        )
    other = apply(image_of(sample), params[spec.other_columns], spec.other)
    return torch.from_numpy(_mixed(own.numpy(), other.numpy(), params, spec))


def other_of(params: np.ndarray, spec: PixelSpec) -> int:
    """The sample that a view is mixed with; -1: none."""
    return spec.read(params, Field.OTHER, ALONE)


def share_of(params: np.ndarray, spec: PixelSpec) -> float:
    """How much of the sample's own hard label is left after one-way mixing, 0 to 1."""
    if other_of(params, spec) == ALONE:
        return 1.0
    area = spec.read(params, Field.PASTE_HEIGHT, 0) * spec.read(params, Field.PASTE_WIDTH, 0) / spec.size**2
    return spec.read(params, Field.OTHER_LAM, Q16) / Q16 * (1 - area)


def one_way_fault(params: np.ndarray, spec: PixelSpec) -> str | None:
    """Which share or rectangle of mixed views, params int32 `[n, P]`, cannot be; or None."""
    lam, top, left, height, width = (params[:, spec.fields.index(f)].astype(np.int64) for f in ONE_WAY_FIELDS[1:])
    if np.any((lam < 0) | (lam > Q16)):
        return f"a share that is not within 0..{Q16}"
    least = np.minimum(np.minimum(top, left), np.minimum(height, width))
    if np.any((least < 0) | (top + height > spec.size) | (left + width > spec.size)):
        return "a rectangle of CutMix outside of the view"
    return None


def _mixed(own: np.ndarray, other: np.ndarray, params: np.ndarray, spec: PixelSpec) -> np.ndarray:
    lam, top, left, height, width = (spec.read(params, f, 0) for f in ONE_WAY_FIELDS[1:])
    result = own
    if lam < Q16:
        total = own * np.int32(lam)
        total += other * np.int32(Q16 - lam)
        total += Q16 // 2
        result = (total >> 16).astype(np.uint8)
    if height and width:
        result = result.copy()
        result[:, top : top + height, left : left + width] = other[:, top : top + height, left : left + width]
    return result
