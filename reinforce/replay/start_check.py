"""Start check: what is looked at before training: a few probes, stripes in which every op occurs, and hashes of some images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from reinforce.long_work import long_work
from reinforce.store.probes import read_checked
from reinforce.store.witness import covering_stripes
from reinforce.views.seeds import choice_rng

if TYPE_CHECKING:
    from reinforce.replay.dataset import ReinforcedDataset

STARTUP_PROBES = 16
STARTUP_HASH_BYTES = 32 << 20


def check_start(dataset: ReinforcedDataset) -> int:
    """Replay a few probes and stripes, so that every op is among their views, and hash up to 32 MB of images.

    Returns:
        Number of samples whose probe was checked.

    Raises:
        ReplayError: an image changed, or this machine makes different pixels from it.
    """
    order = choice_rng(dataset.seed).permutation(len(dataset))
    shown = long_work("check", "views")
    for done, index in enumerate(order[:STARTUP_PROBES]):
        shown(done, STARTUP_PROBES)
        dataset.check_probe(int(index))
    shown = long_work("check", "stripes of views")
    stripes = covering_stripes(_stripes_in_random_order(dataset), dataset.store.spec)
    for done, (index, stripe) in enumerate(stripes):
        shown(done, len(stripes))
        dataset.check_stripe(index, stripe)
    shown = long_work("check", "bytes of images")
    budget, hashes = STARTUP_HASH_BYTES, dataset.store.samples.sha256
    for index in order[STARTUP_PROBES:]:
        budget -= len(read_checked(dataset.source, int(dataset.source_index[index]), hashes[dataset.samples[index]]))
        if budget < 0:
            break
        shown(STARTUP_HASH_BYTES - budget, STARTUP_HASH_BYTES)
    return min(STARTUP_PROBES, len(dataset))


def _stripes_in_random_order(dataset: ReinforcedDataset) -> Iterator[tuple[list[tuple[int, int]], np.ndarray]]:
    store, rng = dataset.store, choice_rng(dataset.seed)
    stripes = -(-dataset.views // store.settings.stripe_views)
    for place in rng.permutation(len(store.blocks) * stripes).tolist():
        block, stripe = store.blocks[place // stripes], place % stripes
        samples = rng.permutation(store.samples_of(block))
        samples = samples[dataset.items_of(samples) >= 0]
        if len(samples) and store.witness_of(int(samples[0]), stripe) is not None:
            yield [(item, stripe) for item in dataset.items_of(samples).tolist()], store.params_of_stripe(samples, stripe)
