"""Refusals: labels that cannot be, labels of other images and hostile archives leave nothing behind."""

from __future__ import annotations

import gzip
import json
import os
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

from reinforce.errors import StoreError
from reinforce.peers.reader import reading
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from tests.conftest import Cli
from tests.peers.label_files import GOOD, add, dense, saved, write_ml_dr, write_tinyvit

pytestmark = pytest.mark.unit


BOX = (0, 0, 9, 9)


def ml_dr(tmp_path: Path, views: object, index: object = 0) -> Path:
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    (folder / f"{index}.pth.tar").write_bytes(saved((index, views)))
    return folder


@pytest.mark.parametrize(
    ("view", "match"),
    [
        ({**GOOD, "params": [(0, 0, 999, 9), False]}, "not within its image"),
        ({**GOOD, "params": [(-1, 0, 9, 9), False]}, "not within its image"),
        ({**GOOD, "params": [(0, 0, 0, 9), False]}, "not within its image"),
        ({**GOOD, "params": [(0, 0, 2**70, 9), False]}, "Labels of a view are damaged"),
        ({**GOOD, "params": [(0, 0, 9), False]}, "Labels of a view are damaged"),
        ({**GOOD, "params": [(0, 0, 9, 9)]}, "params of 1 parts"),
        ({**GOOD, "params": [0, [BOX, (0, 0, 999, 9)], [False] * 2, 0.3, None]}, "mixed with the crop \\[0, 0, 999, 9\\] of"),
        ({**GOOD, "params": [7, [BOX] * 2, [False] * 2, 0.3, None]}, "not ok, such as .*: no labels were imported"),
        ({**GOOD, "params": [24, [BOX] * 2, [False] * 2, 0.3, None]}, "mixed with sample 24 of 24"),
        ({**GOOD, "params": [-1, [BOX] * 2, [False] * 2, 0.3, None]}, "are damaged"),
        ({**GOOD, "params": [0, [BOX], [False] * 2, 0.3, None]}, "are damaged"),
        ({**GOOD, "params": [0, [BOX] * 2, [False] * 2, 1.5, None]}, "are damaged"),
        ({**GOOD, "params": [0, [BOX] * 2, [False] * 2, float("nan"), None]}, "are damaged"),
        ({**GOOD, "params": [0, [BOX] * 2, [False] * 2, None, [0.5, 9, 0, 8, 9]]}, "are damaged"),
        ({**GOOD, "params": [0, [BOX] * 2, [False] * 2, None, [0.5, 0, 0, 8, 999]]}, "are damaged"),
        ({**GOOD, "params": [None, BOX, False, 0.3, None]}, "are damaged"),
        ({**GOOD, "params": [(224,), (300, 0), False, [(0, 0.0)] * 2, None]}, "are damaged"),
        ({**GOOD, "params": [(256,), (0, 0), False, [(0, 0.0)] * 2, None]}, "are damaged"),
        ({**GOOD, "params": [BOX, False, [(0, 0.0)] * 2, (1, -2, 3, 4)]}, "are damaged"),
        ({**GOOD, "params": "text"}, "views without params"),
        ({**GOOD, "prob": ([0.5, 0.2], [1, 3])}, "class ids 1 to 3"),
        ({**GOOD, "prob": ([0.5, 0.2], [1, -1])}, "class ids -1 to 1"),
        ({**GOOD, "prob": ([0.5, 0.2], [1, 1])}, "a class twice"),
        ({**GOOD, "prob": ([0.5, float("nan")], [1, 0])}, "NaN"),
        ({**GOOD, "prob": ([0.9, 0.9], [1, 0])}, "sum to 1.8"),
        ({**GOOD, "prob": ([0.5, -0.1], [1, 0])}, "lowest probability -0.1"),
        ({**GOOD, "prob": ([0.5], [1, 0])}, "other lengths"),
        ({**GOOD, "prob": ([0.5, 0.2], [1, 2**70])}, "no numbers, or too large"),
        ({**GOOD, "prob": ([0.5, 0.2], [1, 2**40])}, "more digits than there are classes"),
        ({**GOOD, "prob": ([0.5, 0.2], [1, 0.5])}, "no whole number"),
        ({**GOOD, "prob": ([0.5, [0.2]], [1, 0])}, "probabilities and class ids"),
        ({**GOOD, "prob": torch.zeros(2)}, "probabilities and class ids"),
        ({**GOOD, "params": [torch.zeros(3, 4), False]}, "params .*: RuntimeError|params .*: ValueError"),
        ({"params": [(0, 0, 9, 9), False, [(14, 0.1), (0, 0.0)], None], "prob": GOOD["prob"]}, "Labels of a view are damaged"),
        ({"params": [(0, 0, 9, 9), False, [(1, float("inf")), (0, 0.0)], None], "prob": GOOD["prob"]}, "are damaged"),
    ],
)
def test_labels_that_cannot_be_are_refused(view: Any, match: str, images: Path, tmp_path: Path, cli: Cli) -> None:
    files = ml_dr(tmp_path, [view])
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")
    code, _, err = cli("import", "imagenet-plus", files, *options)
    assert code in (1, 2)
    assert __import__("re").search(match, err), err
    assert not (tmp_path / "out").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")], "nothing half-written"


