"""Witness: the check of all pixels that the teacher saw. A stripe of a sample has a CRC-32C over the pixels of all its views.

A check that makes views and replays them with the same code agrees with itself, whatever that code does. A witness was written
when the teacher saw the views. Training replays a few stripes before its first step; `covering_stripes` chooses them so that
everything that occurs in the params (each op, mirroring, erasing, mixing) occurs in one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np

from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.store.block import Block
from reinforce.store.manifest import Environment
from reinforce.store.probes import pixels_differ, read_checked
from reinforce.views.decode import decode
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import WHOLE
from reinforce.views.params import OP_SLOT_BASE, Field, PixelSpec
from reinforce.views.pixels import stored_view, witness_of

SCANNED_VIEWS, SCANNED_STRIPES = 1 << 18, 1 << 13
"""Stripes are chosen from so many views at most, and so many stripes: reading more would take longer than the check itself."""
WANTED = 2
"""Each thing that occurs is looked at in so many views: in one of them a later op or a partner may hide what is wrong."""
_MAX_OPS, _INTERPOLATIONS = 256, 4
_FLIPPED = _MAX_OPS * _INTERPOLATIONS
_ERASED, _MIXED_UP, _CUT, _RESIZED = range(_FLIPPED + 1, _FLIPPED + 5)
_COUNT = _RESIZED + _INTERPOLATIONS
Place = TypeVar("Place")


def occurrences(params: np.ndarray, spec: PixelSpec) -> tuple[np.ndarray, np.ndarray]:
    """What occurs in a stripe: each op with each interpolation, mirroring, erasing, MixUp, CutMix, and the kind of resize.

    Args:
        params: int32 `[n, v, P]`, of a stripe of n samples.
        spec: Layout of the params.

    Returns:
        Two uint16 `[n, codes]`: in how many of a sample's views each thing occurs; the same, but only of the views that show
        more of the sample itself than of its partner.
    """
    samples, views, _ = params.shape
    found = np.zeros((2, samples, _COUNT), np.uint16)
    clear = np.ones((samples, views), bool)
    row = np.repeat(np.arange(samples), views).reshape(samples, views)

    def column(field: int) -> np.ndarray:
        at = spec.column(field)
        made: np.ndarray = np.zeros((samples, views), np.int64) if at is None else params[:, :, at].astype(np.int64)
        return made

    def count(code: np.ndarray | int, where: np.ndarray) -> None:
        codes = np.broadcast_to(code, where.shape)
        for kind, chosen in enumerate((where, where & clear)):
            np.add.at(found[kind], (row[chosen], codes[chosen]), 1)

    if spec.column(Field.LAM) is not None:
        lam, area = column(Field.LAM), column(Field.BOX_HEIGHT) * column(Field.BOX_WIDTH)
        clear = (2 * lam > WHOLE) & (2 * area < spec.size**2)
        count(_MIXED_UP, lam < WHOLE)
        count(_CUT, area > 0)
    for slot in range(spec.num_slots):
        op, interpolation = column(OP_SLOT_BASE + 4 * slot), column(OP_SLOT_BASE + 4 * slot + 1)
        known = (op > 0) & (op < _MAX_OPS) & (interpolation >= 0) & (interpolation < _INTERPOLATIONS)
        count(op * _INTERPOLATIONS + interpolation, known)
    count(_FLIPPED, column(Field.HFLIP) > 0)
    count(_ERASED, column(Field.ERASE_HEIGHT) > 0)
    resized = column(Field.INTERPOLATION)
    count(_RESIZED + resized, (resized >= 0) & (resized < _INTERPOLATIONS))
    return found[0], found[1]


def covering_stripes(parts: Iterable[tuple[Sequence[Place], np.ndarray]], spec: PixelSpec) -> list[Place]:
    """The fewest stripes, nearly, in which everything that occurs in any of them occurs `WANTED` times, or as often as it does.

    Args:
        parts: Stripes of samples by any name, and the params of their views, int32 `[n, v, P]`. Reading ends after
            `SCANNED_VIEWS` views or `SCANNED_STRIPES` stripes.
        spec: Layout of the params.

    Returns:
        Names of stripes; none if there are no parts.
    """
    places: list[Place] = []
    counts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    views = 0
    for names, params in parts:
        places += names
        every, clear = occurrences(params, spec)
        codes = np.flatnonzero(every.any(axis=0))  # some twenty of a thousand
        counts.append((codes, every[:, codes], clear[:, codes]))
        views += params.shape[0] * params.shape[1]
        if views >= SCANNED_VIEWS or len(places) >= SCANNED_STRIPES:
            break
    occurring = np.unique(np.concatenate([codes for codes, _, _ in counts])) if counts else np.empty(0, np.int64)
    table = np.zeros((2, len(places), len(occurring)), np.uint16)
    start = 0
    for codes, every, clear in counts:
        stop = start + len(every)
        for kind, found in enumerate((every, clear)):
            table[kind, start:stop][:, np.searchsorted(occurring, codes)] = found
        start = stop
    gives = np.where(table[1].any(axis=0), table[1], table[0])
    needed = np.minimum(gives.sum(axis=0, dtype=np.int64), WANTED).astype(np.uint16)
    chosen: list[Place] = []
    while needed.any():
        best = int(np.minimum(gives, needed).sum(axis=1).argmax())
        needed -= np.minimum(gives[best], needed)
        gives[best] = 0
        chosen.append(places[best])
    return chosen


def check_stripe(
    params_of: Callable[[int, int], np.ndarray],
    views: range,
    rows: int,
    row: int,
    spec: PixelSpec,
    image_of: Callable[[int], np.ndarray],
    expected: int,
    what: str,
    made_with: Environment,
) -> None:
    """Replay all views of a stripe of one sample, and compare their pixels with its witness.

    Args:
        params_of: Row of a block and number of a view to params, int32 `[P]`.
        views: The views of the stripe.
        rows: How many samples the block has.
        row: The sample.
        spec: Size, layout and fill of the reinforced dataset.
        image_of: Row to decoded image, uint8 `[H, W, 3]`; asked for once per view and member of a pair, so it should remember.
        expected: The witness.
        what: Names the sample in the error.
        made_with: Compared with this machine in the error.

    Raises:
        ReplayError: pixels differ.
        StoreError: params that this image cannot give, or a partner that is none.
    """
    found = 0
    for view in views:
        pixels = stored_view(lambda other, view=view: params_of(other, view), rows, row, spec, image_of)  # type: ignore[misc]
        found = witness_of(pixels[None], found)
    if found != expected:
        among = f"{what}, one of views {views[0]} to {views[-1]}" if len(views) > 1 else f"{what}, view {views[0]}"
        raise pixels_differ(among, f"CRC-32C {found:08x}", f"CRC-32C {expected:08x}", made_with)


def check_block_stripe(
    block: Block, rows: np.ndarray, row: int, stripe: int, source: Source, settings: Settings, made_with: Environment
) -> None:
    """The same for a block on disk that has a witness; `rows` are the indices of its samples in `source`, int64 `[S]`."""
    part, hashes = block.stripe(stripe), block.sample_columns()["sha256"]
    assert part.witness is not None
    first, index = stripe * settings.stripe_views, rows.tolist()
    check_stripe(
        lambda other, view: part.params_of_view(view - first)[other],
        range(first, first + part.shape[1]),
        len(index),
        row,
        pixel_spec(settings.policy, settings.size),
        lru_cache(maxsize=2)(lambda other: decode(read_checked(source, index[other], hashes[other]))),
        int(part.witness[row]),
        source.keys[index[row]],
        made_with,
    )
