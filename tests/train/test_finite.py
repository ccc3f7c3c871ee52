"""Runs that stop being finite: they end with an error, and what they saved before is finite and can be continued."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reinforce.errors import DataError
from reinforce.train.finite import learnt, not_finite
from reinforce.train.loop import train
from reinforce.train.metrics import METRICS
from reinforce.train.run import BEST, LAST, Run
from tests.conftest import Cli
from tests.train.conftest import STEPS, Undisturbed, at, config, differences, metrics_of, resumed
from tests.train.torchrun import run

pytestmark = pytest.mark.unit


def finite(checkpoint: Path) -> bool:
    return all(bool(torch.isfinite(t.double()).all()) for t in load_file(checkpoint).values())


def test_a_rate_that_is_too_high_leaves_the_last_finite_state(images: Path, store: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "run"
    command = [
        *("train", "--student", "test_resnet", "--data", images, "--labels", store, "--out", out, "--epochs", 3, "--seed", 2),
        *("--batch-size", 5, "--opt", "sgd", "--lr", 1e18, "--warmup-epochs", 0, "--save-every", 1, "--workers", 0),
    ]
    code, _, said = cli(*command, "--device", "cpu")
    assert code == 1
    assert "Traceback" not in said
    words = " ".join(said.split())
    assert "no longer finite" in words
    assert "of epoch 0, at a learning rate of 9" in words
    assert "a smaller --lr, more --warmup-epochs" in words
    assert finite(out / LAST)
    assert not (out / BEST).exists()
    assert metrics_of(out) == []
    before = (out / LAST).read_bytes()
    code, _, again = cli(*command, "--device", "cpu", "--resume")
    assert code == 1
    assert f"--resume goes on from {out / LAST}, epoch 0, step" in " ".join(again.split())
    assert (out / LAST).read_bytes() == before


@pytest.mark.process
@pytest.mark.slow
def test_two_processes_stop_at_the_same_step(images: Path, store: Path, val: Path, tmp_path: Path) -> None:
    given = {"student": "test_resnet", "opt": "sgd", "lr": 1e18, "warmup_epochs": 0, "save_every": 1}
    code, said, seen = run(2, [images, store, val], tmp_path / "run", **given)
    assert code not in (0, None)
    assert said.count("error: Training is no longer finite") >= 1
    assert "another process" not in said.lower()
    assert len({len(steps) for steps in seen}) == 1
    assert finite(tmp_path / "run" / LAST)


class Poison:
    """Puts a NaN somewhere in a run, once, as a fault of the machine might."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, where: Callable[[Run], torch.Tensor], value: float = math.nan) -> None:
        self.where, self.value, self.runs = where, value, list[Run]()
        made = Run.__init__

        def noting(this: Run, *args: Any) -> None:
            made(this, *args)
            self.runs.append(this)

        monkeypatch.setattr(Run, "__init__", noting)

    @torch.no_grad()
    def __call__(self) -> None:
        self.where(self.runs[-1]).view(-1)[-1] = self.value


def test_a_run_that_was_disturbed_once_resumes_like_an_undisturbed_one(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = undisturbed("plain")
    poison = Poison(monkeypatch, lambda run: next(run.parts.student.parameters()))
    with pytest.raises(DataError, match=r"after step 4 of epoch 1.*\n(.*\n)*.*last.safetensors, epoch 1, step 2"):
        train(dataclasses.replace(reference, out=tmp_path / "run"), at((1, 3), poison))
    train(resumed(reference, tmp_path / "run"))
    assert differences(reference.out, tmp_path / "run") == []


def first_state(run: Run) -> torch.Tensor:
    return next(iter(run.stepper.optimizer.state.values()))["exp_avg"]


PLACES: dict[str, Callable[[Run], torch.Tensor]] = {
    "weights, fc.bias": lambda run: run.parts.student.get_parameter("fc.bias"),
    "weights, bn1.running_var": lambda run: run.parts.student.get_buffer("bn1.running_var"),
    "averaged weights, module.fc.bias": lambda run: run.task.get_trainable_module(ema=True).get_parameter("module.fc.bias"),
    "loss, discriminator.layers.0.bias": lambda run: run.task.loss.get_parameter("discriminator.layers.0.bias"),
    "optimiser, exp_avg of tensor 0": first_state,
}


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_wherever_it_is_nothing_is_measured_or_saved_after_it(
    images: Path, store: Path, val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    poison = Poison(monkeypatch, PLACES[name], value)
    case = config(
        images, tmp_path / "run", store, val=val, student="test_resnet", model_ema=True, discriminator_loss_weight=0.5
    )
    with pytest.raises(DataError, match=rf"NaN or infinity in {name}; after step {STEPS} of epoch 0"):
        train(case, at((0, STEPS), poison))
    assert [p.name for p in case.out.iterdir()] == [METRICS]
    assert metrics_of(case.out) == []


def test_a_finite_model_whose_metrics_are_not_is_not_the_best(
    images: Path, store: Path, val: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Poison(monkeypatch, lambda run: run.parts.student.get_buffer("bn1.running_var"), -1.0)
    case = config(images, tmp_path / "run", store, val=val, student="test_resnet")
    with pytest.raises(DataError, match=r"NaN or infinity in nll; ece; in the evaluation of epoch 0"):
        train(case, at((0, STEPS), poison))
    assert not (case.out / BEST).exists()


def test_what_is_infinite_on_purpose_is_no_fault() -> None:
    module = torch.nn.BatchNorm1d(3)
    module.register_buffer("mask", torch.full((2, 2), -math.inf))
    optimizer = torch.optim.SGD(module.parameters(), momentum=0.9, lr=0.1)
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    found = learnt({"weights": module}, optimizer)
    assert list(found) == [
        *("weights, weight", "weights, bias", "weights, running_mean", "weights, running_var"),
        *("optimiser, momentum_buffer of tensor 0", "optimiser, momentum_buffer of tensor 1"),
    ]
    assert not_finite(found) == []
    assert not_finite({}) == []
    assert not_finite({"empty": torch.zeros(0), "count": torch.tensor(3), "large": torch.tensor([3e38, -3e38])}) == []
    assert not_finite({"a": torch.tensor(1.0), "b": torch.tensor([1, math.nan]).bfloat16()}) == ["b"]
