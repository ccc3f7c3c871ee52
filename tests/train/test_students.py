"""One real step of every student of USI's table 2 that timm has, and of some others, through the training loop."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.models import create
from reinforce.teachers.short_names import timm_name
from reinforce.teachers.teacher import Teacher
from reinforce.train.config import TrainConfig
from reinforce.train.loop import train
from reinforce.train.recipe import load_recipe
from reinforce.train.run import BEST
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import torch_seed
from tests.conftest import CLASSES, make_settings, write_folder

pytestmark = [pytest.mark.unit, pytest.mark.slow]
USI = [
    "resnet50", "tresnet_m", "convnext_small", "regnety_032", "vit_small_patch16_224", "levit_384",
    "swin_small_patch4_window7_224", "tnt_s_legacy_patch16_224", "efficientnet_b0", "mobilenetv3_large_100",
    "mixer_b16_224", "resmlp_12_224",
]  # fmt: skip
OTHERS = ["resnetrs50", "ese_vovnet39b", "gernet_m", "deit_tiny_distilled_patch16_224"]


@pytest.fixture(scope="module")
def labels(teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Three images at 224 pixels with two mixed views each."""
    root = tmp_path_factory.mktemp("students")
    source = ImageFolder.open(write_folder(root / "images", per_class=2))
    settings = make_settings(source, teacher, policy=parse_policy("usi"), size=224, views=1)
    generate(source, teacher, settings, root / "labels", Execution(4, 0))
    return root / "images", root / "labels"


@pytest.mark.parametrize("name", USI + OTHERS)
def test_a_student_takes_a_step(labels: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    images, store = labels
    overrides = {
        "epochs": 1,
        "batch_size": 6,
        "aug_repeats": 1,
        "model_ema": False,
        "amp": False,
        "warmup_lr": 1e-3,
        "cooldown_epochs": 0,
    }
    config = TrainConfig(
        student=name, data=images, labels=store, out=tmp_path / "run", recipe=load_recipe("usi", overrides), seed=1, workers=0
    )
    summary = train(config)
    assert math.isfinite(summary["last"]["loss"])
    assert {"kd_loss", "task_loss"} <= summary["last"].keys()
    torch.manual_seed(torch_seed(1, -1))
    first = create(name, weights=None, size=224, kwargs={"num_classes": len(CLASSES)}, pretrained=False)
    before, after = first.state_dict(), load_file(tmp_path / "run" / BEST)
    assert before.keys() == after.keys()
    heads = [n for n in before if n.startswith(tuple(_heads(first))) and before[n].is_floating_point()]
    assert heads
    assert all(not torch.equal(before[n], after[n]) for n in heads), "every head has learned"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["student"] == timm_name(name)


def _heads(model: torch.nn.Module) -> list[str]:
    classifier: Any = model.pretrained_cfg["classifier"]
    return list(classifier) if isinstance(classifier, (tuple, list)) else [classifier]
