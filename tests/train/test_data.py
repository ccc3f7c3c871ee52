"""Data that is not as it should be: images that are corrupt, changed, gone or without labels, and a loss that is not finite."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from reinforce.errors import DataError, ReplayError, SourceError, UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.replay.loader import batch_plan
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.train import tasks
from reinforce.train.loop import train
from reinforce.train.run import BEST
from reinforce.train.tasks import OnlineTask, ReplayTask, StudentTask
from tests.conftest import SIZE, TEACHER, make_settings, picture
from tests.train.conftest import STEPS, at, config, recorded, refused

pytestmark = pytest.mark.unit


def test_a_changed_image_is_refused(own_images: Path, store: Path, tmp_path: Path) -> None:
    path = own_images / "bread" / "001.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    run = config(own_images, tmp_path / "run", store)
    refused(ReplayError, "Image bread/001 is not the one that the teacher saw", run)
    assert ReplayError.exit_code == 1


@pytest.mark.parametrize("mode", ["replay", "plain"])
def test_a_loss_that_is_not_finite_stops_the_run(images: Path, store: Path, tmp_path: Path, mode: str) -> None:
    with pytest.raises(DataError, match="no longer finite") as error:
        train(config(images, tmp_path / "run", store, mode=mode, lr=1e30, student="test_resnet", opt="sgd"))
    assert "a smaller --lr" in str(error.value)
    assert error.value.exit_code == 1
    assert not (tmp_path / "run" / BEST).exists()


@pytest.mark.process
@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named_where_nothing_noted_it_before(own_images: Path, tmp_path: Path, workers: int) -> None:
    (own_images / "cheese" / "005.jpg").write_bytes(b"\xff\xd8\xff garbage")
    run = config(own_images, tmp_path / "run", mode="plain", size=SIZE, workers=workers, student="test_resnet")
    with pytest.raises(DataError, match="Image cheese/005 cannot be used") as error:
        train(run)
    assert "Traceback" not in str(error.value)
    assert "cannot be decoded" in str(error.value)


@pytest.mark.process
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_changes_during_training_stops_the_run(
    own_images: Path, store: Path, tmp_path: Path, workers: int
) -> None:
    path = own_images / "cheese" / "001.jpg"
    run = config(own_images, tmp_path / "run", store, student="test_resnet", workers=workers)
    with pytest.raises(ReplayError, match="Image cheese/001 is not the one that the teacher saw") as error:
        train(run, at((0, STEPS), lambda: path.write_bytes(path.read_bytes() + b"\0")))
    assert "Traceback" not in str(error.value)
    path.write_bytes(path.read_bytes()[:-1])
    assert train(dataclasses.replace(run, resume=True))["last"]["loss"] > 0


def test_an_image_that_is_gone_stops_a_plain_run(own_images: Path, store: Path, tmp_path: Path) -> None:
    run = config(own_images, tmp_path / "run", store, mode="plain", student="test_resnet")
    with pytest.raises(DataError, match=r"Image apple/003 cannot be used.\n.*No such file"):
        train(run, at((0, STEPS), (own_images / "apple" / "003.png").unlink))


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("replay", ReplayTask), ("plain", tasks.PlainTask), ("online", OnlineTask)],
    ids=["replay", "plain", "online"],
)
def test_a_class_folder_that_came_later_does_not_move_the_hard_labels(
    own_images: Path,
    store: Path,
    weights: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    kind: type[StudentTask],
) -> None:
    (own_images / "aardvark").mkdir()
    (own_images / "aardvark" / "000.jpg").write_bytes((own_images / "apple" / "000.jpg").read_bytes())
    seen = recorded(monkeypatch, kind)
    changes = {"mode": mode, "epochs": 1, "student": "test_resnet", "teacher_weights": [weights]}
    train(config(own_images, tmp_path / "run", store, **changes))
    hard = torch.cat([targets.hard for _, targets in seen])
    assert torch.equal(hard, torch.from_numpy(Store(store).samples.labels[np.concatenate(batch_plan(2, 0, 24, 5))]))


# Images without labels


@pytest.fixture(scope="module")
def unlabelled(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """12 images without class folders, and their labels."""
    root = tmp_path_factory.mktemp("unlabelled")
    (root / "data").mkdir()
    for i in range(12):
        picture(i).save(root / "data" / f"{i:03d}.png")
    source = ImageFolder.open(root / "data")
    spec = TeacherSpec(TEACHER, weights)
    teacher = load_teacher([spec], size=SIZE, class_names=[], class_map=None, device=torch.device("cpu"), precision="fp32")
    generate(source, teacher, make_settings(source, teacher), root / "labels", Execution(workers=0))
    return root / "data", root / "labels"


def test_images_without_labels_are_replayed(
    unlabelled: tuple[Path, Path], val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, labels = unlabelled
    seen = recorded(monkeypatch, ReplayTask)
    summary = train(config(data, tmp_path / "run", labels, val=val, student="test_resnet"))
    assert all(set(targets.hard.tolist()) == {-1} for _, targets in seen)
    assert summary["num_classes"] == 3
    assert 0 <= summary["last"]["top1"] <= 100


def test_images_without_labels_are_taught_online_and_refused_plainly(
    unlabelled: tuple[Path, Path], weights: Path, tmp_path: Path
) -> None:
    data, labels = unlabelled
    run = config(data, tmp_path / "online", labels, mode="online", teacher_weights=[weights], student="test_resnet", epochs=1)
    assert train(run)["samples"] == 12
    text = refused(SourceError, "has no class folders", config(data, tmp_path / "run", labels, mode="plain"))
    assert "--mode replay or online" in text
    refused(SourceError, "has no class folders", config(data, tmp_path / "run", mode="plain", size=SIZE))
    run = config(data, tmp_path / "run", mode="online", size=SIZE, teachers=[TeacherSpec(TEACHER, weights)])
    assert "--labels DIR" in refused(SourceError, "number of classes is not known", run)


def test_a_hard_loss_on_images_without_labels_is_refused(unlabelled: tuple[Path, Path], tmp_path: Path) -> None:
    data, labels = unlabelled
    run = config(data, tmp_path / "run", labels, task_loss_weight=0.5, student="test_resnet")
    assert "--task-loss-weight 0" in refused(UsageError, "weighs hard labels", run)
