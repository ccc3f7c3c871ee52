"""Resume: before a run goes on, views of blocks that exist are replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from reinforce.generation.block_labels import block_samples
from reinforce.generation.engine import planned
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.store.block import Block
from reinforce.store.manifest import Environment
from reinforce.store.place import Place
from reinforce.store.probes import check_block_probes
from reinforce.store.witness import check_block_stripe, covering_stripes
from reinforce.views.layout import pixel_spec
from reinforce.views.status import Status

RESUME_PROBES = 2
"""How many probes of an existing block are replayed before a run is resumed."""


def check_same_pixels(source: Source, settings: Settings, env: Environment, place: Place) -> None:
    """Replay views of existing blocks: a resumed run must make the same pixels as the run that made these blocks.

    Args:
        source: The images.
        settings: Settings of the data set.
        env: Versions that it was begun with; for the message.
        place: Where it is; of its blocks, so many as it says are looked at, evenly spread.

    Raises:
        ReplayError: the pixels differ.
    """
    there, most = sorted(place.committed(settings)), place.resume_blocks
    few = {there[i * len(there) // most] for i in range(most)} if len(there) > most else there
    with ExitStack() as stack:
        blocks: dict[int, Block] = {}
        for number in sorted(few):
            blocks[number] = block = stack.enter_context(place.opened(planned(source, settings, number)))
            check_block_probes(block, block_samples(settings, number), source, settings, env, limit=RESUME_PROBES)
        spec = pixel_spec(settings.policy, settings.size)
        for number, row, stripe in covering_stripes(_stripes(blocks), spec):
            check_block_stripe(blocks[number], block_samples(settings, number), row, stripe, source, settings, env)


def _stripes(blocks: dict[int, Block]) -> Iterator[tuple[list[tuple[int, int, int]], np.ndarray]]:
    for number, block in blocks.items():
        ok = np.flatnonzero(block.sample_columns()["status"] == Status.OK)
        for stripe in block.stripes if len(ok) else []:
            if stripe.witness is not None:
                yield [(number, row, stripe.number) for row in ok.tolist()], stripe.params()[ok]
