"""Bombs: a few bytes of a block that would unfold to gigabytes are refused before they do; what older writers wrote is read."""

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
import zstandard
from numcodecs import blosc
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from reinforce.errors import StoreError
from reinforce.store.block import Block, block_path, write_block
from reinforce.store.store import read_small_file
from reinforce.store.zarr_layout import ARRAYS
from tests.store.test_block import SHAPE, some_block

pytestmark = pytest.mark.unit

LARGE = 1 << 28
FOREIGN = [[GzipCodec()], [BloscCodec()], [ZstdCodec(), ZstdCodec()], [Crc32cCodec()]]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "blocks").mkdir()
    write_block(tmp_path, 0, some_block())
    return block_path(tmp_path, 0)


def read_all(path: Path) -> dict[str, Any]:
    block = Block(path, *SHAPE)
    made = {"probes": block.probes(), "label_error": block.label_error(), **block.sample_columns(), "params": block.params()}
    return made | {"witness": block.witness()}


def peak(call: Callable[[], object]) -> int:
    """Most bytes that a call that is refused has allocated at a time."""
    tracemalloc.start()
    try:
        with pytest.raises(StoreError):
            call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def write(path: Path, name: str, codecs: list[Any]) -> None:
    values = getattr(some_block(), name)
    group = zarr.open_group(path, mode="a")
    group.create_array(name, data=values, chunks=values.shape, compressors=codecs, filters=None, overwrite=True)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("codecs", FOREIGN, ids=["gzip", "blosc", "zstd of zstd", "crc32c"])
def test_codecs_that_the_format_does_not_name_are_not_run(written: Path, name: str, codecs: list[Any]) -> None:
    write(written, name, codecs)
    with pytest.raises(StoreError, match=f"{name}: ValueError: {name} has other codecs"):
        read_all(written)


@pytest.mark.parametrize("name", ARRAYS)
def test_one_zstd_frame_is_read_as_zarr_writes_it_by_default(written: Path, name: str) -> None:
    write(written, name, [ZstdCodec()])
    assert np.array_equal(read_all(written)[name], getattr(some_block(), name), equal_nan=name == "label_error")


def compressed(**given: Any) -> bytes:
    return zstandard.ZstdCompressor(**given).compress(bytes(LARGE))


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("frame", [compressed(), compressed(write_content_size=False), b"", b"no frame"])
def test_a_frame_of_another_size_is_not_unfolded(written: Path, name: str, frame: bytes) -> None:
    write(written, name, [ZstdCodec()])
    file = written / name / "c" / "/".join("0" * ARRAYS[name])
    file.write_bytes(frame)
    assert peak(lambda: read_all(written)) < 1 << 23


@pytest.mark.parametrize("path", ["offsets/c/0", "probes/c/0", "sha256/c/0/0", "zarr.json", "probes/zarr.json"])
def test_a_file_that_is_far_too_long_is_not_read(written: Path, path: str) -> None:
    with open(written / path, "ab") as file:
        file.truncate(LARGE)  # without a byte on the disk
    assert peak(lambda: read_all(written)) < 1 << 26


def test_one_chunk_that_every_view_names_is_counted_for_each(written: Path) -> None:
    """Shards say where each chunk is: a hundred thousand views may all be the same four kilobytes."""
    samples, views, columns = 1 << 14, 1 << 16, 4
    chunk = blosc.compress(bytes(4 * samples * columns), b"zstd", 9, typesize=4)
    index = struct.pack("<QQ", 0, len(chunk)) * views
    shard = chunk + index + google_crc32c.value(index).to_bytes(4, "little")
    (written / "params" / "c" / "0" / "0" / "0").write_bytes(shard)
    assert len(shard) < 2 << 20
    about = json.loads((written / "params" / "zarr.json").read_bytes())
    about["shape"] = about["chunk_grid"]["configuration"]["chunk_shape"] = [samples, views, columns]
    (written / "params" / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(StoreError, match="at most 1073741824 bytes are read"):
        Block(written, samples, views, columns)


def test_a_small_file_is_read_into_little_memory(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b"{}")
    tracemalloc.start()
    assert read_small_file(tmp_path / "manifest.json") == b"{}"
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < 1 << 20
