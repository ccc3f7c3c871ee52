"""Held groups: a process that reads tables holds so many bytes and no more, however large their row groups are."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reinforce.replay.loader import WINDOW_GROUPS, batch_plan
from reinforce.sources import parquet
from reinforce.sources.held_groups import HeldGroups
from reinforce.sources.open_source import open_source
from reinforce.sources.source import Source

pytestmark = pytest.mark.unit

GROUP, ROWS, GROUPS = 100_000, 10, 12


@pytest.fixture
def table(tmp_path: Path) -> Source:
    """Twelve row groups of 100 kB."""
    images = [np.random.default_rng(i).bytes(GROUP // ROWS) for i in range(ROWS * GROUPS)]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet", row_group_size=ROWS)
    return open_source(tmp_path / "a.parquet")


@pytest.mark.parametrize(("limit", "groups"), [(250_000, 2), (2 * GROUP * GROUPS, GROUPS), (1000, 1)])
def test_no_more_bytes_are_held_than_the_limit_or_one_group(
    table: Source, monkeypatch: pytest.MonkeyPatch, limit: int, groups: int
) -> None:
    monkeypatch.setattr(parquet, "_HELD", held := HeldGroups(limit))
    before = pa.total_allocated_bytes()
    most = 0
    for index in np.random.default_rng(0).permutation(len(table)):
        assert len(table.read(int(index))) == GROUP // ROWS
        assert held.bytes <= max(limit, 1.1 * GROUP)
        most = max(most, pa.total_allocated_bytes() - before)
    assert (groups - 0.5) * GROUP < most < (groups + 0.5) * GROUP, "as many as fit"
    held.clear()
    assert held.bytes == 0
    assert pa.total_allocated_bytes() < before + GROUP // 10


def test_a_group_that_is_held_is_not_read_again_and_the_one_used_longest_ago_goes_first() -> None:
    held = HeldGroups(30)
    read: list[str] = []

    def get(name: str) -> None:
        def load() -> pa.Array:
            read.append(name)
            return pa.array([1] * 10, pa.int8())

        held.get(name, lambda: 10, load)

    for name in "abcabcadab":
        get(name)
    assert read == [*"abcd", "b"], "d made b go"
    assert held.bytes == 30


def test_a_file_that_says_less_than_there_is_does_not_move_the_limit() -> None:
    held = HeldGroups(30)
    for name in range(5):
        held.get(name, lambda: 1, lambda: pa.array([1] * 20, pa.int8()))
        assert held.bytes == 20


def test_threads_share_one_limit(table: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_HELD", held := HeldGroups(250_000))
    found: list[int] = []

    def work(seed: int) -> None:
        for index in np.random.default_rng(seed).permutation(len(table)):
            table.read(int(index))
            found.append(held.bytes)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 * len(table)
    assert max(found) <= 250_000


def test_of_large_groups_training_shuffles_as_many_as_are_held(table: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = table.groups_at_once
    assert at_once is not None
    assert at_once > WINDOW_GROUPS
    monkeypatch.setattr(parquet, "HELD_BYTES", 350_000)
    assert table.groups_at_once == 3
    monkeypatch.setattr(parquet, "HELD_BYTES", 50_000)
    assert table.groups_at_once == 1
    monkeypatch.setattr(parquet, "HELD_BYTES", 350_000)
    plan = batch_plan(0, 0, len(table), ROWS, groups=table.groups, groups_at_once=table.groups_at_once)
    order = np.concatenate(plan)
    assert sorted(order.tolist()) == list(range(len(table)))
    monkeypatch.setattr(parquet, "_HELD", HeldGroups(350_000))
    reads: list[int] = []
    whole = pq.ParquetFile.read_row_group

    def counting(file: pq.ParquetFile, group: int, **options: Any) -> pa.Table:
        reads.append(group)
        return whole(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    for index in order:
        table.read(int(index))
    assert sorted(reads) == list(range(GROUPS)), "each group once in an epoch"
