"""The order of a pack: the one that it always had, found by looking at each sample once."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from reinforce.errors import StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.packs import pack_order
from reinforce.packs.pack import pack
from reinforce.packs.pack_order import Order
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import choice_rng
from tests.conftest import make_settings
from tests.packs.conftest import POLICIES, SMALL

pytestmark = pytest.mark.unit


@pytest.fixture(params=["alone", "mixed"])
def spoilt(request: pytest.FixtureRequest, own_images: Path, teacher: Teacher, tmp_path: Path) -> tuple[ImageFolder, Store]:
    """A store in which samples are missing or corrupt, among them all of a block in order; and its images."""
    (own_images / "apple" / "003.png").write_bytes(b"no image")
    for path in (own_images / "bread").iterdir():
        path.write_bytes(b"no image")
    source = ImageFolder.open(own_images)
    settings = make_settings(source, teacher, policy=parse_policy(POLICIES[request.param]), block_size=4)
    generate(source, teacher, settings, tmp_path / "labels", Execution(16, 0))
    return source, Store(tmp_path / "labels")


def old_order(store: Store, window: int) -> tuple[list[int], list[int], set[int]]:
    """Samples, windows, and where a shard may end, as first defined: by intersecting each block with all that is ok."""
    rng, mixes = choice_rng(0), store.settings.policy.mix is not None
    blocks = store.blocks if mixes else rng.permutation(store.blocks).tolist()
    parts, step = [], 1 if mixes else window
    for first in range(0, len(blocks), step):
        inside = np.concatenate([np.intersect1d(store.samples_of(b), store.ok_samples) for b in blocks[first : first + step]])
        parts.append(inside if mixes else rng.permutation(inside))
    samples, windows = np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    ends = {*(np.flatnonzero(np.diff(windows)) + 1).tolist(), len(samples)} if mixes else set(range(1, len(samples) + 1))
    return samples.tolist(), windows.tolist(), ends


def test_it_is_the_order_that_it_was(spoilt: tuple[ImageFolder, Store], monkeypatch: pytest.MonkeyPatch) -> None:
    source, store = spoilt
    monkeypatch.setattr(pack_order, "WINDOW_BLOCKS", 2)
    samples, windows, ends = old_order(store, 2)
    order = Order.of(source, store)
    items = [order.item(number) for number in range(len(order))]
    assert [item.sample for item in items] == samples
    assert [item.window for item in items] == windows
    assert [item.key for item in items] == [store.samples.key(s) for s in samples]
    assert [item.key for item in items] == [source.keys[item.position] for item in items]
    assert {number for number in range(1, len(order) + 1) if order.may_end(number)} == ends
    assert [order.in_window(w) for w in sorted(set(windows))] == [
        [s for s, own in zip(samples, windows, strict=True) if own == w] for w in sorted(set(windows))
    ]


def test_each_block_is_looked_at_once_and_what_is_ok_is_asked_once(
    spoilt: tuple[ImageFolder, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, store = spoilt
    asked: Counter[object] = Counter()

    def ok(self: Store) -> np.ndarray:
        asked["ok"] += 1
        return np.flatnonzero(self.samples.status == 0)

    def samples_of(self: Store, block: int) -> np.ndarray:
        asked[block] += 1
        return self._order[block * 4 : (block + 1) * 4]

    monkeypatch.setattr(Store, "ok_samples", property(ok))
    monkeypatch.setattr(Store, "samples_of", samples_of)
    Order.of(source, store)
    assert asked == {"ok": 1} | dict.fromkeys(store.blocks, 1)


def test_progress_is_told_before_there_is_a_shard(spoilt: tuple[ImageFolder, Store], tmp_path: Path) -> None:
    source, store = spoilt
    told: list[tuple[int, int, int]] = []
    pack(source, store.root, tmp_path / "out", SMALL, lambda *now: told.append((*now, len(list(tmp_path.glob("out/*.tar"))))))
    total = len(store.ok_samples)
    before = [done for done, _, shards in told if shards == 0]
    assert before[:4] == [0, 0, 1, 2]  # once before it is known in which order they come
    assert told[-1][:2] == (total, total)
    assert [done for done, _, _ in told].count(total) == 1, "done means that the last shard is there"


@pytest.mark.parametrize("which", [0, -1])
def test_a_shard_that_is_not_the_next_one_is_refused(spoilt: tuple[ImageFolder, Store], tmp_path: Path, which: int) -> None:
    source, store = spoilt
    pack(source, store.root, tmp_path / "whole", SMALL)
    shards = sorted((tmp_path / "whole").glob("*.tar"))
    assert len(shards) > 2

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(source, store.root, tmp_path / "out", SMALL, stop)
    shutil.copy(shards[which], tmp_path / "out" / "shards-000001.tar")
    with pytest.raises(StoreError, match="A shard that is there already is not of this pack"):
        pack(source, store.root, tmp_path / "out", SMALL)
