"""A lack of descriptors or memory says nothing of an image: every reader of images tells it as what it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch.utils.data import Dataset

from reinforce.errors import OutOfMemoryError, SourceError, TooManyFilesError
from reinforce.files import writing
from reinforce.generation.ready_batches import ready_batches
from reinforce.packs.pack import Options, pack
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.train.loop import train
from reinforce.verification.verify import verify_pixels
from reinforce.views import workers
from tests.conftest import make_settings
from tests.train.conftest import config

pytestmark = pytest.mark.unit


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, index: int) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "x.jpg")

    monkeypatch.setattr(ImageFolder, "read", refuse)


SAID = r"(?s)may open no more files.*Too many open files.*x\.jpg.*nothing is wrong with the file.*ulimit -n"


@pytest.mark.usefixtures("few_files")
def test_an_image_is_not_bad_because_too_many_files_are_open(
    images: Path, store: Path, teacher: Teacher, tmp_path: Path
) -> None:
    source = ImageFolder.open(images)
    with pytest.raises(TooManyFilesError, match=SAID):
        verify_pixels(ReinforcedDataset(store, source, check=False), views=0, workers=0)
    with pytest.raises(TooManyFilesError, match=SAID):
        pack(source, store, tmp_path / "pack", Options())
    with pytest.raises(TooManyFilesError, match=SAID):
        ready_batches(source, make_settings(source, teacher), 4)
    for mode, labels in (("replay", store), ("plain", None)):
        with pytest.raises(TooManyFilesError, match=SAID):
            train(config(images, tmp_path / mode, labels, mode=mode))


def test_a_lack_of_descriptors_or_memory_is_no_full_disk(tmp_path: Path) -> None:
    for number, kind in ((errno.ENFILE, TooManyFilesError), (errno.ENOMEM, OutOfMemoryError)):
        with pytest.raises(kind), writing(tmp_path):
            raise OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "error", [pa.ArrowMemoryError("malloc of size 64 failed"), OSError(errno.EMFILE, "Too many open files")]
)
def test_a_table_is_not_damaged_because_of_a_lack_of_memory(
    store: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(pq, "ParquetFile", fail)
    with pytest.raises((OutOfMemoryError, TooManyFilesError)):
        Store(store)


class Growing(Dataset[np.ndarray]):
    def __getitem__(self, item: int) -> np.ndarray:
        return np.empty(1 << 52, np.uint8)


@pytest.mark.process
@pytest.mark.parametrize("number", [0, 1])
def test_a_worker_without_memory_says_how_much_it_wanted(number: int) -> None:
    with pytest.raises(OutOfMemoryError, match=r"(?s)Unable to allocate 4.00 PiB.*in __getitem__.*fewer --workers"):
        list(workers.made_by_workers(Growing(), [0], workers=number, location="there"))


def test_views_for_timing_pass_over_bad_images(own_images: Path, teacher: Teacher) -> None:
    source = ImageFolder.open(own_images)
    settings = make_settings(source, teacher)
    (own_images / "apple" / "000.jpg").write_bytes(b"no image")
    assert sum(map(len, ready_batches(source, settings, 1000))) == (len(source) - 1) * settings.views
    for path in own_images.rglob("*.*"):
        path.unlink()
    with pytest.raises(SourceError, match=r"(?s)No image of .* can be used.*No such file.*check --data"):
        ready_batches(source, settings, 4)
