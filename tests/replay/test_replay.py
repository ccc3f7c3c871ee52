"""Invariant 1 as a law: replay(store, sample, view) == generated(sample, view), byte for byte."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from reinforce import ReinforcedDataset
from reinforce.errors import ReplayError, SourceError, UsageError
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.teacher import Teacher
from reinforce.views import ops
from reinforce.views.params import Q16
from reinforce.views.pixels import ViewMaker, views_loader
from tests.conftest import IMAGES_PER_CLASS, SIZE, make_settings

pytestmark = pytest.mark.unit


def generated(images: Path, teacher: Teacher, workers: int) -> list[torch.Tensor]:
    """Views as stage one makes them, before anything is stored: uint8 [V, 3, size, size] per sample."""
    source = ImageFolder.open(images)
    maker = ViewMaker(source, make_settings(source, teacher))
    return [item.pixels for item in views_loader(maker, list(range(len(source))), workers)]


@pytest.mark.process
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_replay_equals_generation_for_every_view_and_any_number_of_workers(
    images: Path, store: Path, teacher: Teacher, workers: int
) -> None:
    dataset = ReinforcedDataset(store, images)
    for index, pixels in enumerate(generated(images, teacher, workers)):
        for view in range(len(pixels)):
            assert torch.equal(dataset.replay(index, view), pixels[view])


@pytest.mark.process
def test_replay_in_a_fresh_process_gives_the_same_bytes(images: Path, store: Path) -> None:
    program = (
        "import sys, zlib; from reinforce import ReinforcedDataset; d = ReinforcedDataset(sys.argv[1], sys.argv[2]);"
        "print([zlib.crc32(d.replay(i, v).numpy().tobytes()) for i in range(len(d)) for v in range(5)])"
    )
    fresh = subprocess.run([sys.executable, "-c", program, store, images], capture_output=True, text=True, check=True).stdout
    import zlib

    dataset = ReinforcedDataset(store, images)
    here = [zlib.crc32(dataset.replay(i, v).numpy().tobytes()) for i in range(len(dataset)) for v in range(5)]
    assert fresh.strip() == str(here)


@pytest.mark.process
def test_an_epoch_through_a_loader_is_the_stored_views_and_labels(images: Path, store: Path, teacher: Teacher) -> None:
    dataset = ReinforcedDataset(store, images, seed=5)
    expected = generated(images, teacher, 0)
    for epoch in range(3):
        dataset.set_epoch(epoch)
        batches = list(DataLoader(dataset, batch_size=5, num_workers=2))
        pixels = torch.cat([b[0] for b in batches])
        soft, hard = torch.cat([b[1] for b in batches]), torch.cat([b[2] for b in batches])
        for index in range(len(dataset)):
            assert torch.equal(pixels[index], expected[index][dataset.view_of(index)])
        assert pixels.shape == (24, 3, SIZE, SIZE)
        assert pixels.dtype == torch.uint8
        assert hard.tolist() == sorted([0, 1, 2] * IMAGES_PER_CLASS)
        assert torch.allclose(soft.sum(dim=1), torch.ones(24), atol=1e-6)


def test_stored_labels_are_the_teachers_on_the_replayed_pixels(images: Path, store: Path, teacher: Teacher) -> None:
    dataset = ReinforcedDataset(store, images)
    for index in range(0, len(dataset), 5):
        for view in range(5):
            live = teacher(dataset.replay(index, view)[None])[0]
            ids, probs, *_ = dataset.store.label_of(index, view)
            assert np.allclose(live[ids], probs, atol=1e-3)


def test_every_block_visits_all_its_views_before_any_repeats(images: Path, store: Path) -> None:
    dataset = ReinforcedDataset(store, images, seed=1, check=False)
    for cycle in range(3):
        seen = []
        for epoch in range(5 * cycle, 5 * cycle + 5):
            dataset.set_epoch(epoch)
            seen.append([dataset.view_of(i) for i in range(len(dataset))])
        columns = np.array(seen)
        assert (np.sort(columns, axis=0) == np.arange(5)[:, None]).all()
        # one view per block and epoch; blocks go their own ways
        assert all((columns[:, i] == columns[:, i - i % 7]).all() for i in range(24))
        assert len({tuple(columns[:, i]) for i in range(0, 24, 7)}) > 1


def test_fewer_views_than_stored_can_be_used_and_more_cannot(images: Path, store: Path) -> None:
    dataset = ReinforcedDataset(store, images, views=2)
    views = set()
    for epoch in range(4):
        dataset.set_epoch(epoch)
        views |= {dataset.view_of(i) for i in range(len(dataset))}
    assert views == {0, 1}
    with pytest.raises(UsageError, match="6 views are asked for") as error:
        ReinforcedDataset(store, images, views=6)
    assert "expected:     1 to 5" in str(error.value)


def test_samples_are_found_by_key_not_by_position(own_images: Path, store: Path) -> None:
    reference = ReinforcedDataset(store, own_images).replay(3, 1)
    (own_images / "aardvark").mkdir()  # shifts every position and class id
    (own_images / "aardvark" / "000.jpg").write_bytes((own_images / "apple" / "000.jpg").read_bytes())
    assert torch.equal(ReinforcedDataset(store, own_images).replay(3, 1), reference)


def test_a_missing_image_is_named(own_images: Path, store: Path) -> None:
    (own_images / "bread" / "002.jpg").unlink()
    with pytest.raises(SourceError, match=r"1 of 24 samples with labels are not in .*\n.*'bread/002'"):
        ReinforcedDataset(store, own_images)


def test_one_changed_byte_of_one_image_trips_the_check(own_images: Path, store: Path) -> None:
    for path in sorted(own_images.rglob("*.*"))[::5]:
        original = path.read_bytes()
        changed = bytearray(original)
        changed[len(changed) // 2] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ReplayError, match="is not the one that the teacher saw"):
            ReinforcedDataset(store, own_images)
        path.write_bytes(original)
    ReinforcedDataset(store, own_images)


def test_an_image_that_changes_later_is_caught_when_it_is_read(own_images: Path, store: Path) -> None:
    dataset = ReinforcedDataset(store, own_images)
    path = own_images / "cheese" / "001.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    index = dataset.source.keys.index("cheese/001")
    with pytest.raises(ReplayError, match="Image cheese/001 is not the one"):
        dataset[index]


def test_each_read_is_compared_with_its_crc_and_without_one_with_its_hash(
    own_images: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = ReinforcedDataset(store, own_images)
    older = ReinforcedDataset(store, own_images)
    monkeypatch.setattr(older.store, "samples", replace(older.store.samples, crc32c=np.full(len(older), -1)))
    hashed: list[int] = []

    def counted(content: bytes) -> object:
        hashed.append(len(content))
        return sha256(content)

    monkeypatch.setattr("reinforce.store.probes.hashlib.sha256", counted)
    for index in range(len(dataset)):
        assert torch.equal(dataset[index][0], older[index][0])
    assert hashed == [len(dataset.source.read(index)) for index in range(len(dataset))]  # each once, by the older one


def with_crc(content: bytes, crc: int) -> bytes:
    """The content and four more bytes, so that the CRC-32C of all is `crc`; the polynomial of RFC 3720, backwards."""
    state = ~crc & 0xFFFFFFFF
    for _ in range(32):
        state = state << 1 ^ 0x105EC76F1 if state >> 31 else state << 1
    return content + (state ^ ~google_crc32c.value(content) & 0xFFFFFFFF).to_bytes(4, "little")


def test_another_image_with_the_same_crc_is_caught_at_the_start(own_images: Path, store: Path) -> None:
    path = own_images / "cheese" / "001.jpg"
    forged = with_crc((own_images / "bread" / "001.jpg").read_bytes(), google_crc32c.value(path.read_bytes()))
    assert google_crc32c.value(forged) == google_crc32c.value(path.read_bytes())
    path.write_bytes(forged)
    with pytest.raises(ReplayError, match="Image cheese/001 is not the one"):
        ReinforcedDataset(store, own_images)


def test_a_changed_pixel_constant_in_an_op_trips_the_check(images: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ReinforcedDataset(store, images)
    monkeypatch.setattr(ops, "Q16", Q16 - 400)
    monkeypatch.setattr(ops, "_LEVELS", np.minimum(ops._LEVELS + 1, 255))
    with pytest.raises(ReplayError, match="Replayed pixels differ from those the teacher saw") as error:
        ReinforcedDataset(store, images)
    assert "an op was edited or a library patched" in str(error.value)


def test_a_resize_that_gives_other_pixels_trips_the_check_and_names_versions(
    images: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reinforce.store.probes

    real = torch.nn.functional.interpolate
    monkeypatch.setattr(torch.nn.functional, "interpolate", lambda *a, **k: real(*a, **{**k, "antialias": False}))
    there = reinforce.store.probes.environment()
    monkeypatch.setattr(reinforce.store.probes, "environment", lambda: there.model_copy(update={"torch": "9.9.9"}))
    with pytest.raises(ReplayError, match=r"torch .* then, 9\.9\.9 now"):
        ReinforcedDataset(store, images)


@pytest.mark.process
def test_the_dataset_survives_being_sent_to_a_spawned_worker(images: Path, store: Path) -> None:
    dataset = ReinforcedDataset(store, images)
    dataset.set_epoch(1)
    loader = DataLoader(dataset, batch_size=12, num_workers=1, multiprocessing_context="spawn")
    pixels = torch.cat([b[0] for b in loader])
    assert torch.equal(pixels[4], dataset[4][0])


@pytest.mark.parametrize("content", [b"no image", None])
def test_an_image_that_cannot_be_read_is_named_without_hashes_too(content: bytes | None, own_images: Path, store: Path) -> None:
    dataset = ReinforcedDataset(store, own_images, check=False)
    path = own_images / "apple" / "001.jpg"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ReplayError, match="Image apple/001 cannot be read"):
        dataset.replay(1, 0)
