"""Params and records read from the files themselves: the same as zarr reads; what is damaged is named; no file stays open."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr

from reinforce.bench import store_bench
from reinforce.bench.store_bench import measure_store, parse_size, synthesise
from reinforce.errors import StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import Block, block_path, write_block
from reinforce.store.probes import environment
from reinforce.store.store import Store
from reinforce.store.zarr_layout import ARRAYS, STRIPE_ARRAYS, check_layout, read_inner_chunks
from reinforce.teachers.teacher import Teacher
from tests.conftest import Cli, make_settings
from tests.store.test_block import SHAPE, some_block

pytestmark = pytest.mark.unit


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "blocks").mkdir()
    write_block(tmp_path, 0, some_block())
    return block_path(tmp_path, 0)


def change(path: Path, *parts: str, edit: Callable[[bytes], bytes]) -> None:
    file = path.joinpath(*parts)
    file.write_bytes(edit(file.read_bytes()))


def test_one_views_params_are_those_that_zarr_reads(store: Path) -> None:
    opened = Store(store)
    for number in range(opened.settings.num_blocks):
        block = opened.block(number)
        array = zarr.open_array(block.path / "params", mode="r")
        for view in range(opened.settings.views):
            assert np.array_equal(block.params_of_view(view), array[:, view])
            assert block.params_of_view(view).dtype == np.int32


def test_records_are_those_that_zarr_reads(written: Path) -> None:
    block, data = Block(written, *SHAPE), some_block()
    offsets = block.stripe(0).offsets
    raw = zarr.open_array(written / "records", mode="r")[:]
    for row, record in enumerate(data.records):
        assert bytes(block.record(row)) == record == raw[offsets[row] : offsets[row + 1]].tobytes()


@pytest.mark.parametrize("view", [-1, 3, 100])
def test_a_view_that_is_not_there_is_refused(written: Path, view: int) -> None:
    with pytest.raises(StoreError, match="no view"):
        Block(written, *SHAPE).params_of_view(view)


def with_index(edit: Any) -> Any:
    """Change the shard's index and make its checksum fit again."""

    def apply(content: bytes) -> bytes:
        index = bytearray(content[-52:-4])
        edit(index)
        return content[:-52] + bytes(index) + google_crc32c.value(bytes(index)).to_bytes(4, "little")

    return apply


def put(at: int, value: int) -> Any:
    return lambda index: struct.pack_into("<Q", index, at, value)


@pytest.mark.parametrize(("edit", "text"), [
    (lambda c: c[:20], "shorter than its index"),
    (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "checksum"),
    (lambda c: c[:-30] + bytes([c[-30] ^ 1]) + c[-29:], "checksum"),
    (with_index(put(0, 1 << 63)), "not there"),
    (with_index(put(8, 1 << 40)), "not there"),
    (with_index(put(8, 3)), "not there"),
    (with_index(put(0, (1 << 64) - 1)), "not there"),  # how zarr says that a chunk is missing
    (lambda c: c[:4] + struct.pack("<I", 1 << 30) + c[8:], "another size"),  # a bomb, as far as its header goes
    (lambda c: c[:12] + struct.pack("<I", 1 << 30) + c[16:], "another size"),
    (lambda c: bytes(4) + c[4:], "error during blosc decompression|another size"),
])  # fmt: skip
def test_a_damaged_shard_is_refused_in_words(written: Path, edit: Any, text: str) -> None:
    change(written, "params", "c", "0", "0", "0", edit=edit)
    with pytest.raises(StoreError, match=text):
        Block(written, *SHAPE).params_of_view(0)


