"""One set of laws for every kind of source, on this machine and behind real servers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from reinforce.errors import SourceError
from reinforce.sources.column import Column
from reinforce.sources.folder import ImageFolder
from reinforce.sources.open_source import open_source
from reinforce.testing.sources import check_source
from reinforce.views.decode import decode
from tests.conftest import CLASSES, REAL_DATA, TEACHER, Cli, picture
from tests.servers import serve_http, serve_s3
from tests.sources.writers import write_mnist, write_parquet, write_shards

pytestmark = pytest.mark.unit

KINDS = ("folder", "wds", "wds-flat", "parquet", "parquet-bytes", "npz", "npz-grey", "torchvision")
REMOTE = ("http-wds", "http-parquet", "http-npz", "s3-folder", "s3-wds", "s3-parquet")


class Made(NamedTuple):
    """A source to be opened, and what it must give."""

    data: str
    keys: list[str]
    labels: list[int] | None
    images: list[bytes]


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


@pytest.fixture(params=KINDS + REMOTE)
def made(request: pytest.FixtureRequest, places: Callable[[str], Made]) -> Made:
    return places(request.param)


# The laws


@pytest.mark.network
def test_a_source_gives_what_was_put_in(made: Made) -> None:
    source = open_source(made.data)
    assert list(source.keys) == made.keys
    assert {type(source.keys), type(source.labels)} <= {Column, type(None)}, "bytes that processes share, not objects"
    assert (None if source.labels is None else list(source.labels)) == made.labels
    labels: Sequence[int | None] = made.labels or [None] * len(source)
    assert [source.label(i) for i in range(len(source))] == labels
    assert bool(source.class_names) == (made.labels is not None)
    assert [source.read(i) for i in range(len(source))] == made.images
    assert all(decode(source.read(i)).ndim == 3 for i in range(len(source)))


@pytest.mark.network
@pytest.mark.process
def test_it_keeps_the_laws(made: Made) -> None:
    check_source(lambda: open_source(made.data))
    first = open_source(made.data)
    assert open_source(first) is first


@pytest.mark.network
def test_a_part_is_a_source_of_the_same_kind(made: Made) -> None:
    source = open_source(made.data)
    part = source.take([5, 0, 7])
    assert type(part) is type(source)
    assert part.class_names == source.class_names
    assert [part.read(i) for i in range(3)] == [made.images[i] for i in (5, 0, 7)]
    assert list(part.keys) == [made.keys[i] for i in (5, 0, 7)]
    assert part.groups is None or part.groups.tolist() == [source.groups[i] for i in (5, 0, 7)]
    assert made.keys[5] in part.where(0)


def test_what_is_gone_is_an_oserror(images: Path, tmp_path: Path) -> None:
    folder = ImageFolder.open(images)
    shards = open_source(write_shards(folder, tmp_path / "wds"))
    table = open_source(write_parquet(folder, tmp_path / "p" / "a.parquet", True))
    for path in [*(tmp_path / "wds").iterdir(), *(tmp_path / "p").iterdir()]:
        path.unlink()
    import reinforce.sources.parquet

    reinforce.sources.parquet._reader.cache_clear()
    reinforce.sources.parquet._HELD.clear()
    with pytest.raises(OSError, match="No such file"):
        shards.read(0)
    with pytest.raises((OSError, SourceError)):
        table.read(0)


@pytest.mark.network
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


@pytest.mark.network
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


# From end to end


@pytest.mark.network
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npz", "http-wds", "http-parquet", "s3-folder", "torchvision"])
def test_labels_are_made_and_replayed_from_any_kind(
    kind: str, places: Callable[[str], Made], weights: Path, tmp_path: Path, cli: Cli
) -> None:
    data = places(kind).data
    teacher: tuple[object, ...] = ("--teacher", TEACHER, "--teacher-weights", weights)
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


@pytest.mark.network
@pytest.mark.slow
def test_labels_of_a_folder_replay_from_shards_of_it_and_not_from_others(
    store: Path, places: Callable[[str], Made], cli: Cli, tmp_path: Path
) -> None:
    for kind in ("folder", "wds", "parquet", "http-wds"):
        code, out, _ = cli("verify", store, "--data", places(kind).data, "--workers", 0)
        assert code == 0, out
    code, _, err = cli("verify", store, "--data", places("npz").data, "--workers", 0)
    assert code == 1
    assert "samples with labels are not in" in err
