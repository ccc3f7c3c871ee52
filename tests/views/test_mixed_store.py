"""Stores of mixed views: the blend of two views is what the teacher saw, and forged pairs are found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from reinforce.errors import ReplayError, SourceError, StoreError, UsageError
from reinforce.files import file_sha256
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import block_path
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.verification.verify import verify_pixels, verify_store
from reinforce.views.apply import apply
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import WHOLE, read_mixing
from reinforce.views.params import Field
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import view_rng
from tests.conftest import SIZE, Cli, make_settings
from tests.views.mixing import POLICY

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def mixed(images: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 24 samples in blocks of 7, one of them corrupt and one missing, 5 views, mixed."""
    root = tmp_path_factory.mktemp("mixed")
    folder = Path(shutil.copytree(images, root / "images"))
    (folder / "bread" / "004.jpg").write_bytes(b"\xff\xd8\xff garbage")
    source = ImageFolder.open(folder)
    (folder / "apple" / "002.jpg").unlink()
    generate(source, teacher, make_settings(source, teacher, policy=parse_policy(POLICY)), root / "out", Execution(16, 0))
    return root


def reference(mixed: Path, sample: int, view: int) -> torch.Tensor:
    """A mixed view from first principles: two decodes, two draws, one blend."""
    from reinforce.views.decode import decode

    store, source = Store(mixed / "out"), ImageFolder.open(mixed / "images")
    keys = {key: i for i, key in enumerate(source.keys)}
    settings = store.settings

    def alone(sample: int) -> np.ndarray:
        image = decode(source.read(keys[store.samples.keys[sample]]))
        params = draw(view_rng(settings.seed, sample, view), settings.policy, SIZE, image.shape[1], image.shape[0])
        return apply(image, params, pixel_spec(settings.policy, SIZE)).numpy().astype(int)

    params = store.params_of(sample, view)
    partner, lam, top, left, height, width = params[-6:].tolist()
    other = int(store.samples_of(int(store.samples.block[sample]))[partner])
    own, theirs = alone(sample), alone(other)
    result = (lam * own + (255 - lam) * theirs + 127) // 255
    result[:, top : top + height, left : left + width] = theirs[:, top : top + height, left : left + width]
    return torch.from_numpy(result.astype(np.uint8))


def test_the_replayed_view_is_the_blend_of_two_views_and_the_label_the_teachers_of_it(mixed: Path, teacher: Teacher) -> None:
    dataset = ReinforcedDataset(mixed / "out", mixed / "images")
    assert len(dataset) == 22
    blended = 0
    for index, sample in enumerate(dataset.samples.tolist()):
        for view in range(5):
            pixels = dataset.replay(index, view)
            assert torch.equal(pixels, reference(mixed, sample, view))
            probs = teacher(pixels[None])[0].numpy()
            label = dataset.store.label_of(sample, view)
            assert np.abs(probs[label.class_ids] - label.probs).max() < 1e-3
            row = int(dataset.store.samples.row[sample])
            blended += dataset.store.params_of(sample, view)[-6] != row
    assert blended > 80


def test_samples_are_dealt_to_blocks_in_random_order_so_that_classes_meet(mixed: Path) -> None:
    store = Store(mixed / "out")
    assert sorted(np.concatenate([store.samples_of(b) for b in range(4)])) == list(range(24))
    labels = store.samples.labels
    assert all(len(set(labels[store.samples_of(b)])) > 1 for b in range(4))
    pairs = 0
    for view in range(5):
        for block in range(4):
            samples = store.samples_of(block)
            rows = store.block(block).params_of_view(view)
            ok = store.samples.status[samples] == 0
            mixing = read_mixing(rows, store.spec).among(np.flatnonzero(ok))
            assert mixing.fault(SIZE) is None
            pairs += int((labels[samples[ok]] != labels[samples[ok]][mixing.partner]).sum())
    assert pairs > 40


