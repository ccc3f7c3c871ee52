"""Views of label maps: fresh crops with labels of their own, and students that learn from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reinforce.errors import ReplayError
from reinforce.labels.box import box_of
from reinforce.labels.label_map import MapCodec
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.drawn_labels import CropLabels
from reinforce.replay.epoch_views import FreshViews, Item
from reinforce.replay.loader import batch_plan, batches, partners
from reinforce.views.apply import apply
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import fresh_view_rng
from tests.conftest import CLASSES, Cli
from tests.labels.conftest import dense

pytestmark = pytest.mark.unit


def pooled_views(images: Path, maps: Path, policy: str) -> FreshViews:
    dataset = ReinforcedDataset(maps, images, seed=1)
    return FreshViews(
        dataset.source, dataset.source_index, CropLabels(dataset), parse_policy(policy), 32, len(CLASSES), 1, dataset.decoded
    )


def soft_of(item: Item) -> np.ndarray:
    assert item.soft is not None
    return dense(item.soft, len(CLASSES))


def test_fresh_crops_come_with_their_own_labels(images: Path, maps: Path) -> None:
    views = pooled_views(images, maps, "rrc-ra")
    assert isinstance(views.labeller, CropLabels)
    assert views.decoded is not None
    store = views.labeller.dataset.store
    codec = store.codec
    assert isinstance(codec, MapCodec)
    seen = []
    for epoch in range(2):
        views.set_epoch(epoch)
        for index in range(len(views)):
            (item,) = views.items(index)
            image = views.decoded(index)
            params = draw(fresh_view_rng(1, index, epoch), views.policy, 32, image.shape[1], image.shape[0])
            spec = pixel_spec(views.policy, 32)
            assert torch.equal(item.image, apply(image, params, spec))
            label = codec.read(store.record(index, 0), 3).pool(box_of(params, spec, image.shape[1], image.shape[0]))
            assert np.array_equal(soft_of(item), dense(label, 3))
            seen.append(dense(label, 3))
    half = len(seen) // 2
    assert not np.allclose(seen[:half], seen[half:])


def test_repeats_share_a_decode_and_have_labels_of_their_own(images: Path, maps: Path) -> None:
    views = pooled_views(images, maps, "rrc")
    views.set_epoch(0, repeats=3)
    items = views.items(5)
    assert len(items) == 3
    assert len({item.image.numpy().tobytes() for item in items}) == 3
    assert len({soft_of(item).tobytes() for item in items}) == 3


def test_cutmix_mixes_the_labels_as_it_mixes_the_pixels(images: Path, maps: Path) -> None:
    views = pooled_views(images, maps, "relabel-cutmix")
    views.set_epoch(2)
    plan = batch_plan(1, 2, len(views), 8, partners(views.mixing))
    assert views.mixing is not None
    (mixing,) = views.mixing
    for samples, (_, targets) in zip(plan, batches(views, plan, workers=0), strict=True):
        assert targets.soft is not None
        assert targets.share is not None
        rows = targets.soft.dense().double().numpy()
        for i, sample in enumerate(samples.tolist()):
            own, other = (soft_of(views.items(s)[0]) for s in (sample, int(mixing.partner[sample])))
            share = float(targets.share[i])
            assert np.allclose(rows[i], share * own + (1 - share) * other, atol=1e-6)
        assert np.abs(rows.sum(axis=1) - 1).max() < 1e-6
    assert float(mixing.share(32).min()) < 1


@pytest.mark.parametrize("policy", [(), ("--recipe", "relabel-cutmix", "--no-amp")])
def test_a_student_learns_from_maps_and_the_same_again_from_the_same_seed(
    images: Path, maps: Path, tmp_path: Path, cli: Cli, policy: str
) -> None:
    line = ("train", "--student", "test_resnet", "--data", images, "--val", images, "--labels", maps, "--size", 32)
    line = (*line, "--batch-size", 8, "--workers", 0, *policy)
    code, out, err = cli(*line, "--epochs", 2, "--out", tmp_path / "whole")
    assert code == 0, err
    assert "the teacher never saw them by themselves" in out
    assert "at another size" not in out
    code, _, err = cli(*line, "--epochs", 2, "--out", tmp_path / "again")
    assert code == 0, err
    one, two = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    lines = [json.loads(text) for text in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(line["kd_loss"] > 0 for line in lines)


def test_an_image_that_changed_is_not_trained_on(own_images: Path, maps: Path) -> None:
    views = pooled_views(own_images, maps, "rrc")
    path = own_images / "apple" / "001.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ReplayError, match="not the one that the teacher saw"):
        views.items(views.source.keys.index("apple/001"))


def test_plain_and_online_modes_draw_the_same_views(images: Path, maps: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    line: tuple[object, ...] = ("train", "--student", "test_resnet", "--data", images, "--labels", maps, "--size", 32)
    line = (*line, "--epochs", 1, "--batch-size", 8, "--workers", 0, "--policy", "rrc", "--val", images)
    for mode in ("plain", "online"):
        code, _, err = cli(*line, "--mode", mode, "--teacher-weights", weights, "--out", tmp_path / mode)
        assert code == 0, err
