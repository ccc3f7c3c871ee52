"""One set of laws for every kind of source, on this machine and behind real servers; and what a bad source says."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from torch.utils.data import DataLoader

from reinforce.errors import SourceError
from reinforce.sources.folder import ImageFolder
from reinforce.sources.location import CHUNK_BYTES, File
from reinforce.sources.open_source import open_source
from reinforce.sources.source import Source
from reinforce.sources.tar_members import tar_members
from reinforce.views.decode import decode
from tests.conftest import CLASSES, REAL_DATA, TEACHER, Cli, picture
from tests.servers import serve_http, serve_s3

KINDS = ("folder", "wds", "wds-flat", "parquet", "parquet-bytes", "npz", "npz-grey", "torchvision")
REMOTE = ("http-wds", "http-parquet", "http-npz", "s3-folder", "s3-wds", "s3-parquet")


class Made(NamedTuple):
    """A source to be opened, and what it must give."""

    data: str
    keys: list[str]
    labels: list[int] | None
    images: list[bytes]


def write_shards(source: Source, out: Path, per_shard: int = 10, labelled: bool = True) -> str:
    """Shards as webdataset's own writer makes them."""
    out.mkdir(parents=True)
    with webdataset.ShardWriter(f"{out}/part-%03d.tar", maxcount=per_shard, verbose=0) as writer:
        for i, key in enumerate(source.keys):
            suffix = "png" if source.read(i).startswith(b"\x89PNG") else "jpg"
            sample = {"__key__": key, suffix: source.read(i)}
            writer.write(sample | ({"cls": source.label(i)} if labelled else {}))
    last = (len(source) - 1) // per_shard
    return f"{out}/part-{{000..{last:03d}}}.tar"


def write_parquet(source: Source, path: Path, struct: bool) -> str:
    """A table as the Hub keeps images; with names of classes where `struct`."""
    path.parent.mkdir(parents=True)
    images = [source.read(i) for i in range(len(source))]
    labels = list(source.labels or [])
    if struct:
        rows = [{"bytes": image, "path": f"{key}.jpg"} for image, key in zip(images, source.keys, strict=True)]
        about = {"info": {"features": {"label": {"names": list(source.class_names), "_type": "ClassLabel"}}}}
        table = pa.table({"image": rows, "label": labels}).replace_schema_metadata({"huggingface": json.dumps(about)})
    else:
        table = pa.table({"img": pa.array(images, pa.binary()), "__key__": list(source.keys)})
    pq.write_table(table, path, row_group_size=7)
    return str(path)


@pytest.fixture(scope="module")
def places(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Made]]:
    """Every kind of source, made once."""
    root, folder, made = tmp_path_factory.mktemp("sources"), ImageFolder.open(images), {}
    encoded = [folder.read(i) for i in range(len(folder))]
    keys, labels = list(folder.keys), list(folder.labels or [])
    made["folder"] = Made(str(images), keys, labels, encoded)
    made["wds"] = Made(write_shards(folder, root / "wds"), keys, labels, encoded)
    made["wds-flat"] = Made("wds:" + write_shards(folder, root / "flat", labelled=False), keys, None, encoded)
    made["parquet"] = Made(write_parquet(folder, root / "p" / "a.parquet", True), keys, labels, encoded)
    made["parquet-bytes"] = Made("parquet:" + write_parquet(folder, root / "q" / "a.parquet", False), keys, None, encoded)
    pixels = np.stack([np.asarray(picture(i, 20, 16)) for i in range(12)])
    numbers = [i % 3 for i in range(12)]
    np.savez_compressed(
        root / "a.npz", x_train=pixels, y_train=np.array(numbers)[:, None], x_test=pixels[:3], y_test=numbers[:3]
    )
    ppms = [b"P6\n20 16\n255\n" + p.tobytes() for p in pixels]
    made["npz"] = Made(str(root / "a.npz"), [f"{i:05d}" for i in range(12)], numbers, ppms)
    np.savez(root / "g.npz", images=pixels[:, :, :, 0])
    greys = [b"P5\n20 16\n255\n" + p[:, :, 0].tobytes() for p in pixels]
    made["npz-grey"] = Made(str(root / "g.npz"), made["npz"].keys, None, greys)
    digits = write_mnist(root / "tv", 9)
    made["torchvision"] = Made(
        f"torchvision:MNIST@{root / 'tv'}#train",
        [f"{i:07d}" for i in range(9)],
        [i % 10 for i in range(9)],
        [b"P5\n28 28\n255\n" + d.tobytes() for d in digits],
    )
    with serve_http(root) as served, serve_s3("pictures") as bucket:
        import s3fs

        s3fs.S3FileSystem().put(str(images), "pictures/train", recursive=True)
        s3fs.S3FileSystem().put(str(root / "wds"), "pictures/wds", recursive=True)
        s3fs.S3FileSystem().put(str(root / "p" / "a.parquet"), "pictures/a.parquet")
        made["http-wds"] = made["wds"]._replace(data=made["wds"].data.replace(str(root), served.url))
        made["http-parquet"] = made["parquet"]._replace(data=f"{served.url}/p/a.parquet")
        made["http-npz"] = made["npz"]._replace(data=f"npz:{served.url}/a.npz")
        made["s3-folder"] = made["folder"]._replace(data=f"{bucket}/train")
        made["s3-wds"] = made["wds"]._replace(data=f"{bucket}/wds/*.tar")
        made["s3-parquet"] = made["parquet"]._replace(data=f"{bucket}/a.parquet")
        yield made.__getitem__


