"""Source: an image folder in torchvision's order, with torchvision's class ids; the key is the path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import ImageFolder as Reference

from reinforce.errors import SourceError
from reinforce.sources.folder import ImageFolder
from tests.conftest import Cli, picture

pytestmark = pytest.mark.unit

NAMES = ["b/2.jpg", "b/10.jpg", "b/1.JPEG", "a/x/deep.png", "a/x.png", "a/Z.png", "a/z.webp", "C/u.bmp", "10/u.ppm", "9/u.tif"]


def tree(root: Path, names: list[str]) -> Path:
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {"JPG": "JPEG", "TIF": "TIFF"}.get(path.suffix[1:].upper(), path.suffix[1:].upper())
        picture(i, 12, 10).save(path, kind)
    return root


def test_order_and_classes_are_torchvisions(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", NAMES)
    (root / "a" / "notes.txt").write_text("no image")
    ours, theirs = ImageFolder.open(root), Reference(str(root))
    assert [str(root / p) for p in ours.places] == [p for p, _ in theirs.samples]
    assert list(ours.labels or ()) == [label for _, label in theirs.samples]
    assert list(ours.class_names) == theirs.classes
    assert ours.keys[ours.places.index("a/x/deep.png")] == "a/x/deep"
    assert ours.read(0) == Path(theirs.samples[0][0]).read_bytes()


def test_a_folder_without_class_folders_is_unlabelled(tmp_path: Path) -> None:
    source = ImageFolder.open(tree(tmp_path / "d", ["2.png", "1.png"]))
    assert (source.keys, source.labels, source.class_names) == (("1", "2"), None, ())
    assert source.label(0) is None


def test_hidden_folders_are_no_classes(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", ["a/1.png"])
    (root / ".ipynb_checkpoints").mkdir()
    assert ImageFolder.open(root).class_names == ("a",)


def test_links_are_followed(tmp_path: Path) -> None:
    root = tree(tmp_path / "d", ["a/1.png"])
    tree(tmp_path / "elsewhere", ["2.png"])
    (root / "b").symlink_to(tmp_path / "elsewhere")
    assert ImageFolder.open(root).keys == ("a/1", "b/2")


@pytest.mark.parametrize("link", ["a/deep/up", "a/up", "up", "b"])
def test_a_link_that_leads_in_a_circle_is_refused(tmp_path: Path, link: str) -> None:
    root = tree(tmp_path / "d", ["a/1.png", "a/deep/2.png"])
    (root / link).symlink_to(root if link in ("up", "a/up") else root / "a")
    if link == "b":  # the same images under two classes are no circle
        assert ImageFolder.open(root).keys == ("a/1", "a/deep/2", "b/1", "b/deep/2")
        return
    with pytest.raises(SourceError, match=f"{link} is a folder that it is in itself"):
        ImageFolder.open(root)


@pytest.mark.parametrize("folder", ["", "b", "b/deep"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "d", ["a/1.png", "b/2.png", "b/deep/3.png"])
    scandir, denied = os.scandir, str(root / folder)

    def refusing(path: str) -> Any:
        if os.fspath(path) == denied:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(SourceError, match=f"The folder {denied} cannot be read(.|\n)*Permission denied"):
        ImageFolder.open(str(root))


def test_an_output_inside_of_the_images_is_refused(own_images: Path, weights: Path, cli: Cli) -> None:
    (own_images.parent / "link").symlink_to(own_images)
    before = sorted(own_images.rglob("*"))
    for out in (own_images / "labels", own_images / "apple" / "labels", own_images.parent / "link" / "labels"):
        teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 32, "--workers", 0)
        for command in (("generate", *teacher), ("pack",)):
            code, _, err = cli(*command, "--data", own_images, "--out", out)
            assert code == 2, err
            assert "--out is inside of --data" in err
    code, _, err = cli("train", "--mode", "plain", "--student", "test_vit", "--data", own_images, "--out", own_images / "run")
    assert (code, "--out is inside of --data" in err) == (2, True), err
    assert sorted(own_images.rglob("*")) == before


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/1.png", "loose.png"], "images both in class folders and beside them"),
        (["a/1.png", "a/1.jpg"], r"Two images have one key.\n.*a/1.jpg and a/1.png"),
        ([], "There are no images below"),
    ],
)
def test_what_is_no_image_folder_is_refused(tmp_path: Path, names: Any, message: str) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(SourceError, match=message):
        ImageFolder.open(tree(tmp_path / "d", names))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"There is no image folder at .*nowhere"):
        ImageFolder.open(tmp_path / "nowhere")


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    tree(tmp_path / "d", ["a/1.png"])
    os.rename(tmp_path / "d" / "a" / "1.png", os.fsencode(tmp_path / "d" / "a") + b"/\xff.png")  # noqa: PTH104, TID251 - bytes
    with pytest.raises(SourceError, match="A file name is not UTF-8"):
        ImageFolder.open(tmp_path / "d")


def test_the_hash_of_the_index_knows_classes_keys_and_labels(tmp_path: Path) -> None:
    one = ImageFolder.open(tree(tmp_path / "1", ["a/1.png", "b/2.png"])).index_sha256()
    assert one == ImageFolder.open(tree(tmp_path / "2", ["a/1.png", "b/2.png"])).index_sha256()
    others = [["a/1.png", "b/3.png"], ["a/1.png", "c/2.png"], ["a/1.png", "a/2.png", "b/2.png"], ["a/1.png", "a/2.png"]]
    hashes = {ImageFolder.open(tree(tmp_path / f"o{i}", names)).index_sha256() for i, names in enumerate(others)}
    assert len(hashes | {one}) == 5


def test_taking_some_samples_keeps_what_belongs_together(tmp_path: Path) -> None:
    source = ImageFolder.open(tree(tmp_path / "d", NAMES))
    part = source.take([7, 2])
    assert part.keys == (source.keys[7], source.keys[2])
    assert part.labels == (source.labels[7], source.labels[2])
    assert part.read(1) == source.read(2)
