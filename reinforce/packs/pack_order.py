"""Pack order: decides the order of the samples in a pack and where a shard may end, and makes the `.rein` of each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reinforce.errors import SourceError
from reinforce.packs.open_labels import match_keys
from reinforce.packs.rein_file import make_rein
from reinforce.sources.source import Source
from reinforce.store.store import Store
from reinforce.views.seeds import choice_rng

WINDOW_BLOCKS = 64
"""Number of blocks whose samples are shuffled together; their params are in memory while they are packed."""


class PackItem(NamedTuple):
    """One sample to pack: its key, its position in the source, its index in the store, and the number of its window."""

    key: str
    position: int
    sample: int
    window: int


@dataclass(frozen=True)
class Order:
    """All items in order, and the numbers of items after which a shard may end."""

    items: list[PackItem]
    ends: set[int]

    @classmethod
    def of(cls, source: Source, store: Store | None) -> Order:
        """The order in which to pack a source.

        The order is random, because webdataset users read the shards as a stream. If samples are mixed with each other, they
        stay in the order of their blocks, and a shard ends only at the end of a block, so that both members of each pair are in
        one shard.

        Raises:
            SourceError: a sample is not in the source, or a key cannot be the name of a member of a tar.
        """
        rng = choice_rng(0)
        if store is None:
            samples, windows = rng.permutation(len(source)), np.zeros(len(source), np.int64)
            positions = samples
        else:
            mixes = store.settings.policy.mix is not None
            blocks = store.blocks if mixes else rng.permutation(store.blocks).tolist()
            parts, step = [], 1 if mixes else WINDOW_BLOCKS
            for first in range(0, len(blocks), step):
                group = blocks[first : first + step]
                inside = np.concatenate([np.intersect1d(store.samples_of(b), store.ok_samples) for b in group])
                parts.append(inside if mixes else rng.permutation(inside))
            samples = np.concatenate(parts)
            windows = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
            positions = match_keys(store, source, samples)
        keys = [source.keys[p] for p in positions]
        for key in keys:
            if key.startswith("/") or not {"", ".", ".."}.isdisjoint(key.split("/")):
                raise SourceError(
                    "A key is no name for a member of a tar.", found=repr(key), expected="a relative path", fix="rename it"
                )
        items = [PackItem(*each) for each in zip(keys, positions.tolist(), samples.tolist(), windows.tolist(), strict=True)]
        if store is None or store.settings.policy.mix is None:
            return cls(items, set(range(1, len(items) + 1)))
        return cls(items, {*(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(items)})


class ReinFiles:
    """Makes the `.rein` of each sample.

    It makes all of a window at once, because the store keeps params by view, and a `.rein` has those of one sample.
    """

    def __init__(self, store: Store, order: Order) -> None:
        self.store = store
        self.samples: dict[int, list[int]] = {}
        for item in order.items:
            self.samples.setdefault(item.window, []).append(item.sample)
        self.window = -1
        self.made: dict[int, bytes] = {}

    def of(self, item: PackItem) -> bytes:
        """The `.rein` of one item."""
        if item.window != self.window:
            self.window = item.window
            self.made = self._make(self.samples[item.window])
        return self.made[item.sample]

    def _make(self, samples: list[int]) -> dict[int, bytes]:
        made, table = {}, self.store.samples
        by_block: dict[int, list[int]] = {}
        for sample in samples:
            by_block.setdefault(int(table.block[sample]), []).append(sample)
        for number, inside in by_block.items():
            block = self.store.block(number)
            params, probes, witness = block.params(), block.probes(), block.witness()
            for sample in inside:
                row = int(table.row[sample])
                records = [bytes(stripe.record(row)) for stripe in block.stripes]
                views = self.store.settings.stripe_views
                seen = None if witness is None else witness[row].tolist()
                made[sample] = make_rein(params[row], records, views, number, row, int(probes[row]), seen)
        return made


def escaped(key: str) -> str:
    """The name of a tar member for a key. Dots are escaped, because webdataset's key is the name up to the first dot."""
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.replace("%", "%25").replace(".", "%2E")


def unescaped(name: str) -> str:
    """The key for the name of a tar member."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.replace("%2E", ".").replace("%25", "%")
