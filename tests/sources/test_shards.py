"""Shards as sources: their headers are read once; paths in them are names, and other things in them are refused."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reinforce.errors import SourceError
from reinforce.sources.folder import ImageFolder
from reinforce.sources.location import File
from reinforce.sources.open_source import open_source
from reinforce.sources.tar_members import tar_members
from tests.sources.writers import write_shards

pytestmark = pytest.mark.unit


def test_the_headers_of_shards_are_read_once(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    shards = write_shards(ImageFolder.open(images), tmp_path / "wds", per_shard=100)
    first = open_source(shards)
    monkeypatch.setattr("reinforce.sources.tar_members.scan", lambda file: pytest.fail("read again"))
    assert open_source(shards).index_sha256() == first.index_sha256()
    [index] = (tmp_path / "cache" / "indexes").iterdir()
    monkeypatch.undo()
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    index.write_bytes(b"PAR1 not really")
    assert open_source(shards).index_sha256() == first.index_sha256()


def test_a_kept_index_that_points_outside_is_not_believed(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    shards = write_shards(ImageFolder.open(images), tmp_path / "wds", per_shard=100)
    right = tar_members(File.open(shards.replace("{000..000}", "000")))
    [index] = (tmp_path / "cache" / "indexes").iterdir()
    table = pq.read_table(index)
    moved = table.set_column(1, table.schema.field(1), [pa.array([1 << 50] * len(table))])
    pq.write_table(moved, index)
    assert tar_members(File.open(shards.replace("{000..000}", "000"))) == right


# Hostile and broken ones


def tar_of(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"1"), link("b.jpg", "/etc/passwd", tarfile.SYMTYPE)], "'b.jpg' is no plain file"),
        ([("a.jpg", b"1"), link("b.jpg", "a.jpg", tarfile.LNKTYPE)], "'b.jpg' is no plain file"),
        ([link("b.jpg", "", tarfile.CHRTYPE)], "'b.jpg' is no plain file"),
        ([("a.jpg", b"1"), ("a.jpg", b"2")], "two images have the key 'a'"),
        ([("a.jpg", b"1"), ("a.cls", b"cat")], "invalid literal"),
        ([("a.jpg", b"1"), ("a.cls", b"1" * 5000)], "is no class id"),
        ([("a.jpg", b"1"), ("a.cls", b"-1")], "not class ids"),
        ([("a.jpg", b"1"), ("b.jpg", b"1"), ("a.cls", b"0")], "no .cls for 1 of 2 images, such as b"),
        ([("readme.txt", b"1")], "There are no images"),
    ],
)
def test_a_shard_with_other_things_in_it_is_refused(members: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(tar_of(tmp_path / "a.tar", *members))


def test_paths_in_a_shard_are_names_and_nothing_is_written(tmp_path: Path) -> None:
    before = set(tmp_path.parent.iterdir())
    source = open_source(tar_of(tmp_path / "a.tar", ("../../evil.jpg", b"1"), ("/abs.jpg", b"2"), ("./c.jpg", b"3")))
    assert source.keys == ("../../evil", "/abs", "c")
    assert [source.read(i) for i in range(3)] == [b"1", b"2", b"3"]
    assert set(tmp_path.parent.iterdir()) == before


def test_a_shard_that_was_cut_or_inflated_is_refused(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "a.tar", ("a.jpg", b"1" * 700), ("b.jpg", b"2" * 700)).read_bytes()
    for length in (0, 100, 600, 1024, 1536, 1700, 2500, 3072):
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(SourceError, match=r"cut.tar|no images"):
            open_source(tmp_path / "cut.tar")
    # A header that claims more than the file has.
    info = tarfile.TarInfo("big.jpg")
    info.size = 1 << 40
    (tmp_path / "big.tar").write_bytes(info.tobuf() + bytes(2048))
    with pytest.raises(SourceError, match=r"big.tar"):
        open_source(tmp_path / "big.tar")
    # An extended header of a gigabyte must not be read into memory.
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with open(tmp_path / "long.tar", "wb") as file:
        file.write(long.tobuf())
        file.truncate((1 << 30) + 4096)
    with pytest.raises(SourceError, match="a header of"):
        open_source(tmp_path / "long.tar")
    (tmp_path / "z.tar").write_bytes(b"\x1f\x8b" + bytes(3000))
    with pytest.raises(SourceError, match=r"z.tar"):
        open_source(tmp_path / "z.tar")
