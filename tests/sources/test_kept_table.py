"""Kept tables: what was read and checked once is mapped from the cache, by every process, and equals what is read anew."""

from __future__ import annotations

import os
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reinforce.errors import StoreError
from reinforce.packs.open_labels import packed
from reinforce.packs.pack import Options, pack
from reinforce.sources import kept_table as kept
from reinforce.sources.folder import ImageFolder
from reinforce.sources.open_source import open_source
from reinforce.sources.shards import Shards
from reinforce.store.samples import Samples
from reinforce.store.store import Store
from tests.sources.writers import write_shards

pytestmark = pytest.mark.unit

SCHEMA = pa.schema([pa.field("key", pa.string()), pa.field("place", pa.list_(pa.int64(), 2))])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that keeps tables of any size."""
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept, "LEAST_ROWS", 1)
    return tmp_path / "cache" / "tables"


def table() -> pa.RecordBatch:
    return pa.record_batch({"key": ["a", "é"], "place": [[1, 2], [3, 4]]}, schema=SCHEMA)


def never() -> pa.RecordBatch:
    pytest.fail("made again")


def is_mapped(array: np.ndarray, folder: Path) -> bool:
    """Whether the memory of an array belongs to a file in `folder`, by what the kernel says."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(text, 16) for text in line.split()[0].split("-"))
        if begin <= address < end:
            return str(folder) in line
    return False


def test_a_table_is_made_once(cache: Path) -> None:
    first = kept.kept_table("x", SCHEMA, table)
    again = kept.kept_table("x", SCHEMA, never)
    assert first == again == table()
    assert is_mapped(again["place"].values.to_numpy(), cache)
    assert kept.kept_table("y", SCHEMA, lambda: table().slice(1)) == table().slice(1)


def test_a_small_table_is_not_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LEAST_ROWS", 3)
    assert kept.kept_table("x", SCHEMA, table) == table()
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "schema"])
def test_a_damaged_file_is_not_believed(cache: Path, damage: str) -> None:
    kept.kept_table("x", SCHEMA, table)
    [path] = cache.iterdir()
    content = path.read_bytes()
    path.unlink()
    if damage == "schema":
        with pa.ipc.new_file(os.fspath(path), pa.schema([pa.field("key", pa.string())])) as writer:
            writer.write_batch(table().select(["key"]))
    else:
        path.write_bytes({"cut": content[:-20], "empty": b"", "text": b"PAR1 not really"}[damage])
    assert kept.kept_table("x", SCHEMA, table) == table()


def test_texts_that_are_no_utf_8_are_not_believed(cache: Path) -> None:
    kept.kept_table("x", SCHEMA, table)
    [path] = cache.iterdir()
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff"))
    assert kept.kept_table("x", SCHEMA, table) == table()


