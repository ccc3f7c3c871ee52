"""The last epochs of a run and the student's form: fields of a recipe that change views, dropped paths and batch norm."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import DropPath

from reinforce.errors import UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.teacher import Teacher
from reinforce.train.checkpoint import load_checkpoint
from reinforce.train.epoch_plan import EpochPlan
from reinforce.train.loop import train
from reinforce.train.run import LAST
from reinforce.train.setup import build
from reinforce.train.student import make_student
from reinforce.train.tasks import PlainTask
from reinforce.train.training_data import _refuse_unmixing
from reinforce.views.policy_text import parse_policy
from tests.conftest import SIZE, make_settings
from tests.train.batch import CPU
from tests.train.conftest import config, recorded, refused

pytestmark = pytest.mark.unit

PLAIN: dict[str, Any] = {"mode": "plain", "size": SIZE, "student": "test_resnet"}


def test_fresh_views_are_not_mixed_in_the_last_epochs(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recorded(monkeypatch, PlainTask)
    run = config(images, tmp_path / "run", policy="rrc:cutmix=1", mixup_off_epoch=2, batch_size=8, **PLAIN)
    train(run)
    mixed = [targets.other is not None for _, targets in seen]
    assert mixed == [True] * 6 + [False] * 3  # three epochs of three batches
    alone = config(images, tmp_path / "alone", policy="rrc", batch_size=8, **PLAIN)
    parts, plain = build(run, CPU), build(alone, CPU)
    for each, made in ((run, parts), (alone, plain)):
        EpochPlan.of(each, made.views, made.size, 2)
    for index in range(len(parts.views)):  # the crops are those of the policy without mixing
        assert torch.equal(parts.views.items(index)[0].image, plain.views.items(index)[0].image)


def test_stored_views_cannot_be_unmixed(images: Path, store: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, policy=parse_policy("rrc:cutmix=1"))
    generate(source, teacher, settings, tmp_path / "labels", Execution(16, 0))
    run = config(images, tmp_path / "run", tmp_path / "labels", mixup_off_epoch=2, batch_size=8)
    assert "the teacher saw mixed" in refused(UsageError, "Mixing cannot be turned off in stored views", run)
    build(config(images, tmp_path / "run", store, mixup_off_epoch=2), CPU)  # views that are not mixed need no change


def test_stored_views_that_are_mixed_one_way_cannot_be_unmixed_either(images: Path, tmp_path: Path) -> None:
    run, policy = config(images, tmp_path / "run", mixup_off_epoch=2), parse_policy("rrc:cutmix=1")
    one_way = policy.model_copy(update={"partners": "any"})
    assert one_way.mix is None
    with pytest.raises(UsageError, match="Mixing cannot be turned off in stored views"):
        _refuse_unmixing(run, one_way)
    _refuse_unmixing(run, parse_policy("rrc"))
    _refuse_unmixing(config(images, tmp_path / "run", mixup_off_epoch=0), one_way)


def test_the_last_epochs_have_one_view_of_a_sample_in_a_batch(images: Path, store: Path, tmp_path: Path) -> None:
    run = config(images, tmp_path / "run", store, epochs=6, aug_repeats=4, aug_repeats_off_epoch=4, batch_size=8)
    parts = build(run, CPU)
    plans = [EpochPlan.of(run, parts.views, parts.size, epoch) for epoch in range(6)]
    assert [plan.repeats for plan in plans] == [4, 4, 4, 4, 1, 1]
    assert {plan.updates for plan in plans} == {3}  # so the schedule counts on as if nothing had changed
    assert [plan.views_of(0, plan.steps) for plan in plans] == [24] * 6
    together = Counter(np.concatenate([b for plan in plans[:4] for b in plan.batches]).tolist())
    assert together == Counter(range(24))  # four epochs with four views each show every sample once
    for plan in plans[4:]:
        assert sorted(np.concatenate(plan.batches).tolist()) == list(range(24))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet", "test_byobnet"])
def test_dropped_paths_have_one_rate_on_demand(images: Path, tmp_path: Path, name: str) -> None:
    def rates_of(**fields: Any) -> list[float]:
        run = config(images, tmp_path / "run", **{**PLAIN, "student": name, "drop_path": 0.2, **fields})
        return [m.drop_prob for m in make_student(run, 3, SIZE, CPU).modules() if isinstance(m, DropPath)]

    rising, even = rates_of(), rates_of(drop_path_shape="constant")
    assert rising == sorted(rising)
    assert len(set(rising)) > 1
    assert even == [0.2] * len(even)
    assert len(even) > len(rising)  # timm makes no layer where its rate is 0


def test_a_student_without_stochastic_depth_cannot_have_it_even(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reinforce.train.student.create", lambda *_, **__: torch.nn.Linear(2, 2))
    fields = {**PLAIN, "drop_path": 0.2, "drop_path_shape": "constant"}
    refused(UsageError, "test_resnet has no stochastic depth", config(images, tmp_path / "run", **fields))


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_weights(images: Path, tmp_path: Path) -> None:
    def state_of(name: str, **fields: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        run = config(images, tmp_path / name, **{**PLAIN, "epochs": 1, "warmup_epochs": 0, **fields})
        before = {k: v.clone() for k, v in build(run, CPU).student.state_dict().items()}
        train(run)
        return before, load_checkpoint(run.out / LAST)["model"]

    for frozen in (True, False):
        before, after = state_of(f"run{frozen}", freeze_bn=frozen)
        same = {k for k in before if torch.equal(before[k], after[k])}
        statistics = {k for k in before if "running" in k or "num_batches" in k}
        assert statistics
        assert same >= statistics if frozen else not same & statistics
        assert not {k for k in same if k not in statistics and "bn" in k}


def test_a_student_without_batch_norm_cannot_freeze_it(images: Path, tmp_path: Path) -> None:
    run = config(images, tmp_path / "run", **{**PLAIN, "student": "test_vit", "freeze_bn": True})
    refused(UsageError, "test_vit has no batch norm to freeze", run)
