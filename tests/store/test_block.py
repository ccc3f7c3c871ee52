"""Invariant 3 in the small: a block is seen whole or not at all; a damaged one is refused; one writer at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from itertools import pairwise
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from reinforce.errors import BusyError, StoreError
from reinforce.files import write_atomic
from reinforce.locks import only_writer
from reinforce.store.block import Block, BlockData, block_path, committed_blocks, remove_staging, write_block
from reinforce.store.samples import Samples
from reinforce.views.status import Status

pytestmark = pytest.mark.unit

SHAPE = (6, 3, 4)  # samples, views, columns


def some_block() -> BlockData:
    rng = np.random.default_rng(0)
    data = BlockData.empty(*SHAPE)
    data.params[:] = rng.integers(-(2**31), 2**31, SHAPE)
    data.probes[:] = rng.integers(0, 2**32, 6)
    data.sha256[:] = rng.integers(0, 256, (6, 32))
    data.crc32c[:] = rng.integers(1, 2**32, 6)
    data.width_height[:] = rng.integers(1, 9999, (6, 2))
    data.records = [bytes(rng.integers(0, 256, n, np.uint8)) for n in (5, 0, 17, 1, 300, 2)]
    data.status[1], data.reasons = Status.CORRUPT, {1: "truncated"}
    return data


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "blocks").mkdir()
    write_block(tmp_path, 3, some_block())
    return block_path(tmp_path, 3)


def test_what_is_written_is_read(written: Path) -> None:
    block, data = Block(written, *SHAPE), some_block()
    assert np.array_equal(block.params(), data.params)
    assert all(np.array_equal(block.params_of_view(v), data.params[:, v]) for v in range(3))
    assert np.array_equal(block.probes(), data.probes)
    assert [bytes(block.record(row)) for row in range(6)] == data.records
    assert block.reasons == {1: "truncated"}
    for name, column in block.sample_columns().items():
        assert np.array_equal(column, getattr(data, name))


def test_the_memory_map_is_what_zarr_reads(written: Path) -> None:
    group = zarr.open_group(written, mode="r")
    offsets, records = np.asarray(group["offsets"][:]), np.asarray(group["records"][:])
    assert [records[a:b].tobytes() for a, b in pairwise(offsets)] == some_block().records


def test_equal_blocks_have_equal_bytes(written: Path, tmp_path: Path) -> None:
    write_block(tmp_path, 4, some_block())
    files = [
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (written, block_path(tmp_path, 4))
    ]
    assert files[0] == files[1]


def test_a_block_of_all_zero_records_is_still_there(tmp_path: Path) -> None:
    data = BlockData.empty(2, 1, 4)
    data.records = [b"\0\0", b"\0"]
    write_block(tmp_path, 0, data)
    assert bytes(Block(block_path(tmp_path, 0), 2, 1, 4).record(0)) == b"\0\0"


def test_only_whole_blocks_count_as_committed(written: Path, tmp_path: Path) -> None:
    for name in (".000004.zarr", "000005.zarr.partial", "abc.zarr", "000006"):
        (tmp_path / "blocks" / name).mkdir()
    assert committed_blocks(tmp_path) == {3}
    remove_staging(tmp_path)
    assert not (tmp_path / "blocks" / ".000004.zarr").exists()
    assert committed_blocks(tmp_path) == {3}


@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_a_failing_disk_leaves_nothing_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "blocks").mkdir()
    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        write_block(tmp_path, 0, some_block())
    assert os.listdir(tmp_path / "blocks") == []


def damage_records(path: Path) -> None:
    (path / "records" / "c" / "0").write_bytes(b"short")


def damage_offsets(path: Path) -> None:
    file = path / "offsets" / "c" / "0"
    offsets = np.frombuffer(file.read_bytes(), "<u8").copy()
    offsets[[2, 3]] = offsets[[3, 2]]
    file.write_bytes(offsets.tobytes())


def damage_end(path: Path) -> None:
    file = path / "offsets" / "c" / "0"
    offsets = np.frombuffer(file.read_bytes(), "<u8").copy()
    offsets[-1] = 2**40
    file.write_bytes(offsets.tobytes())


def damage_shape(path: Path) -> None:
    file = path / "probes" / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "shape": [10**12]}))


def damage_reasons(path: Path) -> None:
    file = path / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "attributes": {"reinforce": {"reasons": {"99": "?"}}}}))


@pytest.mark.parametrize(
    "damage",
    [
        damage_records,
        damage_offsets,
        damage_end,
        damage_shape,
        damage_reasons,
        lambda path: (path / "zarr.json").write_text("{"),
        lambda path: (path / "params" / "zarr.json").unlink(),
        lambda path: shutil.rmtree(path / "records"),
        lambda path: (path / "offsets" / "c" / "0").write_bytes(b""),
    ],
)
def test_a_damaged_block_is_refused(written: Path, damage: Any) -> None:
    damage(written)
    with pytest.raises(StoreError, match=r"Block 000003.zarr is damaged"):
        Block(written, *SHAPE)


def test_damage_that_shows_only_when_read_is_refused_then(written: Path) -> None:
    file = written / "params" / "c" / "0" / "0" / "0"
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(StoreError, match=r"is damaged(.|\n)*params"):
        Block(written, *SHAPE).params()


def test_a_block_of_another_shape_or_none_is_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"params is int32 \[6, 3, 4\], expected int32 \[6, 2, 4\]"):
        Block(written, 6, 2, 4)
    with pytest.raises(StoreError, match=r"Block 000009.zarr is missing"):
        Block(block_path(tmp_path, 9), *SHAPE)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


HOLDER = (
    "import sys; from pathlib import Path; from reinforce.locks import only_writer\n"
    "with only_writer(Path(sys.argv[1])):\n print('held', flush=True); sys.stdin.read()"
)


@pytest.mark.process
def test_a_second_writer_is_told_who_holds_it_and_a_kill_lets_go(tmp_path: Path) -> None:
    holder = Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdin=PIPE, stdout=PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(BusyError, match=f"being written by another process(.|\n)*process {holder.pid} on"),
            only_writer(tmp_path),
        ):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
        holder.stdin.close()
    with only_writer(tmp_path):
        assert (tmp_path / ".lock").exists()
    assert not (tmp_path / ".lock").exists()


def some_samples(any_order: bool = False) -> Samples:
    data = some_block()
    labels = np.array([0, 1, -1, 2, 0, 1])
    data.sha256[2] = 0
    status = np.array([0, 2, 1, 0, 0, 0], np.uint8)
    size = np.where((status == 0)[:, None], data.width_height, 0).astype(np.uint32)
    reasons, place = {1: "truncated", 2: "gone"}, np.array([5, 0, 3, 1, 4, 2]) if any_order else np.arange(6)
    crc = np.where(data.sha256.any(axis=1), data.crc32c.astype(np.int64), -1)
    return Samples(pa.array(list("abcdéf")), labels, data.sha256, crc, size, status, reasons, place // 4, place % 4)


def test_the_sample_table_survives_its_file(tmp_path: Path) -> None:
    table = some_samples(any_order=True)
    (tmp_path / "samples.parquet").write_bytes(table.to_parquet())
    read = Samples.from_parquet(tmp_path / "samples.parquet", 6, 4, any_order=True)
    assert (read.keys, read.reasons) == (table.keys, table.reasons)
    for name in ("labels", "sha256", "crc32c", "width_height", "status", "block", "row"):
        assert np.array_equal(getattr(read, name), getattr(table, name)), name
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert rows[5] | {"sha256": 0} == {
        "key": "f", "label": 1, "sha256": 0, "crc32c": int(table.crc32c[5]), "status": "ok", "reason": None,
        "block": 0, "row": 2, "width": int(table.width_height[5, 0]), "height": int(table.width_height[5, 1]),
    }  # fmt: skip
    empty = ("label", "sha256", "crc32c", "width", "status", "reason")
    assert [rows[2][c] for c in empty] == [None, None, None, None, "missing", "gone"]


def test_what_older_writers_wrote_has_no_crc_of_the_bytes(written: Path, tmp_path: Path) -> None:
    """Their blocks have no array of it, their tables no column."""
    assert Block(written, *SHAPE).sample_columns()["crc32c"].min() >= 0
    shutil.rmtree(written / "crc32c")
    assert Block(written, *SHAPE).sample_columns()["crc32c"].tolist() == [-1] * 6
    (tmp_path / "samples.parquet").write_bytes(some_samples().to_parquet())
    table = pq.read_table(tmp_path / "samples.parquet").drop_columns(["crc32c"])
    pq.write_table(table, tmp_path / "samples.parquet")
    read = Samples.from_parquet(tmp_path / "samples.parquet", 6, 4)
    assert read.crc32c.tolist() == [-1] * 6
    assert np.array_equal(read.sha256, some_samples().sha256)
    pq.write_table(table.append_column("crc", [[0] * 6]), tmp_path / "samples.parquet")
    with pytest.raises(StoreError, match="columns key label sha256"):
        Samples.from_parquet(tmp_path / "samples.parquet", 6, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[::-1], "samples are not in index order"),
        (lambda rows: rows[:-1], "5 rows for 6 samples"),
        (lambda rows: [*rows[:-1], {**rows[-1], "key": "a"}], "a key that is missing or occurs twice"),
        (lambda rows: [*rows[:-1], {**rows[-1], "status": "fine"}], "an unknown status"),
        (lambda rows: [{**rows[0], "width": 1 << 31}, *rows[1:]], "an image of more than 178956970 pixels"),
        (lambda rows: [{**rows[0], "width": 20_000, "height": 20_000}, *rows[1:]], "an image of more than 178956970 pixels"),
    ],
)
def test_a_changed_sample_table_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    import pyarrow as pa

    path = tmp_path / "samples.parquet"
    path.write_bytes(some_samples().to_parquet())
    table = pq.read_table(path)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), path)
    with pytest.raises(StoreError, match=message):
        Samples.from_parquet(path, 6, 4)


def test_a_file_that_is_no_sample_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "samples.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(StoreError, match=r"samples.parquet is damaged"):
        Samples.from_parquet(tmp_path / "samples.parquet", 6, 4)
    with pytest.raises(StoreError, match=r"none.parquet is damaged"):
        Samples.from_parquet(tmp_path / "none.parquet", 6, 4)
