"""Resume: before a run goes on, views of blocks that exist are replayed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reinforce.generation.block_labels import block_samples
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.store.block import Block, block_path, committed_blocks
from reinforce.store.manifest import Environment
from reinforce.store.probes import check_block_probes
from reinforce.store.witness import check_block_stripe, covering_stripes
from reinforce.views.layout import pixel_spec
from reinforce.views.status import Status

RESUME_PROBES, RESUME_BLOCKS = 2, 64
"""How many probes of an existing block are replayed before a run is resumed, and of how many blocks, evenly spread."""


def check_same_pixels(source: Source, settings: Settings, env: Environment, out: Path) -> None:
    """Replay views of existing blocks: a resumed run must make the same pixels as the run that made these blocks.

    Args:
        source: The images.
        settings: Settings of the data set.
        env: Versions that it was begun with; for the message.
        out: Its folder.

    Raises:
        ReplayError: the pixels differ.
    """
    spec = pixel_spec(settings.policy, settings.size)
    blocks: dict[int, Block] = {}
    there = sorted(committed_blocks(out))
    few = {there[i * len(there) // RESUME_BLOCKS] for i in range(RESUME_BLOCKS)} if len(there) > RESUME_BLOCKS else there
    for number in sorted(few):
        rows = block_samples(settings, number)
        blocks[number] = Block(block_path(out, number), len(rows), settings.views, len(spec.fields), settings.stripe_views)
        check_block_probes(blocks[number], rows, source, settings, env, limit=RESUME_PROBES)

    def stripes() -> Iterator[tuple[list[tuple[int, int, int]], np.ndarray]]:
        for number, block in blocks.items():
            ok = np.flatnonzero(block.sample_columns()["status"] == Status.OK)
            for stripe in block.stripes if len(ok) else []:
                if stripe.witness is not None:
                    yield [(number, row, stripe.number) for row in ok.tolist()], stripe.params()[ok]

    for number, row, stripe in covering_stripes(stripes(), spec):
        check_block_stripe(blocks[number], block_samples(settings, number), row, stripe, source, settings, env)
