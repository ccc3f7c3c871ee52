"""Exactness: how far replayed views are from those that the peer's own arithmetic makes, measured in a few at import."""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import Image

from reinforce.peers.reader import Reader
from reinforce.settings import ReplayError
from reinforce.views.apply import apply
from reinforce.views.layout import pixel_spec

SAMPLES = 32
"""About how many samples are compared, in one view each."""
_TRIES = 16  # views of a sample, where some cannot be compared


class Apart(NamedTuple):
    """How far two views are apart: mean and highest absolute difference of their pixels, of 255."""

    mean: float
    highest: int


def compare(reader: Reader, content: bytes, first: int, encoded: bytes, image: np.ndarray, params: np.ndarray) -> Apart | None:
    """Compare one view of a sample; None: the reader knows the peer's arithmetic of none that was tried.

    Args:
        reader: Reader of the files.
        content: Labels of the sample as found in the files.
        first: The view to begin with.
        encoded: The image as its source has it.
        image: The same, decoded as for replay: uint8 `[H, W, 3]`.
        params: int32 `[V, P]`.
    """
    if reader.arithmetic is None:
        return None
    try:
        with Image.open(io.BytesIO(encoded)) as opened:
            rgb = opened.convert("RGB")
    except (OSError, ValueError):  # what only the other decoder reads
        return None
    for view in range(first, first + min(_TRIES, reader.views)):
        try:
            theirs = reader.peer_view(content, view % reader.views, rgb)
        except (
            ValueError,
            TypeError,
            IndexError,
            OverflowError,
        ):  # their library refuses what `parse` takes, such as 3.0 for 3
            continue
        if theirs is not None:
            ours = apply(image, params[view % reader.views], pixel_spec(reader.policy, reader.size)).numpy()
            apart = np.abs(ours.astype(np.int16) - theirs)
            return Apart(float(apart.mean()), int(apart.max()))
    return None


def summary(reader: Reader, found: list[Apart]) -> ReplayError | None:
    """What was found in all views that were compared; None: there was none."""
    if not found or reader.arithmetic is None:
        return None
    means = [apart.mean for apart in found]
    return ReplayError(
        against=reader.arithmetic,
        views=len(found),
        mean=float(np.mean(means)),
        worst_view=max(means),
        max=max(apart.highest for apart in found),
    )
