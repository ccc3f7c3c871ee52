"""Pack order: decides the order of the samples in a pack and where a shard may end, and makes the `.rein` of each sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reinforce.errors import SourceError, StoreError
from reinforce.packs.open_labels import match_keys
from reinforce.packs.rein_file import make_rein
from reinforce.sources.column import texts
from reinforce.sources.source import Source
from reinforce.sources.tar_members import is_meta
from reinforce.store.store import Store
from reinforce.views.seeds import choice_rng

WINDOW_BLOCKS = 64
"""Number of blocks whose samples are shuffled together; their params are in memory while they are packed."""
_NO_NAME = r"^/|(^|/)\.{0,2}(/|$)"  # a part of the path that is empty, `.` or `..`


class PackItem(NamedTuple):
    """One sample to pack: its key, its position in the source, its index in the store, and the number of its window."""

    key: str
    position: int
    sample: int
    window: int


@dataclass(frozen=True)
class Order:
    """The n samples to pack, in order.

    Attributes:
        keys: Key of each, string `[n]`.
        positions: Its position in the source: int64 `[n]`.
        samples: Its index in the store: int64 `[n]`.
        windows: Number of its window, rising: int64 `[n]`.
        whole_windows: Whether a shard ends only where a window does, and not behind any sample.
    """

    keys: pa.StringArray
    positions: np.ndarray
    samples: np.ndarray
    windows: np.ndarray
    whole_windows: bool

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
        mixes = store is not None and store.settings.policy.mix is not None
        if store is None:
            samples, windows = rng.permutation(len(source)), np.zeros(len(source), np.int64)
            positions = samples
        else:
            blocks = store.blocks if mixes else rng.permutation(store.blocks).tolist()
            ok = np.zeros(len(store.samples), bool)
            ok[store.ok_samples] = True
            parts, step = [], 1 if mixes else WINDOW_BLOCKS
            for first in range(0, len(blocks), step):
                group = [store.samples_of(block) for block in blocks[first : first + step]]
                inside = np.concatenate([np.sort(own[ok[own]]) for own in group])
                parts.append(inside if mixes else rng.permutation(inside))
            samples = np.concatenate(parts)
            windows = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
            positions = match_keys(store, source, samples)
        keys = texts(source.keys).array.take(pa.array(positions))
        bad = np.flatnonzero(pc.match_substring_regex(keys, _NO_NAME).to_numpy(zero_copy_only=False))
        if len(bad):
            found = repr(keys[bad[0]].as_py())
            raise SourceError(
                "A key is no name for a member of a tar.", found=found, expected="a relative path", fix="rename it"
            )
        return cls(keys, positions, samples, windows, mixes)

    def __len__(self) -> int:
        return len(self.keys)

    def item(self, number: int) -> PackItem:
        """One of them."""
        places = (int(values[number]) for values in (self.positions, self.samples, self.windows))
        return PackItem(self.keys[number].as_py(), *places)

    def end_of(self, keys: list[str], first: int) -> int:
        """The number of items up to the end of a shard, by the keys in it, the first of which is of item `first`.

        Raises:
            StoreError: other samples than these: a shard of another pack.
        """
        end = first + 1 + int(pc.index(self.keys[first:], keys[-1]).as_py())
        wanted = self.keys[first:end].to_pylist()
        if wanted != keys and [key for key in wanted if not is_meta(key)] != keys:
            raise StoreError(
                "A shard that is there already is not of this pack.",
                found=f"{len(keys)} samples, {keys[0]!r} to {keys[-1]!r}",
                expected=f"{self.keys[first].as_py()!r} and those behind it",
                cause="shards of another pack in --out",
                fix="remove the shards, or choose another --out",
            )
        return end

    def may_end(self, number: int) -> bool:
        """Whether a shard may end after so many samples."""
        return not self.whole_windows or number == len(self) or bool(self.windows[number - 1] != self.windows[number])

    def in_window(self, window: int) -> list[int]:
        """Indices of the samples of a window in the store, in order."""
        first, last = np.searchsorted(self.windows, [window, window + 1])
        found: list[int] = self.samples[first:last].tolist()
        return found


class ReinFiles:
    """Makes the `.rein` of each sample.

    It makes all of a window at once, because the store keeps params by view, and a `.rein` has those of one sample.
    """

    def __init__(self, store: Store, order: Order) -> None:
        self.store = store
        self.order = order
        self.window = -1
        self.made: dict[int, bytes] = {}

    def of(self, item: PackItem) -> bytes:
        """The `.rein` of one item."""
        if item.window != self.window:
            self.window = item.window
            self.made = self._make(self.order.in_window(item.window))
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
