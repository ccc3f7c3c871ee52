"""Label stores: a third kind in one class is replayed, checked and trained from as the two that there are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reinforce import ReinforcedDataset
from reinforce.errors import StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.packs.open_labels import open_labels
from reinforce.packs.pack import Options, pack
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import Block
from reinforce.store.label_store import LabelStore
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.verification.sample_checks import bad_labels, bad_params
from reinforce.views.mix import pairs_in
from reinforce.views.policy_text import parse_policy
from tests.conftest import make_settings

pytestmark = pytest.mark.unit


class MemoryStore(LabelStore):
    """All of a store in memory."""

    sha256 = "0" * 64

    def __init__(self, of: Store) -> None:
        super().__init__(of.root, of.manifest, of.samples)
        self.held = {block: of.block(block) for block in of.blocks}
        self.params = {block: held.params() for block, held in self.held.items()}

    @property
    def blocks(self) -> list[int]:
        return list(self.held)

    @property
    def ok_samples(self) -> np.ndarray:
        return np.flatnonzero(self.samples.status == 0)

    def place(self, sample: int) -> tuple[int, int]:
        return int(self.samples.block[sample]), int(self.samples.row[sample])

    def record(self, sample: int, stripe: int) -> bytes:
        block, row = self.place(sample)
        return bytes(self.held[block].record(row, stripe))

    def params_of(self, sample: int, view: int) -> np.ndarray:
        block, row = self.place(sample)
        return self.params[block][row, view]

    def probe_of(self, sample: int) -> int:
        block, row = self.place(sample)
        return int(self.held[block].probes()[row])

    def params_of_view(self, block: int, view: int) -> np.ndarray:
        return self.params[block][:, view]

    def pairs_of_view(self, block: int, view: int) -> np.ndarray:
        return self.params[block][:, view, -6:]


@pytest.fixture(params=["blocks", "memory", "shards"])
def kind(request: pytest.FixtureRequest, store: Path, images: Path, tmp_path: Path) -> LabelStore:
    if request.param == "shards":
        pack(ImageFolder.open(images), store, tmp_path / "shards", Options(shard_bytes=20_000))
        return open_labels(tmp_path / "shards")
    return Store(store) if request.param == "blocks" else MemoryStore(Store(store))


def test_every_kind_replays_the_same(kind: LabelStore, store: Path, images: Path) -> None:
    expected, found = ReinforcedDataset(store, images, seed=5), ReinforcedDataset(kind, images, seed=5)
    assert found.check() == expected.check()
    assert len(found) == len(expected) == 24
    for epoch in (0, 3):
        expected.set_epoch(epoch)
        found.set_epoch(epoch)
        for theirs, ours in ((expected[index], found[index]) for index in range(24)):
            assert torch.equal(theirs[0], ours[0])
            assert torch.equal(theirs[1], ours[1])
            assert theirs[2] == ours[2]
    for sample in kind.ok_samples:
        params = np.stack([kind.params_of(int(sample), view) for view in range(kind.settings.views)])
        assert bad_params(kind, "key", params, kind.samples.width_height[sample]) is None
        assert bad_labels(kind, "key", int(sample), None) is None


def test_images_stand_beside_the_labels_of_shards_alone(kind: LabelStore) -> None:
    assert (kind.images is not None) == (type(kind).__name__ == "PackedStore")


def test_an_item_of_the_epoch_takes_the_params_that_the_epoch_has_read(
    store: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ReinforcedDataset(store, images)
    dataset.set_epoch(1)
    before = [dataset[index] for index in range(4)]
    monkeypatch.setattr(Store, "params_of", lambda *arguments: pytest.fail("read again"))
    for index, item in enumerate(before):
        assert torch.equal(dataset[index][0], item[0])
    with pytest.raises(pytest.fail.Exception, match="read again"):
        dataset.replay(0, (dataset.view_of(0) + 1) % 5)  # another view than the epoch's


def test_the_probes_of_a_block_are_read_once(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, read = Store(store), Block.probes
    reads: list[str] = []

    def noting(block: Block) -> np.ndarray:
        reads.append(block.path.name)
        return read(block)

    monkeypatch.setattr(Block, "probes", noting)
    found = [opened.probe_of(sample) for sample in range(len(opened.samples))]
    assert len(set(found)) > 20
    assert sorted(reads) == [f"{block:06d}.zarr" for block in opened.blocks]


def test_columns_of_mixing_are_found_by_their_ids_and_missed_with_words(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, policy=parse_policy("usi"), views=2)
    generate(source, teacher, settings, tmp_path / "mixed", Execution(16, workers=0))
    store = Store(tmp_path / "mixed")
    pairs = store.pairs_of_view(0, 1)
    rows, fields = store.params_of_view(0, 1), store.spec.fields
    moved = replace(store.spec, fields=(*fields[-6:], *fields[:-6]))
    found = pairs_in(np.roll(rows, 6, axis=1), moved)
    assert found is not None
    assert np.array_equal(found, pairs)
    store.spec = replace(store.spec, fields=fields[:-6])
    with pytest.raises(StoreError, match="without the columns for it"):
        store.pairs_of_view(0, 1)