@pytest.mark.process
def test_chunks_of_views_and_workers_change_no_byte(
    mixed: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reinforce.generation import block_labels

    source = ImageFolder.open(mixed / "images")
    settings = make_settings(source, teacher, policy=parse_policy(POLICY))
    generate(source, teacher, settings, tmp_path / "whole", Execution(16, 0))
    monkeypatch.setattr(block_labels, "CHUNK_BYTES", 2 * 7 * 3 * SIZE**2)  # two views at a time
    assert len(block_labels.block_items(settings, 0)) == 3 * 7
    generate(source, teacher, settings, tmp_path / "chunks", Execution(16, 2))
    for path in sorted((tmp_path / "whole").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "chunks" / path.relative_to(tmp_path / "whole")).read_bytes(), path


def test_an_image_that_changes_between_two_chunks_stops_the_run_and_the_run_can_go_on(
    own_images: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reinforce.generation import block_labels

    source = ImageFolder.open(own_images)
    settings = make_settings(source, teacher, policy=parse_policy(POLICY), block_size=24)
    monkeypatch.setattr(block_labels, "CHUNK_BYTES", 1)
    read, count = ImageFolder.read, 0

    def changing(self: ImageFolder, index: int) -> bytes:
        nonlocal count
        count += 1
        return read(self, index) if count < 30 else read(self, (index + 1) % 24)

    monkeypatch.setattr(ImageFolder, "read", changing)
    with pytest.raises(SourceError, match="changed while its block was generated"):
        generate(source, teacher, settings, tmp_path / "out", Execution(16, 0))
    monkeypatch.setattr(ImageFolder, "read", read)
    generate(source, teacher, settings, tmp_path / "out", Execution(16, 0))
    assert len(ReinforcedDataset(tmp_path / "out", own_images)) == 24


def test_repeats_of_views_that_were_mixed_with_other_partners_are_refused(mixed: Path, tmp_path: Path, cli: Cli) -> None:
    options = ["--student", "test_resnet", "--data", mixed / "images", "--labels", mixed / "out", "--out", tmp_path / "run"]
    code, _, said = cli("train", *options, "--recipe", "usi", "--batch-size", 12, "--device", "cpu")
    assert code == 2
    assert "need their partners" in said
    assert not (tmp_path / "run").exists()
    dataset = ReinforcedDataset(mixed / "out", mixed / "images")
    with pytest.raises(UsageError, match="need their partners") as error:
        dataset.set_epoch(0, repeats=3)
    assert "repeats=3" in str(error.value)


def test_verify_replays_probes_and_stripes_of_mixed_views(mixed: Path) -> None:
    assert not any(c.failed for c in verify_store(mixed / "out"))
    dataset = ReinforcedDataset(mixed / "out", mixed / "images", check=False)
    probes, stripes = verify_pixels(dataset, None, workers=0)
    assert (probes.total, probes.failed, stripes.total, stripes.failed) == (22, 0, 22, 0)


def hash_again(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"] = {path: file_sha256(out / path) for path in manifest["files"]}
    (out / "manifest.json").write_text(json.dumps(manifest))


def forged(mixed: Path, tmp_path: Path, column: Field, change: Callable[[np.ndarray], np.ndarray]) -> Path:
    out = Path(shutil.copytree(mixed / "out", tmp_path / "forged"))
    at = Store(out).spec.fields.index(column)
    for block in range(4):
        array = zarr.open_array(block_path(out, block) / "params", mode="r+")
        params = np.array(array[:])
        params[..., at] = change(params[..., at])
        array[:] = params
    return out


@pytest.mark.parametrize(("column", "change"), [
    (Field.PARTNER, lambda v: (v + 1) % 7),
    (Field.PARTNER, lambda v: v + 1000),
    (Field.LAM, lambda v: v + 256),
    (Field.BOX_TOP, lambda v: v + SIZE + 1),
])  # fmt: skip
def test_forged_pairs_are_found_and_never_trained_on(
    mixed: Path, tmp_path: Path, column: Field, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    out = forged(mixed, tmp_path, column, change)
    hash_again(out)
    params = next(c for c in verify_store(out) if c.name == "params")
    assert params.failed
    dataset = ReinforcedDataset(out, mixed / "images", check=False)
    with pytest.raises(StoreError, match="pair samples that cannot be mixed"):
        dataset.set_epoch(0)


@pytest.mark.parametrize("field", [Field.LAM, Field.BOX_TOP])
def test_a_share_or_box_that_could_be_another_trips_the_probes(mixed: Path, tmp_path: Path, field: Field) -> None:
    out = forged(mixed, tmp_path, field, lambda v: np.where(v % WHOLE, np.maximum(v - 1, 0), v))
    with pytest.raises(ReplayError, match="Replayed pixels differ"):
        ReinforcedDataset(out, mixed / "images")


def test_an_erased_rectangle_outside_of_the_view_is_found(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    policy = parse_policy("tinyvit:reprob=1")
    generate(source, teacher, make_settings(source, teacher, policy=policy), tmp_path / "out", Execution(16, 0))
    assert not any(c.failed for c in verify_store(tmp_path / "out"))
    dataset = ReinforcedDataset(tmp_path / "out", images, check=False)
    assert not any(c.failed for c in verify_pixels(dataset, views=60, workers=0))
    out = forged(tmp_path, tmp_path / "other", Field.ERASE_LEFT, lambda v: v + SIZE)
    hash_again(out)
    assert next(c for c in verify_store(out) if c.name == "params").failed == 24