def write_mnist(root: Path, count: int) -> np.ndarray:
    """Files as MNIST has them, of digits of our own."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    digits = np.stack([np.asarray(picture(i, 28, 28).convert("L")) for i in range(count)])
    for part, n in (("train", count), ("t10k", 2)):
        header = b"".join(int(v).to_bytes(4, "big") for v in (0x803, n, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + digits[:n].tobytes())
        labels = bytes(i % 10 for i in range(n))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"".join(int(v).to_bytes(4, "big") for v in (0x801, n)) + labels)
    return digits


@pytest.fixture(params=KINDS + REMOTE)
def made(request: pytest.FixtureRequest, places: Callable[[str], Made]) -> Made:
    return places(request.param)


# The laws


def test_a_source_gives_what_was_put_in(made: Made) -> None:
    source = open_source(made.data)
    assert list(source.keys) == made.keys
    assert (None if source.labels is None else list(source.labels)) == made.labels
    assert [source.label(i) for i in range(len(source))] == (made.labels or [None] * len(source))
    assert bool(source.class_names) == (made.labels is not None)
    assert [source.read(i) for i in range(len(source))] == made.images
    assert all(decode(source.read(i)).ndim == 3 for i in range(len(source)))


def test_opening_again_gives_the_same_index(made: Made) -> None:
    first, second = open_source(made.data), open_source(made.data)
    assert first.index_sha256() == second.index_sha256()
    assert open_source(first) is first


def test_a_part_is_a_source_of_the_same_kind(made: Made) -> None:
    source = open_source(made.data)
    part = source.take([5, 0, 7])
    assert type(part) is type(source)
    assert part.class_names == source.class_names
    assert [part.read(i) for i in range(3)] == [made.images[i] for i in (5, 0, 7)]
    assert list(part.keys) == [made.keys[i] for i in (5, 0, 7)]
    assert part.groups is None or part.groups.tolist() == [source.groups[i] for i in (5, 0, 7)]
    assert made.keys[5] in part.where(0)


class _Hashes(torch.utils.data.Dataset[str]):
    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> str:
        return hashlib.sha256(self.source.read(index)).hexdigest()


def test_workers_read_it_in_any_order(made: Made) -> None:
    source = open_source(made.data)
    expected = [hashlib.sha256(image).hexdigest() for image in made.images]
    _ = source.read(0)  # clients of the parent must not be used in a child
    for order in (range(len(source)), range(len(source) - 1, -1, -1)):
        loader = DataLoader(_Hashes(source), batch_size=None, num_workers=2, sampler=list(order))
        assert list(loader) == [expected[i] for i in order]


def test_an_index_travels_to_another_process(made: Made) -> None:
    assert copy.deepcopy(open_source(made.data)).read(3) == made.images[3]


def test_what_is_gone_is_an_oserror(images: Path, tmp_path: Path) -> None:
    folder = ImageFolder.open(images)
    shards = open_source(write_shards(folder, tmp_path / "wds"))
    table = open_source(write_parquet(folder, tmp_path / "p" / "a.parquet", True))
    for path in [*(tmp_path / "wds").iterdir(), *(tmp_path / "p").iterdir()]:
        path.unlink()
    import reinforce.sources.parquet

    reinforce.sources.parquet._reader.cache_clear()
    reinforce.sources.parquet._group.cache_clear()
    with pytest.raises(OSError, match="No such file"):
        shards.read(0)
    with pytest.raises((OSError, SourceError)):
        table.read(0)


def test_names_of_classes_come_along(places: Callable[[str], Made], tmp_path: Path, images: Path) -> None:
    assert open_source(places("folder").data).class_names == CLASSES
    assert open_source(places("parquet").data).class_names == CLASSES
    assert open_source(places("wds").data).class_names == ("0", "1", "2")
    shards = write_shards(ImageFolder.open(images), tmp_path / "named")
    (tmp_path / "named" / "class_names.json").write_text(json.dumps([*CLASSES, "dates"]))
    assert open_source(shards).class_names == (*CLASSES, "dates")
    assert open_source(tmp_path / "named").kind == "wds"
    for text in ("{", "[1, 2, 3]", '["a", "a", "b"]', '["a"]', "[" * 100_000):
        (tmp_path / "named" / "class_names.json").write_text(text)
        with pytest.raises(SourceError):
            open_source(shards)


def test_a_part_of_an_npz_and_of_torchvision(places: Callable[[str], Made]) -> None:
    assert len(open_source(places("npz").data + "#test")) == 3
    assert len(open_source(places("torchvision").data.replace("#train", "#test"))) == 2


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason="no real data here")
def test_real_cifar_images_are_read_as_they_are() -> None:
    path = REAL_DATA / "cifar10" / "cifar10_lossless_4000train_1000test.npz"
    for part, count in (("", 4000), ("#test", 1000)):
        source = open_source(f"{path}{part}")
        held = np.load(path)[f"x_{part[1:] or 'train'}"]
        assert len(source) == count
        assert np.array_equal(decode(source.read(count - 1)), held[count - 1])


# Remote files


def test_a_remote_file_is_fetched_once_and_in_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    content = np.random.default_rng(0).bytes(5 * CHUNK_BYTES + 123)
    (tmp_path / "big.bin").write_bytes(content)
    with serve_http(tmp_path) as served:
        file = File.open(f"{served.url}/big.bin")
        at = 3 * CHUNK_BYTES - 10
        assert file.read(at, 20) == content[at : at + 20]
        assert served.sent == 2 * CHUNK_BYTES, "the two chunks that hold it, and no more"
        assert file.read(at, 20) == content[at : at + 20]
        assert served.sent == 2 * CHUNK_BYTES
        assert file.read() == content
        assert served.sent == len(content), "what was there is not fetched again"
        with pytest.raises(OSError, match="bytes"):
            file.read(len(content) - 5, 6)
        (tmp_path / "big.bin").write_bytes(content[::-1])
        assert File.open(f"{served.url}/big.bin").read(0, 9) == content[::-1][:9], "a changed file is another one"


def test_a_server_that_fails_now_and_then_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.bin").write_bytes(b"x" * 100)
    with serve_http(tmp_path) as served:
        file = File.open(f"{served.url}/a.bin")
        served.failures["/a.bin"] = 2
        assert file.read(10, 5) == b"xxxxx"
        (tmp_path / "b.bin").write_bytes(b"y" * (2 * CHUNK_BYTES))
        served.ranges = False
        with pytest.raises(OSError, match="range requests"):
            File.open(f"{served.url}/b.bin").read(CHUNK_BYTES, 5)
        with pytest.raises(SourceError, match="cannot be read"):
            File.open(f"{served.url}/nothing.tar")


def test_a_cut_chunk_in_the_cache_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.bin").write_bytes(bytes(range(200)))
    with serve_http(tmp_path) as served:
        file = File.open(f"{served.url}/a.bin")
        file.read()
        [chunk] = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
        chunk.write_bytes(b"cut")
        assert file.read() == bytes(range(200))


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
def test_a_shard_with_other_things_in_it_is_refused(members, message, tmp_path: Path) -> None:
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


def test_arrays_that_are_not_images_are_refused(tmp_path: Path) -> None:
    def refused(match: str, **arrays: object) -> None:
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(SourceError, match=match):
            open_source(tmp_path / "a.npz")

    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    refused("no array of images", y=np.arange(4))
    refused("float64", x=np.zeros((4, 8, 8, 3)))
    refused("no array of images", x=np.zeros((4, 8, 8, 2), np.uint8))
    refused("no class ids", x=pixels, y=np.arange(3))
    refused("no class ids", x=pixels, y=np.zeros(4))
    refused("not class ids", x=pixels, y=np.array([0, 1, -2, 1]))
    refused("unpickled", x=pixels, y=np.array([{}, 1, 2, 3], dtype=object))
    np.savez(tmp_path / "a.npz", x=pixels)
    with pytest.raises(SourceError, match="no array of images"):
        open_source(f"{tmp_path / 'a.npz'}#test")
    assert len(open_source(tmp_path / "a.npz")) == 4
    for side, flat, shape in ((32, (4, 3072), (4, 32, 32, 3)), (28, (4, 784), (4, 28, 28))):
        images = np.random.default_rng(side).integers(0, 256, shape, np.uint8)
        channels_first = images.transpose(0, 3, 1, 2) if images.ndim == 4 else images
        np.savez(tmp_path / "a.npz", data=channels_first.reshape(flat), labels=np.arange(4))
        assert np.array_equal(open_source(tmp_path / "a.npz").places, images)
    np.savez(tmp_path / "a.npz", images=pixels.transpose(0, 3, 1, 2))
    assert open_source(tmp_path / "a.npz").places.shape == pixels.shape


def test_an_npz_that_would_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reinforce.sources.arrays.MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(8 << 20))
    assert os.path.getsize(tmp_path / "bomb.npz") < 20_000
    with pytest.raises(SourceError, match="arrays of more than"):
        open_source(tmp_path / "bomb.npz")


def test_tables_without_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(match: str, **columns: object) -> None:
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(SourceError, match=match):
            open_source(tmp_path / "a.parquet")

    table("no column of images", label=[1, 2])
    table("have a label", image=[b"1", b"2"], label=[1, None])
    table("not class ids", image=[b"1", b"2"], label=[1, -1])
    table("one key", image=[b"1", b"2"], key=["a", "a"])
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(SourceError, match="is not parquet"):
        open_source(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [b"1" * 1000, None]}), tmp_path / "b.parquet")
    source = open_source(tmp_path / "b.parquet")
    assert source.keys == ("00000000", "00000001")
    with pytest.raises(OSError, match="no image in this row"):
        source.read(1)
    monkeypatch.setattr("reinforce.sources.parquet.MAX_GROUP_BYTES", 100)
    import reinforce.sources.parquet

    reinforce.sources.parquet._group.cache_clear()
    with pytest.raises(OSError, match="a row group of"):
        source.read(0)
    pq.write_table(pa.table({"picture": [b"1"]}), tmp_path / "c.parquet")
    with pytest.raises(SourceError, match="different columns"):
        open_source(str(tmp_path / "{b,c}.parquet"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "There is no image folder"),
        ("nowhere-*.tar", "No file matches"),
        ("nowhere.tar", "cannot be read"),
        ("a.tar.gz", "is compressed"),
        ("torchvision:MNIZT", "no data set MNIZT"),
        ("torchvision:CIFAR10", "--download"),
        ("unheard://of/a.tar", "cannot be opened"),
        ("npz:nowhere.npz", "cannot be read"),
        ("https://127.0.0.1:9/a.tar", "no answer"),
        ("https://127.0.0.1:9/{0..2}.parquet", "no answer"),
    ],
)
def test_what_is_not_there_is_said(data: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=message):
        open_source(data)


def test_a_pattern_that_a_server_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(url: str) -> list[str]:
        raise RuntimeError("no credentials")  # each client raises errors of its own

    monkeypatch.setattr("reinforce.sources.patterns._glob", refusing)
    monkeypatch.setattr("reinforce.sources.location._TRIES", 1)
    with pytest.raises(SourceError, match=r"(?s)a/\*.tar cannot be read.*no credentials"):
        open_source("s3://bucket/a/*.tar")


def test_download_is_for_torchvision(images: Path) -> None:
    with pytest.raises(SourceError, match="--download is for"):
        open_source(images, download=True)


# From end to end


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "http-wds", "http-parquet", "s3-folder", "torchvision"])
def test_labels_are_made_and_replayed_from_any_kind(kind, places, weights: Path, tmp_path: Path, cli: Cli) -> None:
    data, teacher = places(kind).data, ("--teacher", TEACHER, "--teacher-weights", weights)
    options = ("--size", 32, "--views", 2, "--block-size", 5, "--workers", 1)
    if kind == "torchvision":  # of ten classes, and the teacher knows three
        (tmp_path / "map.json").write_text("[0, 1, 2, 0, 1, 2, 0, 1, 2, 0]")
        teacher = (*teacher, "--class-map", tmp_path / "map.json")
    code, out, err = cli("generate", "--data", data, *teacher, *options, "--out", tmp_path / "labels")
    assert code == 0, err
    assert f"{len(places(kind).keys)} samples x 2 views, 0 missing" in out
    code, out, _ = cli("verify", tmp_path / "labels", "--data", data, "--views", 10, "--workers", 1)
    assert code == 0, out
    train = ("--student", "test_vit", "--student-kwargs", "img_size=32", "--epochs", 1, "--batch-size", 6, "--workers", 1)
    code, _, err = cli(
        "train", "--data", data, "--labels", tmp_path / "labels", *train, "--val", data, "--out", tmp_path / "run"
    )
    assert code == 0, err


@pytest.mark.slow
def test_labels_of_a_folder_replay_from_shards_of_it_and_not_from_others(store: Path, places, cli: Cli, tmp_path: Path) -> None:
    for kind in ("folder", "wds", "parquet", "http-wds"):
        code, out, _ = cli("verify", store, "--data", places(kind).data, "--workers", 0)
        assert code == 0, out
    code, _, err = cli("verify", store, "--data", places("npz").data, "--workers", 0)
    assert code == 1
    assert "samples with labels are not in" in err
