"""Stage one: the labels are the teacher's, whatever the batches, the workers, and what the output held before."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import reinforce.views.pixels
from reinforce.errors import LabelError, StoreError
from reinforce.generation.block_labels import block_samples
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.topk import TopK
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import committed_blocks
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.views.decode import decode
from reinforce.views.pixels import ViewMaker
from tests.conftest import content, make_settings

pytestmark = pytest.mark.unit


class ExactTeacher(Teacher):
    """A stand-in whose answer for a view depends on nothing but the view, to the last bit; notes its batches."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.infos = teacher.infos
        self.batches: list[int] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        self.batches.append(len(images))
        mass = images.to(torch.int64).sum(dim=(2, 3)).double() + 1  # one class per channel
        return (mass / mass.sum(dim=1, keepdim=True)).float()


@pytest.mark.parametrize("batch_size", [16, 100])
def test_records_are_the_teachers_answers_on_the_views_batch_by_batch(
    images: Path, teacher: Teacher, tmp_path: Path, batch_size: int
) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher)
    generate(source, teacher, settings, tmp_path / "out", Execution(batch_size, workers=0))
    maker, store = ViewMaker(source, settings), Store(tmp_path / "out")
    for block in range(settings.num_blocks):
        samples = block_samples(settings, block)
        views = torch.cat([maker[s].pixels for s in samples])
        probs = torch.cat([teacher(batch) for batch in views.split(batch_size)]).numpy()
        for row, own in enumerate(np.split(probs, len(samples))):
            assert bytes(store.block(block).record(row)) == TopK(2).encode(own)
        params = np.stack([maker[s].params for s in samples])
        assert np.array_equal(store.block(block).params(), params)


@pytest.mark.process
def test_the_number_of_workers_changes_no_byte(images: Path, store: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    for workers in (1, 3):  # `store` was made by none
        out = tmp_path / str(workers)
        generate(source, teacher, make_settings(source, teacher), out, Execution(16, workers))
        assert content(out) == content(store)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_another_batch_size_gives_the_same_labels_within_rounding_and_the_same_pixels(
    images: Path, store: Path, teacher: Teacher, tmp_path: Path, batch_size: int
) -> None:
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(batch_size, workers=0))
    here, there = Store(tmp_path / "out"), Store(store)
    for sample in range(len(source)):
        for (ids, probs, rest, _), (other_ids, other_probs, other_rest, _) in zip(
            here.labels_of(sample), there.labels_of(sample), strict=True
        ):
            assert ids.tolist() == other_ids.tolist()
            assert np.allclose(probs, other_probs, atol=1e-3)
            assert abs(rest - other_rest) < 2e-3
    for block in range(here.settings.num_blocks):
        assert np.array_equal(here.block(block).params(), there.block(block).params())
        assert np.array_equal(here.block(block).probes(), there.block(block).probes())


def test_regrouping_into_batches_gives_every_view_its_own_answer_and_never_crosses_a_block(
    images: Path, teacher: Teacher, tmp_path: Path
) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher)
    views_of_block = [settings.views * len(block_samples(settings, b)) for b in range(settings.num_blocks)]
    assert views_of_block == [35, 35, 35, 15]
    reference: dict[str, bytes] = {}
    for batch_size in (1, 4, 7, 35, 1000):
        exact = ExactTeacher(teacher)
        generate(source, exact, settings, tmp_path / str(batch_size), Execution(batch_size, workers=0))
        made = content(tmp_path / str(batch_size))
        reference = reference or made
        assert made == reference
        expected = [min(batch_size, n - start) for n in views_of_block for start in range(0, n, batch_size)]
        assert exact.batches == expected


