"""Files of labels that are no files: pipes, folders and links are told, and none of them is waited for or left out silently."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reinforce.errors import StoreError, UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.peers.archive import archive_files
from reinforce.peers.formats import open_reader
from reinforce.peers.importer import import_labels
from reinforce.peers.ml_dr_files import ml_dr_files
from reinforce.peers.reader import ReadOptions
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.views.params import OP_SLOT_BASE, Op
from reinforce.views.policy_text import parse_policy
from tests.conftest import make_settings
from tests.peers.label_files import write_ml_dr, write_tinyvit

pytestmark = pytest.mark.unit

NO_FILES: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a folder": Path.mkdir,
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a link to nowhere": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("name", ["keys.txt", "values.bin"])
def test_tinyvits_files_are_files(kind: str, name: str, tmp_path: Path) -> None:
    write_tinyvit(tmp_path, ["a", "b"])
    path = tmp_path / "logits_top2_epoch0" / f"rank1-{name}"
    path.unlink()
    NO_FILES[kind](path)
    with pytest.raises(StoreError, match=r"rank1-keys\.txt without its values, or .*no plain file"):
        open_reader("tinyvit", tmp_path, ReadOptions(3))


@pytest.mark.parametrize("kind", [kind for kind in NO_FILES if kind != "a folder"])
def test_tinyvits_files_that_change_after_they_were_listed_are_told(kind: str, tmp_path: Path) -> None:
    write_tinyvit(tmp_path, ["a", "b"])
    reader = open_reader("tinyvit", tmp_path, ReadOptions(3))
    path = tmp_path / "logits_top2_epoch0" / "rank1-keys.txt"
    path.unlink()
    NO_FILES[kind](path)
    with pytest.raises(StoreError, match="cannot be read: "):
        list(reader.entries())


def test_an_epoch_that_is_no_folder_is_told(tmp_path: Path) -> None:
    write_tinyvit(tmp_path, ["a", "b"])
    shutil.rmtree(tmp_path / "logits_top2_epoch1")
    (tmp_path / "logits_top2_epoch1").touch()
    with pytest.raises(StoreError, match=r"logits_top2_epoch1 cannot be read: Not a directory"):
        open_reader("tinyvit", tmp_path, ReadOptions(3))


@pytest.mark.parametrize("kind", [kind for kind in NO_FILES if kind != "a folder"])
def test_a_folder_of_label_files_has_files_in_it(kind: str, tmp_path: Path) -> None:
    NO_FILES[kind](tmp_path / "0.pth.tar")
    with pytest.raises(StoreError, match=r"(?s)0\.pth\.tar is not read.*found: +(no plain file|a link)"):
        list(archive_files(tmp_path))


def test_folders_that_would_be_passed_over_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "linked").symlink_to("there")
    with pytest.raises(StoreError, match=r"(?s)linked is not read.*found: +a link"):
        list(archive_files(tmp_path))
    (tmp_path / "linked").unlink()
    assert list(archive_files(tmp_path)) == []
    listed = os.scandir

    def forbidden(folder: Path) -> object:
        if Path(folder).name == "there":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", forbidden)  # whoever runs the tests may be allowed to read everything
    with pytest.raises(StoreError, match=r"(?s)there cannot be read.*Permission denied"):
        list(archive_files(tmp_path))


def test_an_import_starts_as_many_processes_as_the_machine_allows(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ImageFolder.open(images)
    write_ml_dr(tmp_path / "labels.tar", source, False)
    asked: list[int] = []

    def none_at_all(workers: int) -> int:
        asked.append(workers)
        return 0

    monkeypatch.setattr("reinforce.peers.importer.affordable", none_at_all)
    monkeypatch.setattr("reinforce.peers.importer.ProcessPoolExecutor", None)  # none is started
    reader = open_reader("imagenet-plus", tmp_path / "labels.tar", ReadOptions(3, size=32))
    import_labels(reader, source, tmp_path / "out", workers=3)
    assert asked == [3]


def test_an_import_into_its_own_images_is_refused(own_images: Path, tmp_path: Path) -> None:
    source = ImageFolder.open(own_images)
    write_ml_dr(tmp_path / "labels.tar", source, False)
    reader = open_reader("imagenet-plus", tmp_path / "labels.tar", ReadOptions(3, size=32))
    with pytest.raises(UsageError, match="inside of"):
        import_labels(reader, source, own_images / "out", workers=0)
    assert not (own_images / "out").exists()


def test_ops_that_ml_dr_cannot_have_are_told(
    images: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ImageFolder.open(images)
    changes = {"policy": parse_policy("imagenet-plus-ra-re"), "size": 32, "views": 1}
    generate(source, teacher, make_settings(source, teacher, **changes), tmp_path / "a", Execution(16, 0))
    store = Store(tmp_path / "a")
    of = Store.params_of

    def damaged(self: Store, sample: int, view: int) -> np.ndarray:
        row = of(self, sample, view).copy()
        first = self.spec.fields.index(OP_SLOT_BASE)
        row[first : first + 4] = (Op.AUTO_CONTRAST, 0, 72090, 0)
        return row

    monkeypatch.setattr(Store, "params_of", damaged)
    with pytest.raises(StoreError, match=r"(?s)view 0 of apple/000 cannot be written.*AUTO_CONTRAST with 72090 and 0"):
        list(ml_dr_files(store, 2))
