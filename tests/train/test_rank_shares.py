"""Batches that processes cannot share evenly: each view counts the same, and shares that are too small are refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from reinforce.errors import UsageError
from reinforce.packs.pack import Options, pack
from reinforce.sources.folder import ImageFolder
from reinforce.train.loop import train
from reinforce.train.tasks import ReplayTask
from tests.conftest import SIZE, write_folder
from tests.train.conftest import config, metrics_of, recorded, refused
from tests.train.torchrun import ROOT, run

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images to evaluate on, fewer than there are processes."""
    root = write_folder(tmp_path_factory.mktemp("two") / "val", per_class=1, first=300)
    shutil.rmtree(root / "bread")
    return root


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("given", [
    {"batch_size": 5},  # 5, 5, 5, 5 and 4 views: shares of 2, 2 and 1, then of 2, 1 and 1
    {"batch_size": 8, "aug_repeats": 2, "grad_accum_steps": 2},  # 3 batches of 4 samples, so that the last update has one batch
], ids=["uneven", "repeats and accumulation"])  # fmt: skip
def test_three_processes_with_uneven_shares_learn_what_one_does(
    images: Path, store: Path, two: Path, tmp_path: Path, given: Any
) -> None:
    for world in (1, 3):
        code, said, seen = run(world, [images, store, two], tmp_path / str(world), lr=0.01, warmup_epochs=0, **given)
        assert code == 0, said
        assert all(step for rank in seen for step in rank)
    for one, three in zip(metrics_of(tmp_path / "1"), metrics_of(tmp_path / "3"), strict=True):
        for name in ("loss", "kd_loss", "top1", "nll", "ece"):
            assert three[name] == pytest.approx(one[name], rel=1e-3), name


@pytest.mark.process
@pytest.mark.slow
def test_a_process_that_would_normalise_over_one_view_is_refused_before_anything_is_written(
    images: Path, store: Path, two: Path, tmp_path: Path
) -> None:
    code, said, seen = run(3, [images, store, two], tmp_path / "run", student="test_resnet", batch_size=5)
    assert code not in (0, None)
    assert "A batch of 5 is too small" in said
    assert "24 images in batches of 5 by 3 processes" in said
    assert "--batch-size 6" in said
    assert 'Traceback (most recent call last):\n  File "' + str(ROOT) not in said
    assert seen == [[], [], []]
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images."""
    root = write_folder(tmp_path_factory.mktemp("five") / "images", per_class=2)
    next((root / "cheese").iterdir()).unlink()
    return root


TOO_SMALL = [
    ({"batch_size": 2}, "A batch of 2"),  # 2, 2 and 1
    ({"batch_size": 2, "grad_accum_steps": 3}, "A batch of 2"),  # accumulated batches are normalised one by one
    ({"batch_size": 4, "policy": "usi"}, "A batch of 4"),  # two pairs, then the one that has no partner
    ({"batch_size": 8, "aug_repeats": 6}, "too few images"),  # every sixth epoch has no image
]


@pytest.mark.parametrize(("given", "text"), TOO_SMALL)
def test_a_last_batch_of_one_view_is_refused(five: Path, tmp_path: Path, given: Any, text: str) -> None:
    case = {"mode": "plain", "policy": "rrc", "size": SIZE, "student": "test_resnet", "epochs": 6, **given}
    said = refused(UsageError, text, config(five, tmp_path / "run", **case))
    if "batch normalisation" in said:  # a student without it is not concerned
        train(config(five, tmp_path / "other", **{**case, "student": "test_vit"}))
        train(config(five, tmp_path / "twice", **{**case, "cosub": True, "drop_path": 0.1}))


def test_a_student_normalises_by_batches_where_it_says_so() -> None:
    """Guards the test above: torch refuses to normalise one value, which timm's models end with at this size."""
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.BatchNorm2d(3)(torch.zeros(1, 3, 1, 1))
    torch.nn.BatchNorm2d(3)(torch.zeros(2, 3, 1, 1))


def test_shards_whose_groups_leave_one_image_over_have_no_batch_of_one(
    images: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """24 samples in shards of about five: batches are cut from all of them, not from each shard."""
    pack(ImageFolder.open(images), store, tmp_path / "shards", Options(shard_bytes=12_000))
    shards = tmp_path / "shards"
    assert len(list(shards.glob("*.tar"))) > 3
    seen = recorded(monkeypatch, ReplayTask)
    train(config(shards, tmp_path / "run", shards, student="test_resnet", batch_size=5, epochs=4))
    assert [len(views) for views, _ in seen] == [5, 5, 5, 5, 4] * 4
