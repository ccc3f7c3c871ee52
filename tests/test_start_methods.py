"""Start methods: whatever way worker processes are started, every loader gives the bytes that this process makes itself.

`forkserver` is Python's default on Linux from 3.14 on, `spawn` on macOS and Windows, `fork` on Linux before. Under the first
two all that a worker needs travels to it, pickled by its parent.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch

from reinforce.files import file_sha256
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.packs.pack import Options, pack
from reinforce.peers.importer import import_labels
from reinforce.peers.ml_dr import MlDrReader
from reinforce.peers.reader import ReadOptions
from reinforce.peers.tinyvit import TinyVitReader
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.drawn_labels import HardLabels
from reinforce.replay.epoch_views import FreshViews, ReplayedViews, Views
from reinforce.replay.loader import batch_plan, batches, partners
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.teacher import Teacher
from reinforce.verification.verify import verify_pixels
from reinforce.views.policy_text import parse_policy
from tests.conftest import make_settings
from tests.peers.label_files import write_ml_dr, write_tinyvit

pytestmark = pytest.mark.process

SLOW = pytest.mark.slow  # a process that is not forked imports torch for some seconds


@pytest.fixture(params=["fork", pytest.param("spawn", marks=SLOW), pytest.param("forkserver", marks=SLOW)])
def start_method(request: pytest.FixtureRequest) -> Iterator[str]:
    """The method that is chosen as a program does, for all of the process."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method(request.param, force=True)
    yield request.param
    multiprocessing.set_start_method(before, force=True)


def content(root: Path) -> dict[str, str]:
    """Hash of each file below a folder."""
    return {path.relative_to(root).as_posix(): file_sha256(path) for path in sorted(root.rglob("*")) if path.is_file()}


def made(views: Views, workers: int) -> Iterator[list[torch.Tensor]]:
    views.set_epoch(1)
    plan = batch_plan(0, 1, len(views), 8, partners(views.mixing))
    for pixels, targets in batches(views, plan, workers=workers):
        soft = [] if targets.soft is None else [targets.soft.dense()]
        yield [pixels.clone(), targets.hard, *soft]


def equal(views: Views) -> bool:
    pairs = zip(made(views, 0), made(views, 1), strict=True)
    return all(torch.equal(a, b) for here, there in pairs for a, b in zip(here, there, strict=True))


def test_batches_of_stored_views_are_the_same(start_method: str, images: Path, store: Path) -> None:
    assert equal(ReplayedViews(ReinforcedDataset(store, images)))


def test_batches_of_shards_are_the_same(start_method: str, images: Path, store: Path, tmp_path: Path) -> None:
    pack(ImageFolder.open(images), store, tmp_path / "shards", Options(shard_bytes=30_000))
    assert equal(ReplayedViews(ReinforcedDataset(tmp_path / "shards")))


def test_batches_of_fresh_views_are_the_same(start_method: str, images: Path) -> None:
    source = ImageFolder.open(images)
    assert equal(FreshViews(source, np.arange(24), HardLabels(np.array(source.labels)), parse_policy("usi"), 32, 3))


def test_stage_one_makes_the_same_files(start_method: str, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, policy=parse_policy("usi"))
    for workers in (0, 1):
        generate(source, teacher, settings, tmp_path / str(workers), Execution(batch_size=16, workers=workers))
    assert content(tmp_path / "0") == content(tmp_path / "1")


def test_pixels_are_verified(start_method: str, images: Path, store: Path) -> None:
    checks = verify_pixels(ReinforcedDataset(store, images, check=False), views=25, workers=1)
    assert [(c.total, c.failed) for c in checks] == [(24, 0), (5, 0)]


def test_labels_are_imported_the_same(start_method: str, images: Path, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    write_ml_dr(tmp_path / "labels.tar.gz", source, erased=True)
    for workers in (0, 1):
        reader = MlDrReader.open(tmp_path / "labels.tar.gz", ReadOptions(3))
        import_labels(reader, source, tmp_path / str(workers), workers)
    assert content(tmp_path / "0") == content(tmp_path / "1")


@pytest.mark.unit
def test_a_worker_that_parses_tinyvits_labels_is_not_sent_all_of_them(images: Path, tmp_path: Path) -> None:
    keys = [f"a/{number}" for number in range(5000)]
    write_tinyvit(tmp_path / "tiny", keys)
    reader = TinyVitReader(tmp_path / "tiny", 3, ["somebody"])
    sent = ForkingPickler.dumps(reader)
    assert len(sent) < 5000, "what is on disk stays there"
    there, entry = ForkingPickler.loads(sent), next(reader.entries())
    here = reader.parse(entry.content, 60, 40)
    assert there.parse(entry.content, 60, 40).record == here.record
