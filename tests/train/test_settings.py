"""Settings of a resumed run: other options, data or labels are refused, and so is a file that is no checkpoint."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import pytest

from reinforce.errors import DataError, Interrupted, SettingsError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.teacher import Teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.train.checkpoint import load_checkpoint, save_checkpoint
from reinforce.train.loop import train
from reinforce.train.run import BEST, LAST, _check_identity
from tests.conftest import SIZE, TEACHER, make_settings
from tests.train.conftest import CASES, Undisturbed, at, config, resumed

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lr": 0.01}, r"recipe\.lr = 0\.001 in the checkpoint, 0\.01 asked for"),
        ({"seed": 9}, "seed = 2 in the checkpoint, 9 asked for"),
        ({"epochs": 4}, r"recipe\.epochs = 3 in the checkpoint, 4 asked for"),
        ({"batch_size": 6}, r"recipe\.batch_size = 5 in the checkpoint, 6 asked for"),
        ({"model_ema": False}, r"recipe\.model_ema = True in the checkpoint, False asked for"),
        ({"student": "test_resnet"}, "student = 'test_vit' in the checkpoint, 'test_resnet' asked for"),
        (
            {"student_kwargs": {"qkv_bias": False}},
            "student_kwargs = {} in the checkpoint, .*'qkv_bias': False",
        ),
        ({"mode": "plain"}, "mode = 'replay' in the checkpoint, 'plain' asked for"),
        ({"views": 4}, "views = None in the checkpoint, 4 asked for"),
    ],
)
def test_resuming_with_another_setting_names_both_values(undisturbed: Undisturbed, changes: Any, text: str) -> None:
    reference = undisturbed("replay")
    before = {p: p.read_bytes() for p in reference.out.iterdir()}
    values = {**CASES["replay"], "val": reference.val, **changes}
    wanted = config(reference.data, reference.out, reference.labels, resume=True, **values)
    with pytest.raises(SettingsError, match=text) as error:
        train(wanted)
    assert error.value.exit_code == 2
    assert "give the option its old value" in str(error.value)
    assert {p: p.read_bytes() for p in reference.out.iterdir()} == before


def test_a_run_of_a_version_with_fewer_fields_is_resumed(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """A field that is newer than a checkpoint had the default there, because there was nothing else."""
    reference = undisturbed("replay")
    (tmp_path / "run").mkdir()
    state = load_checkpoint(reference.out / LAST)
    recipe = state["identity"]["recipe"]
    for field in ("filter_bias_and_bn", "decay_milestones", "opt_betas", "drop_path_shape"):
        del recipe[field]
    state |= {"rng": state["rng"][0], "cuda_rng": None, "sums": {}}  # those of one process, not a list
    save_checkpoint(tmp_path / "run" / LAST, state)
    train(resumed(reference, tmp_path / "run"))
    other = reference.recipe.model_copy(update={"filter_bias_and_bn": False})
    with pytest.raises(SettingsError, match=r"recipe\.filter_bias_and_bn = True in the checkpoint, False asked for"):
        train(dataclasses.replace(resumed(reference, tmp_path / "run"), recipe=other))


def test_runs_of_other_losses_are_not_resumed_and_older_names_of_teachers_are_known(images: Path, tmp_path: Path) -> None:
    """`losses` counts changes of what a loss is; checkpoints of before do not have it, and name a teacher by two words."""
    run = config(images, tmp_path / "run")
    now = {"losses": 2, "teachers": ["test_resnet abc (0.5,) (0.2,) {}"], "recipe": run.recipe.model_dump(mode="json")}
    old = {"teachers": ["test_resnet abc"], "recipe": now["recipe"]}
    _check_identity(old, {**now, "losses": 1}, run)
    _check_identity(now, now, run)
    with pytest.raises(SettingsError, match="losses = 1 in the checkpoint, 2 asked for"):
        _check_identity(old, now, run)
    for teachers in (["test_resnet abd"], ["test_vit abc"], ["test_resnet abc (0.4,) (0.2,) {}"]):
        with pytest.raises(SettingsError, match="made with another teachers"):
            _check_identity({**now, "teachers": teachers}, now, run)


def test_resuming_with_other_labels_or_other_images_is_refused(
    undisturbed: Undisturbed, own_images: Path, teacher: Teacher, tmp_path: Path
) -> None:
    reference = undisturbed("replay")
    source = ImageFolder.open(own_images)
    generate(source, teacher, make_settings(source, teacher, seed=4), tmp_path / "other", Execution(workers=0))
    with pytest.raises(
        SettingsError, match=r"made with another labels.\n.*labels = '[0-9a-f]{64}' in the check.*, '[0-9a-f]{64}'"
    ):
        train(dataclasses.replace(reference, labels=tmp_path / "other", resume=True))
    (own_images / "bread" / "more.jpg").write_bytes((own_images / "bread" / "000.jpg").read_bytes())
    with pytest.raises(SettingsError, match="made with another data"):
        train(dataclasses.replace(reference, data=own_images, resume=True))


def test_resuming_a_plain_run_with_another_policy_is_refused(images: Path, tmp_path: Path) -> None:
    run = config(images, tmp_path / "run", mode="plain", policy="rrc", size=SIZE, epochs=2, student="test_resnet")
    with pytest.raises(Interrupted):
        train(run, at((0, 2), lambda: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(SettingsError, match="another policy"):
        train(dataclasses.replace(run, policy="none", resume=True))


def test_resuming_an_online_run_with_another_teacher_is_refused(
    images: Path, weights: Path, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"mode": "online", "size": SIZE, "epochs": 2, "student": "test_resnet"}
    run = config(images, tmp_path / "run", teachers=[TeacherSpec(TEACHER, weights)], **changes)
    with pytest.raises(Interrupted):
        train(run, at((0, 2), lambda: signal.raise_signal(signal.SIGINT)))
    other = [TeacherSpec("test_vit", undisturbed("replay").out / BEST)]
    with pytest.raises(SettingsError, match="another teacher"):
        train(dataclasses.replace(run, teachers=other, resume=True))


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_checkpoint_that_is_none_is_refused(undisturbed: Undisturbed, tmp_path: Path, content: bytes | None) -> None:
    reference = undisturbed("replay")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LAST).write_bytes((reference.out / BEST).read_bytes() if content is None else content)
    with pytest.raises(DataError, match="is no checkpoint"):
        train(resumed(reference, tmp_path / "run"))