def test_half_floats_that_sum_to_a_little_over_one_are_scaled(images: Path, tmp_path: Path, cli: Cli) -> None:
    files = ml_dr(tmp_path, [{**GOOD, "prob": ([0.7, 0.305], [1, 0])}])
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")
    assert cli("import", "imagenet-plus", files, *options)[0] == 0
    assert dense(Store(tmp_path / "out"), 0).min() >= 0


@pytest.mark.process
def test_an_interrupt_is_for_the_process_that_was_started_first(
    images: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the kill harness: Ctrl-C goes to the whole group, and its processes said so in tracebacks."""
    write_ml_dr(tmp_path / "labels.tar.gz", ImageFolder.open(images), False)
    monkeypatch.setattr("reinforce.peers.importer.end_with_parent", lambda: os.kill(os.getpid(), signal.SIGINT))
    options = ("--data", images, "--num-classes", 3, "--workers", 1, "--out", tmp_path / "out")
    assert cli("import", "imagenet-plus", tmp_path / "labels.tar.gz", *options)[0] == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


@pytest.mark.process
def test_a_process_that_dies_ends_the_import_in_words(
    images: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ml_dr(tmp_path / "labels.tar.gz", ImageFolder.open(images), False)
    monkeypatch.setattr("reinforce.peers.importer._go", _die)
    options = ("--data", images, "--num-classes", 3, "--workers", 1, "--out", tmp_path / "out")
    code, _, err = cli("import", "imagenet-plus", tmp_path / "labels.tar.gz", *options)
    assert code == 1
    assert "A process that parses labels died" in err
    assert {p.name for p in tmp_path.iterdir()} == {"labels.tar.gz"}


def _die(position: int, content: bytes) -> None:
    os._exit(9)


def test_labels_of_other_images_are_refused(images: Path, tmp_path: Path, cli: Cli) -> None:
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")
    code, _, err = cli("import", "imagenet-plus", ml_dr(tmp_path, [GOOD], 24), *options)
    assert (code, "image 24, and 24 images" in err) == (1, True)
    twice = tmp_path / "twice.tar"
    with tarfile.open(twice, "w") as tar:
        for folder in "ab":
            add(tar, f"{folder}/3.pth.tar", saved((3, [GOOD])))
    code, _, err = cli("import", "imagenet-plus", twice, *options)
    assert (code, "two files of labels" in err) == (1, True)
    code, _, err = cli("import", "fkd", fkd_of(tmp_path, "apple/nobody"), *options)
    assert (code, "'apple/nobody', and no such image" in err) == (1, True)
    code, _, err = cli("import", "fkd", tmp_path / "twice.tar", *options)
    assert code == 1
    assert "Traceback" not in err


def fkd_of(tmp_path: Path, *keys: str) -> Path:
    for key in keys:
        path = tmp_path / "fkd" / f"{key}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved([torch.tensor([[0, 0, 0.5, 0.5]]), torch.tensor([True]), torch.tensor([1])]))
    return tmp_path / "fkd"


def test_labels_of_more_and_of_fewer_images_are_counted(images: Path, tmp_path: Path, cli: Cli) -> None:
    keys = ("apple/nobody", "apple/002", "cheese/001", "date/000", "cheese/008")
    files = fkd_of(tmp_path, *keys)
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")
    code, _, err = cli("import", "fkd", files, *options)
    assert (code, "--missing skip leaves such labels out" in err) == (1, True)
    assert not (tmp_path / "out").exists()
    code, text, err = cli("import", "fkd", files, *options, "--missing", "skip")
    assert code == 0, err
    assert "2 samples x 1 views, 22 without labels, 0 corrupt; left out: labels of 3 images" in text
    store = Store(tmp_path / "out")
    assert [store.samples.key(s) for s in store.ok_samples] == ["apple/002", "cheese/001"]
    (tmp_path / "out").rename(tmp_path / "first")
    code, text, _ = cli("import", "fkd", files, *options, "--missing", "skip", "--json")
    about = json.loads(text)
    assert (about["images_without_labels"], about["labels_without_images"], about["missing"], code) == (22, 3, 22, 0)
    many = ml_dr(tmp_path, [GOOD], 23)
    ml_dr(tmp_path, [GOOD], 24)
    (tmp_path / "out").rename(tmp_path / "second")
    code, text, err = cli("import", "imagenet-plus", many, *options, "--missing", "skip")
    assert (code, "There are labels of image 24, and 24 images" in err, "not all of them" in err) == (1, True, True)


def test_labels_of_none_of_the_images_are_refused_whatever_is_missing(images: Path, tmp_path: Path, cli: Cli) -> None:
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out", "--missing", "skip")
    code, _, err = cli("import", "fkd", fkd_of(tmp_path, "apple/nobody", "date/000"), *options)
    assert (code, "labels of none of the images" in err, "2 labels" in err) == (1, True, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["imagenet-plus", "fkd", "tinyvit", "relabel"])
def test_nothing_there_is_said(kind: str, images: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "empty").mkdir()
    for files in (tmp_path / "empty", tmp_path / "nowhere"):
        code, _, err = cli("import", kind, files, "--data", images, "--out", tmp_path / "out")
        assert code == 1
        assert "There " in err


def test_hostile_archives_are_refused(images: Path, tmp_path: Path, cli: Cli) -> None:
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")

    def refused(path: Path, match: str) -> None:
        code, _, err = cli("import", "imagenet-plus", path, *options)
        assert code == 1
        assert match in err
        assert not (tmp_path / "out").exists()

    link = tarfile.TarInfo("0.pth.tar")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        tar.addfile(link)
    refused(tmp_path / "link.tar", "is no plain file")
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        file.write(long.tobuf())
        for _ in range(64):
            file.write(bytes(1 << 20))
    refused(tmp_path / "bomb.tar.gz", "a header of")
    huge = tarfile.TarInfo("0.pth.tar")
    huge.size = 1 << 40
    (tmp_path / "huge.tar").write_bytes(huge.tobuf() + bytes(1024))
    refused(tmp_path / "huge.tar", "is no plain file")
    write_ml_dr(tmp_path / "whole.tar.gz", ImageFolder.open(images), False)
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.tar.gz", "cannot be read")
    (tmp_path / "0.pth.tar").symlink_to("/etc/passwd")
    (tmp_path / "folder").mkdir()
    (tmp_path / "0.pth.tar").rename(tmp_path / "folder" / "0.pth.tar")
    refused(tmp_path / "folder", "a link")


@pytest.mark.parametrize("index", ["0", None, 2.0, torch.zeros(2), [0]])
def test_an_index_that_is_no_integer_is_refused(index: Any, images: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "0.pth.tar").write_bytes(saved((index, [GOOD])))
    code, _, err = cli(
        "import", "imagenet-plus", tmp_path / "files", "--data", images, "--workers", 0, "--out", tmp_path / "out"
    )
    assert (code, "an index" in err) == (1, True)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([torch.zeros(2, 4), torch.zeros(2), [1, [2]]], "damaged"),
        ([torch.zeros(2, 4), torch.zeros(2), [1, 2**70]], "not \\[coords, flip, label\\]"),
        ([torch.zeros(2, 4), torch.zeros(2), torch.tensor(1)], "not \\[coords, flip, label\\]"),
        ([torch.zeros(2, 4), torch.zeros(2), torch.zeros(2, dtype=torch.complex64)], "not \\[coords, flip, label\\]"),
        ([torch.zeros(70000, 4), torch.zeros(70000), torch.zeros(70000)], "70000 views of a sample"),
    ],
)
def test_arrays_of_fkd_that_cannot_be_are_refused(value: Any, match: str, images: Path, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "files" / "apple" / "000.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(saved(value))
    code, _, err = cli("import", "fkd", tmp_path / "files", "--data", images, "--workers", 0, "--out", tmp_path / "out")
    assert code == 1
    assert __import__("re").search(match, err), err


def test_keys_that_are_no_text_are_refused(images: Path, tmp_path: Path, cli: Cli) -> None:
    write_tinyvit(tmp_path / "files", ["apple/000", "apple/001"], epochs=1)
    for path in (tmp_path / "files").rglob("*-keys.txt"):
        path.write_bytes(path.read_bytes().replace(b"apple", b"\xff\xfe\xfd"))
    code, _, err = cli("import", "tinyvit", tmp_path / "files", "--data", images, "--workers", 0, "--out", tmp_path / "out")
    assert (code, "a key b'" in err) == (1, True), err
    assert not (tmp_path / "out").exists()


def test_what_no_reader_has_foreseen_is_told_as_damage() -> None:
    for error in (TypeError("x"), OverflowError("x"), IndexError("x"), RuntimeError("x")):
        with pytest.raises(StoreError, match=f"{type(error).__name__}: x"), reading():
            raise error