@pytest.mark.parametrize(("name", "edit", "text"), [
    ("offsets", lambda a: a["codecs"].append({"name": "zstd", "configuration": {"level": 0}}), "compressed"),
    ("records", lambda a: a["codecs"].append({"name": "gzip", "configuration": {"level": 1}}), "compressed"),
    ("offsets", lambda a: a["codecs"][0]["configuration"].update(endian="big"), "compressed"),
    ("params", lambda a: a["codecs"][0]["configuration"]["codecs"].pop(), "not a shard"),
    ("params", lambda a: a["codecs"][0]["configuration"].update(chunk_shape=[6, 3, 4]), "not a shard"),
    ("params", lambda a: a["codecs"][0]["configuration"].update(index_location="start"), "not a shard"),
    ("params", lambda a: a["codecs"][0]["configuration"]["codecs"][0]["configuration"].update(order=[0, 1, 2]), "not a shard"),
    ("params", lambda a: a["chunk_grid"]["configuration"].update(chunk_shape=[3, 3, 4]), "not one chunk"),
    ("probes", lambda a: a["chunk_key_encoding"]["configuration"].update(separator="."), "under another name"),
    ("probes", lambda a: a.update(shape=[1 << 40]), "expected uint32"),
    ("status", lambda a: a.update(data_type="int8"), "expected uint8"),
    ("records", lambda a: a.update(shape=[3, 3]), "expected uint8"),
    ("records", lambda a: a.update(shape=[True]), "expected uint8"),
    ("sha256", lambda a: a.pop("codecs"), "KeyError"),
    ("sha256", lambda a: a.update(shape=None), "TypeError"),
])  # fmt: skip
def test_an_array_of_another_layout_is_refused(written: Path, name: str, edit: Any, text: str) -> None:
    def edited(content: bytes) -> bytes:
        about = json.loads(content)
        edit(about)
        return json.dumps(about).encode()

    change(written, name, "zarr.json", edit=edited)
    with pytest.raises(StoreError, match=text):
        Block(written, *SHAPE)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"attributes": 3}'])
@pytest.mark.parametrize("name", ["", "params", "status"])
def test_metadata_that_is_none_is_refused(written: Path, name: str, content: Any) -> None:
    change(written, name, "zarr.json", edit=lambda old: content)
    with pytest.raises(StoreError, match="is damaged"):
        Block(written, *SHAPE)


def test_how_strongly_the_shard_is_compressed_is_the_writers_own(written: Path) -> None:
    about = json.loads((written / "params" / "zarr.json").read_bytes())
    about["codecs"][0]["configuration"]["codecs"][2]["configuration"]["clevel"] = 1
    text = json.dumps(about).encode()
    assert check_layout("params", text, *SHAPE).shape == SHAPE
    assert {*ARRAYS, *STRIPE_ARRAYS} == {p.name for p in written.iterdir() if p.is_dir()}


def test_a_chunk_is_read_by_its_number(written: Path) -> None:
    path = str(written / "params" / "c" / "0" / "0" / "0")
    chunk = np.frombuffer(next(read_inner_chunks(path, [1], 3, 4 * 6 * 4)), "<i4").reshape(4, 6).T
    assert np.array_equal(chunk, some_block().params[:, 1])


def test_a_store_of_many_blocks_holds_no_file_open(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher, block_size=1), tmp_path / "labels", Execution(workers=0))
    before = len(os.listdir("/proc/self/fd"))
    store = Store(tmp_path / "labels")
    for sample in range(24):
        store.label_of(sample, 0)
        store.params_of(sample, 0)
    assert len(os.listdir("/proc/self/fd")) <= before  # something older may be closed meanwhile


@pytest.mark.process
def test_a_synthetic_store_is_one_that_opens_and_is_measured(tmp_path: Path) -> None:
    written = synthesise(tmp_path / "store", *parse_size("1100x3x20"))
    assert written["label_bytes"] > 1
    store = Store(tmp_path / "store")
    assert (len(store.samples), store.settings.num_blocks) == (1100, 3)
    measured = measure_store(tmp_path / "store")
    assert min(measured[name] for name in ("opening_s", "first_epoch_s", "epoch_s", "read_us")) > 0


@pytest.mark.process
def test_bench_store_speaks_json_and_draws(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = cli("bench", "store", "--size", "600x2x10", "--plot", tmp_path / "a.png", "--json")
    assert code == 0, err
    said = json.loads(out)
    (row,) = said["rows"]
    assert (row["samples"], row["views"], row["classes"]) == (600, 2, 10)
    assert said["conditions"] == environment().model_dump()
    assert said["columns"].keys() <= row.keys()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(store_bench, "synthesise", lambda *arguments: {})
    monkeypatch.setattr(store_bench, "measure_store", lambda root: row)  # the same run again, told as a table
    code, out, err = cli("bench", "store", "--size", "600x2x10")
    assert code == 0, err
    assert store_bench.table([row]) in out
    code, _, err = cli("bench", "store", "--size", "600x2")
    assert code == 2
    assert "SAMPLESxVIEWSxCLASSES" in err
