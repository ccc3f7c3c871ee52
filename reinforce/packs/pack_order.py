"""Pack order: in which order samples are packed, where a shard may end, and what a sample's `.rein` holds."""

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
"""Blocks whose samples are shuffled among each other: their params are held in memory meanwhile."""


class PackItem(NamedTuple):
    """One sample to pack: its key, its position in the source, its index in the store, and the window that it is in."""

    key: str
    position: int
    sample: int
    window: int


@dataclass(frozen=True)
class Order:
    """All items in order, and after how many of them a shard may end."""

    items: list[PackItem]
    ends: set[int]

    @classmethod
    def of(cls, source: Source, store: Store | None) -> Order:
        """In random order, for those who stream; but samples that are mixed with each other stand by blocks, and none is torn.

        Raises:
            SourceError: samples are not in the source, or a key is no name for a member of a tar.
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
    """The `.rein` of each sample, made for a window at a time: params are stored by view, and wanted by sample."""

    def __init__(self, store: Store, order: Order) -> None:
        self.store = store
        self.samples: dict[int, list[int]] = {}
        for item in order.items:
            self.samples.setdefault(item.window, []).append(item.sample)
        self.window = -1
        self.made: dict[int, bytes] = {}

    def of(self, item: PackItem) -> bytes:
        """The member of one item."""
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
            params, probes = block.params(), block.probes()
            for sample in inside:
                row = int(table.row[sample])
                records = [bytes(stripe.record(row)) for stripe in block.stripes]
                views = self.store.settings.stripe_views
                made[sample] = make_rein(params[row], records, views, number, row, int(probes[row]))
        return made


def escaped(key: str) -> str:
    """A key as the name of a member, in which a dot ends it."""
    folder, slash, name = key.rpartition("/")
    return folder + slash + name.replace("%", "%25").replace(".", "%2E")


def unescaped(name: str) -> str:
    """The key of a member's name."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.replace("%2E", ".").replace("%25", "%")
