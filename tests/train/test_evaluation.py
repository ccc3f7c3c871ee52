"""Evaluation: metrics against counting by hand, validation images by the names of their classes."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from reinforce.errors import DataError, SourceError
from reinforce.policy import Policy
from reinforce.sources.folder import ImageFolder
from reinforce.train.checkpoint import load_checkpoint
from reinforce.train.evaluate import Validation, classification_metrics
from reinforce.train.loop import train
from reinforce.train.run import LAST
from tests.conftest import CLASSES, SIZE, picture
from tests.train.conftest import CPU_RANK, RANDOM, config, flat, refused

pytestmark = pytest.mark.unit


def logits_of(probs: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probs).log()


def test_metrics_are_those_counted_by_hand() -> None:
    logits = logits_of([[0.82, 0.10, 0.08], [0.82, 0.10, 0.08], [0.25, 0.50, 0.25], [0.04, 0.06, 0.90]])
    metrics = classification_metrics(logits, torch.tensor([0, 1, 1, 2]))
    assert metrics["top1"] == 75.0
    assert metrics["top5"] == 100.0  # three classes only
    assert metrics["nll"] == pytest.approx(-np.log([0.82, 0.10, 0.50, 0.90]).mean(), rel=1e-5)
    # bin of 0.82: half are right; bin of 0.5 and bin of 0.9: all are
    assert metrics["ece"] == pytest.approx(100 * (2 / 4 * abs(0.82 - 0.5) + 1 / 4 * 0.5 + 1 / 4 * 0.1), rel=1e-5)


def test_errors_within_a_bin_cancel_and_across_bins_do_not() -> None:
    same = classification_metrics(logits_of([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
    assert same["ece"] == pytest.approx(0.0, abs=1e-4)
    # 0.9 wrong and 0.6 right: too sure and not sure enough by 0.9 and 0.4
    apart = classification_metrics(logits_of([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([1, 0]))
    assert apart["ece"] == pytest.approx(100 * (0.5 * 0.9 + 0.5 * 0.4), rel=1e-5)


def test_calibration_is_measured_in_fifteen_equal_bins() -> None:
    right_and_wrong = torch.tensor([0, 1])
    within = classification_metrics(logits_of([[0.61, 0.39], [0.65, 0.35]]), right_and_wrong)  # both in 9/15 to 10/15
    across = classification_metrics(logits_of([[0.66, 0.34], [0.67, 0.33]]), right_and_wrong)  # either side of 10/15
    assert within["ece"] == pytest.approx(100 * abs((0.61 + 0.65) / 2 - 0.5), rel=1e-4)
    assert across["ece"] == pytest.approx(100 * (0.5 * (1 - 0.66) + 0.5 * 0.67), rel=1e-4)


def test_a_classifier_that_is_right_and_certain_is_perfect() -> None:
    labels = torch.tensor([0, 5, 9])
    metrics = classification_metrics(100.0 * F.one_hot(labels, 10), labels)
    assert metrics == pytest.approx({"top1": 100.0, "top5": 100.0, "nll": 0.0, "ece": 0.0}, abs=1e-6)


def test_top5_counts_the_five_highest() -> None:
    logits = torch.arange(10.0).repeat(10, 1)
    metrics = classification_metrics(logits, torch.arange(10))
    assert metrics["top1"] == pytest.approx(10.0)
    assert metrics["top5"] == pytest.approx(50.0)


# Validation images


def test_validation_classes_that_the_student_does_not_have_are_refused(
    images: Path, store: Path, val: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(val, tmp_path / "val"))
    (other / "apple").rename(other / "zebra")
    run = config(images, tmp_path / "run", store, val=other)
    text = refused(SourceError, "has classes that the student does not learn", run)
    assert "1 of 3, such as 'zebra'" in text
    (tmp_path / "flat").mkdir()
    picture(1).save(tmp_path / "flat" / "a.png")
    refused(
        SourceError, "has no class folders to evaluate against", config(images, tmp_path / "run", store, val=tmp_path / "flat")
    )
    refused(SourceError, "There is no image folder", config(images, tmp_path / "run", store, val=tmp_path / "nowhere"))


def test_a_corrupt_validation_image_is_named(images: Path, store: Path, val: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(val, tmp_path / "val"))
    (other / "bread" / "001.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match="Image bread/001 cannot be used"):
        train(config(images, tmp_path / "run", store, val=other, student="test_resnet"))


def test_a_validation_folder_with_fewer_classes_is_matched_by_name(val: Path, tmp_path: Path) -> None:
    shutil.copytree(val, tmp_path / "val")
    shutil.rmtree(tmp_path / "val" / "apple")
    check = Validation(ImageFolder.open(tmp_path / "val"), list(CLASSES), 3, SIZE, 0.875)
    labels = torch.cat([hard for _, hard in check.batches(4, 0, CPU_RANK)])
    assert labels.tolist() == [1, 1, 1, 2, 2, 2]
    ideal = iter(torch.nn.functional.one_hot(labels, 3).float().mul(20).split(4))
    metrics = check.evaluate(lambda images: next(ideal), CPU_RANK, 4, 0)
    assert metrics["top1"] == 100.0
    assert metrics["nll"] < 1e-6


def test_logits_are_added_up_and_not_kept(val: Path) -> None:
    check = Validation(ImageFolder.open(val), list(CLASSES), 3, SIZE, 0.875)
    made: list[weakref.ref[torch.Tensor]] = []
    alive, all_logits = [], torch.randn(9, 3, generator=torch.Generator().manual_seed(1))
    rest = iter(all_logits.split(2))

    def logits_of(images: torch.Tensor) -> torch.Tensor:
        logits = next(rest).clone()
        made.append(weakref.ref(logits))
        alive.append(sum(each() is not None for each in made))
        return logits

    metrics = check.evaluate(logits_of, CPU_RANK, 2, 0)
    assert len(alive) == 5
    assert max(alive) <= 2  # a batch's, and those of the one before
    labels = torch.cat([hard for _, hard in check.batches(4, 0, CPU_RANK)])
    assert metrics == pytest.approx(classification_metrics(all_logits, labels), rel=1e-6)


def test_validation_images_are_resized_and_centre_cropped(val: Path) -> None:
    check = Validation(ImageFolder.open(val), list(CLASSES), 3, SIZE, 1.0)
    assert check.views.policy == Policy(name="none", crop_pct=1.0)
    one, again = (torch.cat([images for images, _ in check.batches(size, 0, CPU_RANK)]) for size in (4, 9))
    assert one.shape == (9, 3, SIZE, SIZE)
    assert torch.equal(one, again)


def test_evaluation_leaves_the_weights_as_they_are(images: Path, store: Path, val: Path, tmp_path: Path) -> None:
    for name, folder in (("with", val), ("without", None)):
        train(config(images, tmp_path / name, store, val=folder, student="test_resnet", **RANDOM))
    one, other = (flat(load_checkpoint(tmp_path / name / LAST)["model"]) for name in ("with", "without"))
    assert one == other
