"""Partners: check the samples with which views are mixed one-way; they may be any of the data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reinforce.errors import StoreError
from reinforce.settings import Settings
from reinforce.store.block import Block, block_path
from reinforce.store.samples import Samples
from reinforce.views.one_way import ALONE, one_way_fault
from reinforce.views.params import Field, PixelSpec
from reinforce.views.status import Status

_CROP = (Field.CROP_TOP, Field.CROP_LEFT, Field.CROP_HEIGHT, Field.CROP_WIDTH)


def check_partners(root: Path, settings: Settings, spec: PixelSpec, samples: Samples, ordered: np.ndarray) -> None:
    """Check the images with which views are mixed, once all blocks are written: they may be any, of any block.

    Args:
        root: The folder with the blocks.
        settings: Settings of the data set.
        spec: Layout of the params, with one-way mixing.
        samples: The samples of the whole data set.
        ordered: Indices of the samples in the order of blocks and rows, int64 `[N]`.

    Raises:
        StoreError: a view is mixed with an image that there is not, or with a part that it does not have.
    """
    for number in range(settings.num_blocks):
        rows = ordered[number * settings.block_size :][: settings.block_size]
        block = Block(block_path(root, number), len(rows), settings.views, len(spec.fields), settings.stripe_views)
        views = block.params()[samples.status[rows] == Status.OK].reshape(-1, len(spec.fields))
        if fault := partner_fault(views, spec, samples):
            raise StoreError(
                "Views are mixed with images that cannot be shown.",
                found=fault,
                expected="labels and images of every partner: a mixed view is made from two images",
                cause="only some of the labels or images, or others than those that the labels were made from",
                fix="give all of them",
            )


def partner_fault(params: np.ndarray, spec: PixelSpec, samples: Samples) -> str | None:
    """What is wrong with how views are mixed one-way, or None; what ops and erasing do to the other view is not looked at.

    Args:
        params: int32 `[n, P]`.
        spec: Their layout, with one-way mixing.
        samples: The samples of the whole data set.
    """
    assert spec.other is not None
    mixed = params[params[:, spec.fields.index(Field.OTHER)] != ALONE]
    other = mixed[:, spec.fields.index(Field.OTHER)].astype(np.int64)
    absent = (other < 0) | (other >= len(samples))
    if absent.any():
        return f"a view is mixed with sample {other[absent][0]} of {len(samples)}"
    bad = samples.status[other] != Status.OK
    if bad.any():
        sample = int(other[bad][0])
        reason = samples.reasons.get(sample, "it is not ok")
        return f"{int(bad.sum())} views are mixed with images that are not ok, such as {samples.key(sample)}: {reason}"
    theirs = mixed[:, spec.other_columns].astype(np.int64)
    top, left, height, width = (theirs[:, spec.other.fields.index(f)] for f in _CROP)
    sizes = samples.width_height[other].astype(np.int64)
    outside = (top < 0) | (left < 0) | (height < 1) | (width < 1) | (top + height > sizes[:, 1]) | (left + width > sizes[:, 0])
    if outside.any():
        first = int(np.argmax(outside))
        box, (wide, high) = [int(each[first]) for each in (top, left, height, width)], sizes[first].tolist()
        return f"a view is mixed with the crop {box} of {samples.key(int(other[first]))}, {wide}x{high} pixels"
    return one_way_fault(mixed, spec)
