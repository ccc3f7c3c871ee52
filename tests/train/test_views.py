"""What the student sees: the stored views and labels, each sample once per epoch, and the same samples in every mode."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reinforce import ReinforcedDataset
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.sparse import SparseLabels
from reinforce.replay.epoch_views import FreshViews, ReplayedViews
from reinforce.replay.loader import batch_plan, batches
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.open_teacher import teacher_of
from reinforce.teachers.teacher import Teacher
from reinforce.train.loop import train
from reinforce.train.losses import LossWeights
from reinforce.train.setup import build
from reinforce.train.tasks import OnlineTask, ReplayTask
from tests.conftest import SIZE, make_settings
from tests.train.conftest import CASES, CPU_RANK, STEPS, config, flat, recorded

pytestmark = pytest.mark.unit


@pytest.mark.process
@pytest.mark.parametrize("workers", [0, 2])
def test_the_student_sees_the_stored_views_and_labels_and_every_sample_once_per_epoch(
    images: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    seen = recorded(monkeypatch, ReplayTask)
    train(config(images, tmp_path / "run", store, epochs=2, student="test_resnet", workers=workers))
    dataset = ReinforcedDataset(store, images, seed=2)
    opened = Store(store)
    assert len(seen) == 2 * STEPS
    for epoch in range(2):
        dataset.set_epoch(epoch)
        plan = batch_plan(2, epoch, len(dataset), 5)
        assert sorted(np.concatenate(plan)) == list(range(24))
        for indices, (pixels, targets) in zip(plan, seen[epoch * STEPS : (epoch + 1) * STEPS], strict=True):
            assert pixels.dtype == torch.uint8
            assert pixels.shape == (len(indices), 3, SIZE, SIZE)
            assert targets.hard.tolist() == [opened.samples.labels[i] for i in indices]
            for row, index in enumerate(indices):
                view = dataset.view_of(index)
                assert torch.equal(pixels[row], dataset.replay(index, view))
                ids, probs, remainder, _ = opened.label_of(int(dataset.samples[index]), view)
                assert targets.soft.class_ids[row].tolist() == ids.tolist()
                assert targets.soft.probs[row].tolist() == probs.tolist()
                assert targets.soft.remainder[row] == np.float32(remainder)


def test_epochs_differ_in_order_and_views_and_seeds_too(
    images: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = recorded(monkeypatch, ReplayTask)
    for seed in (2, 3):
        train(config(images, tmp_path / str(seed), store, epochs=2, student="test_resnet", seed=seed))
    epochs = [torch.cat([pixels for pixels, _ in seen[i : i + STEPS]]) for i in range(0, len(seen), STEPS)]
    assert len(epochs) == 4
    assert all(not torch.equal(epochs[i], epochs[j]) for i in range(4) for j in range(i))


def test_fewer_views_than_stored_are_used_on_demand(
    images: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = recorded(monkeypatch, ReplayTask)
    train(config(images, tmp_path / "run", store, epochs=3, student="test_resnet", views=1))
    dataset = ReinforcedDataset(store, images)
    plan = batch_plan(2, 2, 24, 5)
    last = torch.cat([pixels for pixels, _ in seen[2 * STEPS :]])
    assert torch.equal(last, torch.stack([dataset.replay(int(i), 0) for i in np.concatenate(plan)]))


@pytest.fixture
def gappy(own_images: Path, teacher: Teacher, tmp_path: Path) -> tuple[Path, Path]:
    """Images of which one is corrupt and one was missing, and their labels."""
    (own_images / "bread" / "004.jpg").write_bytes(b"\xff\xd8\xff garbage")
    source = ImageFolder.open(own_images)
    (own_images / "apple" / "002.jpg").unlink()
    generate(source, teacher, make_settings(source, teacher), tmp_path / "gappy", Execution(workers=0))
    return own_images, tmp_path / "gappy"


def test_the_modes_share_samples_order_and_initial_weights(
    gappy: tuple[Path, Path], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = gappy
    keys: dict[str, list[str]] = {mode: [] for mode in CASES}
    replayed, fresh = ReplayedViews.items, FreshViews.items

    def replayed_items(self: ReplayedViews, index: int, size: int | None = None) -> Any:
        keys["replay"].append(self.dataset.store.samples.keys[self.dataset.samples[index]])
        return replayed(self, index, size)

    def fresh_items(self: FreshViews, index: int, size: int | None = None) -> Any:
        keys[mode].append(self.source.keys[self.samples[index]])
        return fresh(self, index, size)

    monkeypatch.setattr(ReplayedViews, "items", replayed_items)
    monkeypatch.setattr(FreshViews, "items", fresh_items)
    initial = {}
    for mode in CASES:
        run = config(images, tmp_path / mode, labels, mode=mode, epochs=2, teacher_weights=[weights], student="test_resnet")
        initial[mode] = flat(build(run).student.state_dict())
        assert train(run)["samples"] == 22
    assert len(set(keys["replay"])) == 22
    assert {"bread/004", "apple/002"}.isdisjoint(keys["replay"])
    assert keys["replay"] == keys["plain"] == keys["online"]
    assert initial["replay"] == initial["plain"] == initial["online"]


def test_another_seed_gives_other_initial_weights_and_another_order(images: Path, store: Path, tmp_path: Path) -> None:
    one, other = (build(config(images, tmp_path / "run", store, seed=s)).student.state_dict() for s in (1, 2))
    assert flat(one) != flat(other)
    assert any((a != b).any() for a, b in zip(batch_plan(1, 0, 20, 5), batch_plan(2, 0, 20, 5), strict=True))


def test_plain_views_are_drawn_from_the_policy_of_the_labels_anew_in_every_epoch(
    images: Path, store: Path, tmp_path: Path
) -> None:
    views = build(config(images, tmp_path / "run", store, mode="plain")).views
    assert isinstance(views, FreshViews)
    assert views.policy == Store(store).settings.policy
    views.set_epoch(0)
    first, again = views.items(3)[0].image, views.items(3)[0].image
    views.set_epoch(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, views.items(3)[0].image)
    stored = ReinforcedDataset(store, images)
    assert not any(torch.equal(first, stored.replay(3, v)) for v in range(5))


def test_a_replayed_loss_is_the_online_loss_up_to_the_codec(images: Path, store: Path, weights: Path, tmp_path: Path) -> None:
    parts = build(config(images, tmp_path / "run", store))
    teacher = teacher_of(Store(store).settings, [weights], torch.device("cpu"))
    loss_weights = LossWeights(distill=1.0, task=0.3, smoothing=0.1)
    student: Any = parts.student
    replay = ReplayTask(student, loss_weights, CPU_RANK.device).eval()
    online = OnlineTask(student, teacher, loss_weights, CPU_RANK.device).eval()
    with torch.no_grad():
        student.get_classifier().weight.mul_(30)  # far from the teacher, so that the loss tells labels apart
    parts.views.set_epoch(4)
    for pixels, targets in batches(parts.views, batch_plan(0, 4, 24, 8), workers=0):
        a, b = replay(pixels, targets), online(pixels, targets)
        for name in ("loss", "kd_loss", "task_loss"):
            assert torch.allclose(a[name], b[name], atol=5e-4), name
        assert torch.equal(a["output"], b["output"])
        assert isinstance(targets.soft, SparseLabels)
        shuffled = dataclasses.replace(targets.soft, **{k: getattr(targets.soft, k).roll(1, 0) for k in ("class_ids", "probs")})
        wrong = replay(pixels, dataclasses.replace(targets, soft=shuffled))
        assert abs(wrong["kd_loss"] - b["kd_loss"]) > 2e-3