def test_regrouping_survives_images_that_cannot_be_used(own_images: Path, teacher: Teacher, tmp_path: Path) -> None:
    for name in ("apple/000.jpg", "apple/003.png", "apple/006.jpg", "cheese/007.png"):  # first, middle, last of their blocks
        (own_images / name).write_bytes(b"no image")
    source = ImageFolder.open(own_images)
    exact = ExactTeacher(teacher)
    for batch_size in (1, 3, 16):
        out = tmp_path / str(batch_size)
        generate(source, exact, make_settings(source, teacher), out, Execution(batch_size, workers=0))
        assert content(out) == content(tmp_path / "1")
    maker, store = ViewMaker(source, make_settings(source, teacher)), Store(tmp_path / "16")
    for sample in store.ok_samples.tolist():
        block, row = divmod(sample, 7)
        assert bytes(store.block(block).record(row)) == TopK(2).encode(exact(maker[sample].pixels).numpy())


@pytest.mark.parametrize("views", [1, 6])
def test_an_image_is_decoded_once_for_all_its_views(
    images: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int
) -> None:
    decoded: Counter[bytes] = Counter()

    def counting(encoded: bytes) -> np.ndarray:
        decoded[encoded] += 1
        return decode(encoded)

    monkeypatch.setattr(reinforce.views.pixels, "decode", counting)
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher, views=views), tmp_path / "out", Execution(16, workers=0))
    assert len(decoded) == len(source)
    assert set(decoded.values()) == {1}


def test_a_teacher_that_answers_nan_is_refused_and_nothing_of_it_is_committed(
    images: Path, teacher: Teacher, tmp_path: Path
) -> None:
    source = ImageFolder.open(images)

    class Broken(ExactTeacher):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            probs = super().forward(images)
            return probs * float("nan") if len(self.batches) > 3 else probs  # in the second block

    with pytest.raises(LabelError, match="hold NaN or infinity"):
        generate(source, Broken(teacher), make_settings(source, teacher), tmp_path / "out", Execution(16, workers=0))
    assert committed_blocks(tmp_path / "out") == {0}
    assert [p.name for p in (tmp_path / "out" / "blocks").iterdir()] == ["000000.zarr"]
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_progress_counts_every_image_once_also_when_it_goes_on(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    told: list[tuple[int, int]] = []

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done == 18:
            raise StopError

    settings, execution = make_settings(source, teacher), Execution(16, workers=0)
    with pytest.raises(StopError):
        generate(source, teacher, settings, tmp_path / "out", execution, stop)
    assert told == [(i, 24) for i in range(19)]
    told.clear()
    generate(source, teacher, settings, tmp_path / "out", execution, lambda done, total: told.append((done, total)))
    assert told == [(i, 24) for i in range(14, 25)]  # two blocks of seven were there


# An output that is not empty


def test_a_stray_file_among_the_blocks_does_not_spoil_the_end_of_the_run(
    images: Path, teacher: Teacher, tmp_path: Path
) -> None:
    (tmp_path / "out" / "blocks").mkdir(parents=True)
    (tmp_path / "out" / "blocks" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    source = ImageFolder.open(images)
    try:
        generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(16, workers=0))
    except StoreError:  # refused in words, before any work
        assert committed_blocks(tmp_path / "out") == set()


def test_a_run_killed_while_its_first_file_was_half_written_goes_on(
    images: Path, store: Path, teacher: Teacher, tmp_path: Path
) -> None:
    (tmp_path / "out" / "blocks").mkdir(parents=True)
    (tmp_path / "out" / ".lock").write_text("process 1 on here\n")
    (tmp_path / "out" / ".job.json.partial").write_text('{"schema_ver')
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(16, workers=0))
    assert content(tmp_path / "out") == content(store)


def test_a_damaged_block_that_is_removed_as_the_error_advises_is_made_again(
    images: Path, store: Path, own_store: Path, teacher: Teacher
) -> None:
    path = own_store / "blocks" / "000001.zarr"
    (path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"Block 000001\.zarr is damaged") as error:
        Store(own_store).block(1)
    assert f"remove {path} and run the same `reinforce generate` again" in str(error.value)
    shutil.rmtree(path)
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), own_store, Execution(16, workers=0))
    assert content(own_store) == content(store)
