"""Options of a run: sizes, modes, and what is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reinforce import ReinforcedDataset
from reinforce.errors import DataError, TeacherError, UsageError
from reinforce.replay.loader import batch_plan
from reinforce.train.loop import train
from reinforce.train.metrics import SUMMARY
from reinforce.train.run import BEST
from reinforce.train.setup import build
from reinforce.train.tasks import ReplayTask
from reinforce.views.policy_text import parse_policy
from tests.conftest import SIZE, TEACHER, Cli
from tests.train.conftest import STEPS, Undisturbed, config, recorded, refused

pytestmark = pytest.mark.unit


def test_replay_without_labels_is_refused(images: Path, store: Path, tmp_path: Path) -> None:
    assert "no --labels" in refused(UsageError, "--mode replay needs stored labels", config(images, tmp_path / "run"))
    refused(DataError, "is not a reinforced dataset", config(images, tmp_path / "run", tmp_path / "nothing"))


def test_another_size_replays_the_same_boxes_and_says_that_pixels_differ(
    images: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    seen = recorded(monkeypatch, ReplayTask)
    arguments = [
        "--student",
        "test_resnet",
        "--data",
        images,
        "--labels",
        store,
        "--epochs",
        1,
        "--workers",
        0,
        "--device",
        "cpu",
    ]
    code, out, _ = cli("train", *arguments, "--size", 48, "--out", tmp_path / "run")
    assert code == 0
    assert "the pixels are not what the teacher saw" in out
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert (summary["size"], summary["teacher_size"]) == (48, SIZE)
    dataset = ReinforcedDataset(store, images, size=48)
    plan = batch_plan(0, 0, 24, 128)
    assert torch.equal(seen[0][0], torch.stack([dataset.replay(int(i), dataset.view_of(int(i))) for i in plan[0]]))


def test_several_sizes_come_in_turn_and_evaluation_is_at_the_largest(
    images: Path, store: Path, val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = recorded(monkeypatch, ReplayTask)
    run = config(images, tmp_path / "run", store, student="test_resnet", sizes=(32, 48, 40), epochs=2, val=val)
    assert build(run).size == build(run).validations[""].views.size == 48
    train(run)
    assert [pixels.shape[-1] for pixels, _ in seen] == [(32, 48, 40)[i % 3] for i in range(2 * STEPS)]
    refused(
        UsageError,
        "built for one input size",
        config(images, tmp_path / "vit", store, student="vit_tiny_patch16_224", sizes=(32, 48)),
    )
    refused(UsageError, "beside --sizes", config(images, tmp_path / "both", store, student="test_resnet", sizes=(32,), size=32))


@pytest.mark.parametrize("text", ["96,", "96,x", "4,8", "-3", "9999"])
def test_sizes_that_are_none_are_refused(images: Path, store: Path, tmp_path: Path, cli: Cli, text: str) -> None:
    code, _, err = cli(
        "train", "--student", "test_resnet", "--data", images, "--labels", store, f"--sizes={text}", "--out", tmp_path / "r"
    )
    assert code == 2
    assert "is not valid" in err


def test_options_that_contradict_each_other_are_refused(images: Path, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(UsageError, "--policy is given beside --labels", config(images, out, store, policy="rrc"))
    refused(UsageError, "6 views are asked for", config(images, out, store, views=6))
    refused(UsageError, "--mode online needs a teacher", config(images, out, mode="online"))
    refused(UsageError, "timm has no model 'test_nothing'", config(images, out, store, student="test_nothing"))
    refused(UsageError, "does not take these arguments", config(images, out, store, student_kwargs={"wings": 2}))
    refused(UsageError, "num_classes is not for the user", config(images, out, store, student_kwargs={"num_classes": 7}))


def test_an_online_teacher_with_other_weights_than_the_labels_is_refused(
    images: Path, store: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    train(config(images, tmp_path / "other", store, student=TEACHER, epochs=1))
    run = config(images, tmp_path / "run", store, mode="online", teacher_weights=[tmp_path / "other" / BEST])
    refused(TeacherError, "are not those that made the labels", run)


@pytest.mark.parametrize(("changes", "text"), [({"opt": "nonsense"}, "nonsense"), ({"sched": "nonsense"}, "nonsense")])
def test_an_unknown_optimiser_or_schedule_is_refused(
    images: Path, store: Path, tmp_path: Path, changes: Any, text: str
) -> None:
    assert text in refused(UsageError, "timm cannot make this", config(images, tmp_path / "run", store, **changes))


def test_plain_training_needs_no_labels_and_takes_a_policy(images: Path, val: Path, tmp_path: Path) -> None:
    run = config(images, tmp_path / "run", mode="plain", policy="rrc:hflip=0", size=SIZE, val=val, epochs=1)
    summary = train(run)
    assert summary["policy"] == str(parse_policy("rrc:hflip=0"))
    assert summary["teachers"] == []
    assert summary["stored_views"] is None
