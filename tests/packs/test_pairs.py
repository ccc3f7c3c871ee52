"""Pairs of a pack: read and checked whole once, then a view at a time; what changes meanwhile is noticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reinforce.errors import SourceError, StoreError
from reinforce.packs.packed_store import PackedStore
from reinforce.packs.pair_files import PairFiles, mixing_path
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sources.location import File
from reinforce.store.store import Store
from tests.packs.conftest import open_shards

pytestmark = pytest.mark.unit


@pytest.fixture
def own(packs: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(packs("mixed"), tmp_path / "own"))


@pytest.fixture
def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each read of a file of pairs."""
    found: list[int] = []
    read = File.read

    def counted(self: File, offset: int = 0, length: int | None = None) -> bytes:
        content = read(self, offset, length)
        if "/mixing/" in self.location:
            found.append(len(content))
        return content

    monkeypatch.setattr(File, "read", counted)
    return found


def test_files_of_pairs_are_read_whole_once_and_then_a_view_at_a_time(
    own: Path, labels: Callable[[str], Path], read_bytes: list[int]
) -> None:
    dataset, plain = ReinforcedDataset(own, check=False), Store(labels("mixed"))
    blocks, views = len(dataset.store.blocks), dataset.store.settings.views
    whole = sum(path.stat().st_size for path in (own / "mixing").iterdir())
    for epoch in range(views):
        dataset.set_epoch(epoch)
    first = sum(read_bytes)
    assert len(read_bytes) == views * blocks
    again = len(read_bytes)
    for epoch in range(views, 2 * views):
        dataset.set_epoch(epoch)
    frames = read_bytes[again:]
    tables = 4 * views * blocks  # the lengths in front of the frames
    assert sum(frames) == whole - tables, "each view of each block once, and nothing else"
    assert first < 2 * whole
    for block in dataset.store.blocks:
        for view in range(views):
            pairs = dataset.store.pairs_of_view(block, view)
            assert np.array_equal(pairs, plain.pairs_of_view(block, view))


def test_a_file_of_pairs_that_changes_after_it_was_checked_is_noticed(own: Path) -> None:
    store = PackedStore(open_shards(own))
    store.pairs_of_view(0, 0)
    path = own / mixing_path(0, 0)
    content = bytearray(path.read_bytes())
    content[4 * 2 + 20] ^= 1  # in the frame of the first of two views
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"mixing/000000.000.bin is not the file of the pack any more"):
        store.pairs_of_view(0, 0)
    assert store.pairs_of_view(0, 1).shape[1] == 6
    path.write_bytes(content[:-1])
    with pytest.raises(SourceError, match="cannot be read"):
        store.pairs_of_view(0, 1)
    with pytest.raises(StoreError, match="is not the file of the pack"):
        PackedStore(open_shards(own)).pairs_of_view(0, 0)


def test_what_is_kept_of_a_file_is_small(own: Path) -> None:
    store = PackedStore(open_shards(own))
    for view in range(store.settings.views):
        store.pairs_of_view(0, view)
    files: PairFiles = store._pairs
    assert len(files._known) == store.settings.num_stripes
    for known in files._known.values():
        views = len(known.ends) - 1
        assert known.ends.nbytes + len(known.digests) == 24 * views + 8