def test_a_cache_that_cannot_be_written_changes_nothing(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    assert kept.kept_table("x", SCHEMA, table) == table()


def test_the_first_of_several_processes_wins(cache: Path) -> None:
    def make() -> pa.RecordBatch:
        kept.kept_table("x", SCHEMA, table)  # another process is done while this one still makes the table
        first.append(next(cache.iterdir()).stat().st_ino)
        return table()

    first: list[int] = []
    assert kept.kept_table("x", SCHEMA, make) == table()
    assert [path.stat().st_ino for path in cache.iterdir()] == first


def equal(a: Samples, b: Samples) -> bool:
    pairs = ((getattr(a, field.name), getattr(b, field.name)) for field in fields(Samples))
    return all(np.array_equal(x, y) and x.dtype == y.dtype if isinstance(x, np.ndarray) else x == y for x, y in pairs)


def test_a_store_opened_from_the_cache_is_the_same(store: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Store(store).settings
    monkeypatch.setattr(Samples, "from_parquet", read := Samples.from_parquet)
    plain = read(store / "samples.parquet", settings.source.num_samples, settings.block_size)
    monkeypatch.setattr(Samples, "from_parquet", never)
    opened = Store(store).samples
    assert equal(opened, plain)
    assert is_mapped(opened.sha256, cache)
    assert is_mapped(opened.block, cache)


def test_another_table_under_the_same_name_is_read(store: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(store, tmp_path / "copy")
    path, opened = copy / "samples.parquet", Store(copy).samples
    about = path.stat()
    path.write_bytes(replace(opened, sha256=opened.sha256[::-1].copy()).to_parquet())
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert np.array_equal(Store(copy).samples.sha256, opened.sha256[::-1])


def test_reasons_of_failed_samples_are_kept(tmp_path: Path) -> None:
    from reinforce.store.kept_samples import open_samples

    made = Samples.empty([f"k{n}" for n in range(6)], [0, 1, 2, 3, 4, 5])
    made.reasons.update({4: "cut off", 1: "gone"})
    made.status[[1, 4]] = 1, 2
    made.row[:] = np.arange(6)
    (tmp_path / "samples.parquet").write_bytes(made.to_parquet())
    for _ in range(2):
        assert open_samples(tmp_path / "samples.parquet", 6, 512, False).reasons == {1: "gone", 4: "cut off"}


def test_shards_and_packs_opened_from_the_cache_are_the_same(
    images: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    plain = write_shards(ImageFolder.open(images), tmp_path / "wds", per_shard=5)
    pack(ImageFolder.open(images), store, tmp_path / "pack", Options(shard_bytes=20_000))
    for location in (plain, f"{tmp_path}/pack/*.tar"):
        first = Shards.open(location)
        monkeypatch.setattr("reinforce.sources.shards._index", lambda *_: never())
        again = Shards.open(location)
        monkeypatch.undo()
        monkeypatch.setenv("REINFORCE_CACHE", str(cache.parent))
        monkeypatch.setattr(kept, "LEAST_ROWS", 1)
        assert again.index_sha256() == first.index_sha256()
        assert np.array_equal(again.places, first.places)
        assert again.groups is not None
        assert again.groups.tolist() == again.places[:, 0].tolist()
        assert [again.read(n) for n in range(len(again))] == [first.read(n) for n in range(len(first))]
        assert is_mapped(again.places, cache)
    assert equal(packed(again).samples, packed(first).samples)


def test_a_shard_that_changed_is_indexed_again(images: Path, tmp_path: Path) -> None:
    shards = write_shards(ImageFolder.open(images), tmp_path / "wds", per_shard=100)
    first = open_source(shards)
    shutil.rmtree(tmp_path / "wds")
    write_shards(ImageFolder.open(images).take(range(5)), tmp_path / "wds", per_shard=100)
    assert len(first) > len(open_source(shards)) == 5


@pytest.mark.parametrize("begin", [0, 3])
def test_places_of_texts_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch, begin: int) -> None:
    items, wanted = pa.array([f"é{n}" for n in range(9)])[begin:], pa.array(["é8", "a", "é4", "é0"])
    expected = [8 - begin, -1, 4 - begin, -1 if begin else 0]
    assert kept.kept_places(wanted, items).tolist() == expected
    monkeypatch.setattr(kept, "find", lambda *_: pytest.fail("looked for again"))
    assert kept.kept_places(pa.concat_arrays([wanted]), pa.concat_arrays([items])).tolist() == expected
    monkeypatch.undo()
    assert kept.kept_places(wanted[1:], items).tolist() == expected[1:]
    assert kept.kept_places(wanted, items[:-1]).tolist() == [-1, *expected[1:]]


def test_a_shard_whose_name_is_no_text_is_told_of_as_ever(images: Path, store: Path, tmp_path: Path) -> None:
    pack(ImageFolder.open(images), store, tmp_path / "pack", Options())
    (tmp_path / "pack" / "shards-000000.tar").rename(tmp_path / "pack" / "\udcff.tar")
    with pytest.raises(StoreError, match="is not a shard of the pack beside it"):
        Shards.open_some(f"{tmp_path}/pack/*.tar")
