"""A teacher that is not timm's: one class, one entry in the registry, and it is named, run, recorded and run again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reinforce.errors import UsageError
from reinforce.settings import TeacherInfo
from reinforce.teachers.ensemble import Ensemble
from reinforce.teachers.open_teacher import TEACHERS, load_teacher
from reinforce.teachers.teacher import Member, Teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.testing.teachers import check_teacher
from tests.conftest import CLASSES, SIZE, TEACHER, Cli

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


class Colours(Member):
    """Knows one class per colour channel: which of them a view has most of. `colours:SHARPNESS`."""

    kind = "colours"

    def __init__(self, name: str) -> None:
        super().__init__()
        self.sharpness = float(name.partition(":")[2])
        identity = hashlib.sha256(name.encode()).hexdigest()
        self.info = TeacherInfo(
            name=name, kwargs={}, weights_sha256=identity, num_classes=3, mean=None, std=None, class_map=None
        )

    @classmethod
    def open(cls, spec: TeacherSpec, size: int, class_map: list[int] | None) -> Member:
        try:
            return cls(spec.name)
        except ValueError:
            raise UsageError(f"There is no teacher {spec.name}.", expected="colours:NUMBER") from None

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3)) * self.sharpness


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TEACHERS, Colours.kind, Colours)


def test_it_labels_is_recorded_and_runs_again(registered: None, images: Path, tmp_path: Path, cli: Cli) -> None:
    labels = tmp_path / "labels"
    options = ("--size", SIZE, "--views", 2, "--workers", 0, "--codec", "topk:3")
    assert cli("generate", "--data", images, "--teacher", "colours:0.1", *options, "--out", labels)[0] == 0
    (told,) = json.loads((labels / "manifest.json").read_text())["settings"]["teachers"]
    assert (told["name"], told["num_classes"]) == ("colours:0.1", 3)
    code, out, _ = cli("verify", labels, "--data", images, "--teacher", "--workers", 0)
    assert code == 0, out
    assert "labels again" in out or "teacher" in out
    run = ("--student", TEACHER, "--data", images, "--labels", labels, "--mode", "online", "--epochs", 1, "--batch-size", 8)
    assert cli("train", *run, "--workers", 0, "--out", tmp_path / "run")[0] == 0
    code, _, err = cli("generate", "--data", images, "--teacher", "colours:much", *options, "--out", tmp_path / "other")
    assert code == 2
    assert "There is no teacher colours:much." in err


def test_it_stands_beside_timms_in_an_ensemble(registered: None, weights: Path) -> None:
    specs = [TeacherSpec("colours:0.1"), TeacherSpec(f"timm:{TEACHER}", weights)]
    both, *each = (
        load_teacher(s, size=SIZE, class_names=list(CLASSES), class_map=None, device=CPU, precision="fp32")
        for s in (specs, specs[:1], specs[1:])
    )
    views = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    assert torch.allclose(both(views), (each[0](views) + each[1](views)) / 2)
    assert [info.name for info in both.infos] == ["colours:0.1", TEACHER]


def test_it_and_timms_keep_the_laws(registered: None, teacher: Teacher) -> None:
    check_teacher(teacher, SIZE)
    check_teacher(Ensemble([Colours("colours:0.1")], CPU, "fp32"), SIZE)


class Broken(Colours):
    """Breaks one law."""

    def __init__(self, law: str) -> None:
        super().__init__("colours:0.1")
        self.law, self.calls = law, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        probs = super().forward(images)
        changed: dict[str, Any] = {
            "sum to one": lambda: probs * 1.1,
            "not float32": lambda: probs.double(),
            "no probability": lambda: probs - 1,
            "second time": lambda: torch.softmax(probs * self.calls, 1),
            "training mode": lambda: torch.softmax(probs * (1 + self.training), 1),
            "rest of its batch": lambda: probs.mean(dim=0, keepdim=True).expand_as(probs).contiguous(),
            "changes the views": lambda: (images.zero_(), probs)[1],
        }
        return changed[self.law]()


class Obedient(Ensemble):
    """Changes its mode when it is asked to."""

    def train(self, mode: bool = True) -> Obedient:
        torch.nn.Module.train(self, mode)
        return self


@pytest.mark.parametrize(
    "law",
    ["sum to one", "not float32", "no probability", "second time", "training mode", "rest of its batch", "changes the views"],
)
def test_a_broken_law_is_named(law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        check_teacher(Obedient([Broken(law)], CPU, "fp32"), SIZE)
