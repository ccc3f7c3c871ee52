"""The weights that a student starts from: a local file that fits, and errors that name the student's own options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from reinforce.train.loop import train
from reinforce.train.run import BEST
from tests.conftest import CLASSES, SIZE, Cli
from tests.train.conftest import config

pytestmark = pytest.mark.unit


def saved(path: Path, name: str, classes: int = len(CLASSES)) -> Path:
    torch.manual_seed(5)
    size: dict[str, Any] = {"img_size": SIZE} if name == "test_vit" else {}
    save_file(timm.create_model(name, num_classes=classes, **size).state_dict(), path)
    return path


def test_a_student_starts_from_a_local_file(images: Path, store: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "first.safetensors", "test_vit")
    train(config(images, tmp_path / "run", store, epochs=1, lr=1e-6, initial_checkpoint=file))
    first, after = load_file(file), load_file(tmp_path / "run" / BEST)
    assert all(torch.allclose(first[k], after[k], atol=1e-4) for k in first)


@pytest.mark.parametrize(("name", "classes", "found"), [
    ("test_resnet", 3, "missing"), ("test_vit", 1000, "head.weight: [1000, 64] in the file, [3, 64] in the model"),
])  # fmt: skip
def test_weights_that_do_not_fit_the_student_name_its_options(
    images: Path, store: Path, tmp_path: Path, cli: Cli, name: str, classes: int, found: str
) -> None:
    file = saved(tmp_path / "first.safetensors", name, classes)
    code, said = of(cli, images, store, tmp_path / "run", "--initial-checkpoint", file)
    assert code == 1
    assert f"The weights in {file} do not fit the model" in said
    assert found in said
    assert "next: --student-kwargs" in said
    assert "teacher" not in said


@pytest.mark.parametrize(("given", "code", "text"), [
    (("--initial-checkpoint", "nowhere.safetensors"), 1, "There is no weights file"),
    (("--student-kwargs", "wings=2"), 2, "next: check --student-kwargs"),
    (("--student", "resnet50.wings"), 2, "expected: resnet50.a1_in1k, "),
])  # fmt: skip
def test_other_faults_of_the_student_name_its_options_too(
    images: Path, store: Path, tmp_path: Path, cli: Cli, given: Any, code: int, text: str
) -> None:
    found, said = of(cli, images, store, tmp_path / "run", *given)
    assert (found, text in said, "teacher" in said) == (code, True, False), said


def of(cli: Cli, images: Path, store: Path, out: Path, *given: object) -> tuple[int, str]:
    command = ["train", "--student", "test_vit", "--data", images, "--labels", store, "--out", out, "--workers", 0]
    code, _, said = cli(*command, "--device", "cpu", *given)
    assert not out.exists()
    return code, " ".join(said.split())
