"""Small runs of training that several files share: a config, a finished run of each mode, and what a run left behind."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reinforce.replay.targets import Targets
from reinforce.train.checkpoint import load_checkpoint
from reinforce.train.config import TrainConfig
from reinforce.train.loop import train
from reinforce.train.metrics import METRICS, SUMMARY
from reinforce.train.ranks import Ranks
from reinforce.train.recipe import Recipe, load_recipe
from reinforce.train.run import BEST, LAST
from reinforce.train.tasks import StudentTask
from tests.conftest import write_folder

TIMES = ("seconds", "images_per_second")
STEPS = 5  # 24 samples in batches of 5
RANDOM = {"drop": 0.3, "drop_path": 0.2, "model_ema": True, "model_ema_decay": 0.9}
CPU_RANK = Ranks(0, 1, torch.device("cpu"))
Undisturbed = Callable[[str], TrainConfig]
CASES = {
    "replay": {"student": "test_vit", **RANDOM},
    "plain": {"mode": "plain", "student": "test_efficientnet", "opt": "sgd", "lr": 0.01, "clip_grad": 1.0, **RANDOM},
    "online": {"mode": "online", "student": "test_resnet", "sched": "step", "amp": True, "task_loss_weight": 0.5, **RANDOM},
}


def config(images: str | Path, out: Path, labels: str | Path | None = None, **changes: Any) -> TrainConfig:
    """A run of 3 epochs of 5 steps; `changes` are fields of the recipe or of the config."""
    recipe = {"epochs": 3, "batch_size": 5, **{k: v for k, v in changes.items() if k in Recipe.model_fields}}
    rest = {k: v for k, v in changes.items() if k not in Recipe.model_fields}
    values = {"student": "test_vit", "workers": 0, "device": "cpu", "seed": 2, **rest}
    return TrainConfig(data=images, out=out, labels=labels, recipe=load_recipe("kd", recipe), **values)


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A nested state as one dict of bytes and scalars, without the fields that tell the time."""
    if isinstance(value, torch.Tensor):
        return {path: (str(value.dtype), tuple(value.shape), value.reshape(-1).view(torch.uint8).numpy().tobytes())}
    if isinstance(value, dict):
        return {k: v for name, item in value.items() if name not in TIMES for k, v in flat(item, f"{path}/{name}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{path}/{i}").items()}
    return {path: value}


def everything(out: Path) -> dict[str, Any]:
    """All that a finished run left behind."""
    files = {LAST: load_checkpoint(out / LAST), BEST: load_file(out / BEST), METRICS: metrics_of(out)}
    return flat({**files, SUMMARY: json.loads((out / SUMMARY).read_text())})


def differences(a: Path, b: Path) -> list[str]:
    one, other = everything(a), everything(b)
    return [k for k in {**one, **other} if one.get(k) != other.get(k)]


def at(when: tuple[int, int], act: Callable[[], object]) -> Callable[[int, int, int], None]:
    """An `on_step` that acts after one step of one epoch."""

    def on_step(epoch: int, done: int, total: int) -> None:
        if (epoch, done) == when:
            act()

    return on_step


def resumed(reference: TrainConfig, out: Path) -> TrainConfig:
    return dataclasses.replace(reference, out=out, resume=True)


def recorded(monkeypatch: pytest.MonkeyPatch, kind: type[StudentTask]) -> list[tuple[torch.Tensor, Targets]]:
    """Batches that a task's forward was given, from now on."""
    seen: list[tuple[torch.Tensor, Targets]] = []
    forward = kind.forward

    def recording(self: Any, images: torch.Tensor, targets: Targets) -> dict[str, torch.Tensor]:
        seen.append((images.clone(), targets))
        return forward(self, images, targets)

    monkeypatch.setattr(kind, "forward", recording)
    return seen


def refused(error: type[Exception], match: str, run: TrainConfig) -> str:
    """The text of the error; nothing was written."""
    with pytest.raises(error, match=match) as caught:
        train(run)
    assert not run.out.exists()
    return str(caught.value)


@pytest.fixture(scope="session")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("val") / "val", per_class=3, first=200)


@pytest.fixture(scope="session")
def undisturbed(images: Path, store: Path, val: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """The config of a finished run of a mode, made at first use."""

    @cache
    def finished(mode: str) -> TrainConfig:
        out = tmp_path_factory.mktemp("undisturbed") / mode
        made = config(images, out, store, val=val, teacher_weights=[weights], save_every=2, **CASES[mode])
        train(made)
        return made

    return finished
