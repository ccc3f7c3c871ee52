"""The folder of a run: metrics, a summary and weights that can teach; and folders that are no place for one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from reinforce.errors import BusyError, ReinforceError, UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.train.checkpoint import load_checkpoint
from reinforce.train.evaluate import Validation
from reinforce.train.loop import train
from reinforce.train.metrics import METRICS, SUMMARY
from reinforce.train.run import BEST, LAST
from reinforce.train.tasks import ReplayTask
from tests.conftest import CLASSES, SIZE, TEACHER, make_settings
from tests.train.conftest import CPU_RANK, STEPS, TIMES, Undisturbed, at, config, differences, flat, metrics_of, resumed

pytestmark = pytest.mark.unit


def test_a_run_writes_a_line_per_epoch_and_a_summary(undisturbed: Undisturbed) -> None:
    out = undisturbed("replay").out
    lines = metrics_of(out)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    measures = {"loss", "kd_loss", "top1", "top5", "nll", "ece", "ema_top1", "ema_top5", "ema_nll", "ema_ece"}
    assert set(lines[0]) == {"epoch", "lr", *TIMES, *measures}
    assert all(0 <= line["top1"] <= 100 and line["images_per_second"] > 0 for line in lines)
    assert lines[0]["lr"] > lines[2]["lr"] > 0
    summary = json.loads((out / SUMMARY).read_text())
    assert summary["teachers"] == [TEACHER]
    assert summary["policy"].startswith("rrc-ra:")
    expected = {"student": "test_vit", "mode": "replay", "size": SIZE, "seed": 2, "samples": 24, "num_classes": 3, "epochs": 3}
    assert {k: summary[k] for k in expected} == expected
    assert summary["last"] == {k: lines[2][k] for k in measures}
    assert summary["best"] == {k: lines[summary["best_epoch"]][k] for k in measures}
    assert summary["recipe"]["drop_path"] == 0.2
    assert summary["environment"]["torch"] == version("torch")
    assert {"parameters", "stored_views", "images_per_second", "device"} <= set(summary)
    assert sorted(p.name for p in out.iterdir()) == sorted([LAST, BEST, METRICS, SUMMARY])


def test_callbacks_hear_of_every_step_and_epoch(images: Path, store: Path, tmp_path: Path) -> None:
    steps: list[tuple[int, int, int]] = []
    lines: list[dict[str, Any]] = []
    train(config(images, tmp_path / "run", store, epochs=2), lambda *step: steps.append(step), lines.append)
    assert steps == [(epoch, done, STEPS) for epoch in range(2) for done in range(1, STEPS + 1)]
    assert lines == metrics_of(tmp_path / "run")


def test_the_loss_of_a_line_is_the_mean_over_samples(
    images: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = []
    forward = ReplayTask.forward

    def recording(self: Any, pixels: torch.Tensor, targets: Any) -> dict[str, torch.Tensor]:
        result = forward(self, pixels, targets)
        losses.append((float(result["loss"].detach()), len(pixels)))
        return result

    monkeypatch.setattr(ReplayTask, "forward", recording)
    train(config(images, tmp_path / "run", store, epochs=1, student="test_resnet"))
    assert metrics_of(tmp_path / "run")[0]["loss"] == pytest.approx(sum(v * n for v, n in losses) / 24, rel=1e-5)


def test_the_loss_falls(images: Path, store: Path, tmp_path: Path) -> None:
    train(config(images, tmp_path / "run", store, epochs=8, student="test_resnet", lr=3e-3))
    losses = [line["loss"] for line in metrics_of(tmp_path / "run")]
    assert losses[-1] < 0.7 * losses[0]


def test_the_best_weights_are_plain_timm_weights_that_score_as_reported(undisturbed: Undisturbed, val: Path) -> None:
    out = undisturbed("replay").out
    model = timm.create_model("test_vit", img_size=SIZE, num_classes=3)
    model.load_state_dict(load_file(out / BEST))
    with safe_open(out / BEST, framework="pt") as file:
        about = json.loads(file.metadata()["reinforce"])
    assert about["class_names"] == list(CLASSES)
    assert about["student"] == "test_vit"
    assert about["num_classes"] == 3
    mean, std = (255 * torch.tensor(model.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    check = Validation(ImageFolder.open(val), list(CLASSES), 3, SIZE, 0.875)
    metrics = check.evaluate(lambda x: model.eval()((x.float() - mean) / std), CPU_RANK, 5, 0)
    assert metrics == {k: metrics_of(out)[about["epoch"]][f"ema_{k}"] for k in metrics}


def test_the_best_weights_can_teach(undisturbed: Undisturbed, images: Path, tmp_path: Path) -> None:
    out = undisturbed("replay").out
    spec = TeacherSpec("test_vit", out / BEST)
    teacher = load_teacher(
        [spec], size=SIZE, class_names=list(CLASSES), class_map=None, device=torch.device("cpu"), precision="fp32"
    )
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, views=2)
    assert generate(source, teacher, settings, tmp_path / "labels", Execution(workers=0)).counts.ok == 24
    summary = train(config(images, tmp_path / "run", tmp_path / "labels", epochs=1, student="test_resnet"))
    assert summary["teachers"] == ["test_vit"]


@pytest.mark.parametrize("tops", [[50.0, 50.0, 50.0], [20.0, 50.0, 50.0], [50.0, 20.0, 50.0], [50.0, 20.0, 30.0]])
def test_the_best_epoch_of_the_summary_is_the_one_whose_weights_were_kept(
    images: Path, store: Path, val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tops: Any
) -> None:
    results = iter(tops)
    monkeypatch.setattr(Validation, "evaluate", lambda self, *a: {"top1": next(results), "nll": 1.0})
    summary = train(config(images, tmp_path / "run", store, val=val, student="test_resnet"))
    with safe_open(tmp_path / "run" / BEST, framework="pt") as file:
        kept = json.loads(file.metadata()["reinforce"])["epoch"]
    assert tops[kept] == max(tops)
    assert summary["best"]["top1"] == max(tops)
    assert summary["best_epoch"] == kept


def test_without_a_validation_set_the_last_epoch_is_the_best(images: Path, store: Path, tmp_path: Path) -> None:
    summary = train(config(images, tmp_path / "run", store, student="test_resnet"))
    assert summary["best_epoch"] == 2
    assert flat(load_file(tmp_path / "run" / BEST)) == flat(load_checkpoint(tmp_path / "run" / LAST)["model"])


# No place for a run


def test_a_folder_that_holds_a_run_is_not_overwritten(undisturbed: Undisturbed, tmp_path: Path) -> None:
    reference = undisturbed("replay")
    before = {p: p.read_bytes() for p in reference.out.iterdir()}
    with pytest.raises(UsageError, match="already holds a run") as error:
        train(reference)
    assert error.value.exit_code == 2
    assert "--resume to continue it, or another --out" in str(error.value)
    assert {p: p.read_bytes() for p in reference.out.iterdir()} == before


def test_an_output_that_is_a_file_is_refused(images: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ReinforceError, match="run"):
        train(config(images, tmp_path / "run", store))


def test_the_folder_of_the_labels_is_no_place_for_a_run(images: Path, own_store: Path) -> None:
    before = sorted(own_store.rglob("*"))
    with pytest.raises(ReinforceError, match="own_store"):
        train(config(images, own_store, own_store, epochs=1, student="test_resnet"))
    assert sorted(own_store.rglob("*")) == before


def test_a_full_disk_is_an_error_that_says_so_and_keeps_the_last_checkpoint(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = undisturbed("replay")

    def full() -> None:
        def fsync(handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fsync)

    with pytest.raises(ReinforceError, match="No space left on device"):
        train(dataclasses.replace(reference, out=tmp_path / "run"), at((1, 1), full))
    monkeypatch.undo()
    train(resumed(reference, tmp_path / "run"))
    assert differences(reference.out, tmp_path / "run") == []


@pytest.mark.process
def test_a_second_run_into_the_same_folder_is_refused(images: Path, store: Path, tmp_path: Path) -> None:
    program = (
        "import fcntl, os, sys; h = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.lockf(h, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    (tmp_path / "run").mkdir()
    command: list[str | Path] = [sys.executable, "-c", program, tmp_path / "run" / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="is being written by another process"):
            train(config(images, tmp_path / "run", store))
        holder.stdin.close()
    assert not (tmp_path / "run" / METRICS).exists()
