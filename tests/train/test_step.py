"""Step: parameter groups and learning rates of a run are timm's; what an optimiser does not take is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import CosineLRScheduler, StepLRScheduler

from reinforce.errors import UsageError
from reinforce.train.losses import LossWeights
from reinforce.train.ranks import Ranks
from reinforce.train.recipe import Recipe
from reinforce.train.step import Stepper
from reinforce.train.tasks import PlainTask
from tests.train.batch import CPU, student
from tests.train.conftest import CPU_RANK

pytestmark = pytest.mark.unit

UPDATES = 4


def stepper(name: str = "test_vit", discriminator: float = 0.0, **fields: Any) -> Stepper:
    task = PlainTask(student(name), LossWeights(discriminator=discriminator), CPU)
    return Stepper(task, Recipe.model_validate(fields), UPDATES, CPU_RANK)


def groups(of: Any) -> list[tuple[float, float, list[int]]]:
    """Weight decay, factor of the learning rate, and parameters of each group."""
    return [(g["weight_decay"], g.get("lr_scale", 1.0), [id(p) for p in g["params"]]) for g in of]


def rates(made: Stepper) -> list[list[float]]:
    """Learning rates of all groups in every update of the run."""
    found = []
    for update in range(UPDATES * int(made.epochs)):
        made.begin(update)
        found.append([float(g["lr"]) for g in made.optimizer.param_groups])
    return found


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("spared", [True, False])
@pytest.mark.parametrize("layer_decay", [None, 0.8])
def test_the_groups_of_parameters_are_timms(name: str, spared: bool, layer_decay: float | None) -> None:
    made = stepper(name, weight_decay=0.02, filter_bias_and_bn=spared, layer_decay=layer_decay)
    model: Any = made.task.trainable_module
    never: set[str] = getattr(model, "no_weight_decay", set)()
    common: dict[str, Any] = {"weight_decay": 0.02, "no_weight_decay_list": never, "weight_decay_exclude_1d": spared}
    if layer_decay is None:
        expected = param_groups_weight_decay(model, **common)
    else:
        expected = param_groups_layer_decay(model, layer_decay=layer_decay, **common)
    assert groups(made.optimizer.param_groups) == groups(expected)


def test_norms_and_biases_decay_only_on_demand() -> None:
    """By hand, without timm: of a network without a list of its own, all parameters decay or all with two dimensions."""
    for spared in (True, False):
        made = stepper("test_resnet", weight_decay=0.02, filter_bias_and_bn=spared)
        decayed = {id(p) for g in made.optimizer.param_groups if g["weight_decay"] for p in g["params"]}
        every = list(made.task.trainable_module.parameters())
        assert decayed == {id(p) for p in every if p.ndim > 1 or not spared}
        assert any(p.ndim == 1 for p in every)


def test_the_discriminator_learns_at_the_same_rate_without_decay() -> None:
    made = stepper("test_resnet", discriminator=1.0, weight_decay=0.02, sched="step", decay_epochs=2, warmup_epochs=0)
    last = made.optimizer.param_groups[-1]
    assert [id(p) for p in last["params"]] == [id(p) for p in made.task.loss.parameters()]
    assert last["weight_decay"] == 0
    assert all(len(set(row)) == 1 for row in rates(made))


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_a_cosine_schedule_is_timms_in_every_update_of_the_run(layer_decay: float | None) -> None:
    fields: dict[str, Any] = {
        "epochs": 30,
        "warmup_epochs": 5,
        "cooldown_epochs": 3,
        "lr": 0.4,
        "warmup_lr": 1e-3,
        "min_lr": 1e-4,
    }
    made = stepper(**fields, layer_decay=layer_decay)
    assert made.epochs == 33
    found = rates(made)
    scales = [g.get("lr_scale", 1.0) for g in made.optimizer.param_groups]
    own = torch.optim.SGD([torch.zeros(1)], lr=0.4)
    timms = CosineLRScheduler(own, 30 * UPDATES, lr_min=1e-4, warmup_t=5 * UPDATES, warmup_lr_init=1e-3, t_in_epochs=False)
    for update, row in enumerate(found):
        timms.step_update(update)
        assert row == pytest.approx([own.param_groups[0]["lr"] * scale for scale in scales], rel=1e-12)
        rising = 1e-3 + (0.4 - 1e-3) * update / (5 * UPDATES)
        falling = 1e-4 + (0.4 - 1e-4) / 2 * (1 + math.cos(math.pi * update / (30 * UPDATES)))
        expected = rising if update < 5 * UPDATES else falling if update < 30 * UPDATES else 1e-4
        assert max(row) == pytest.approx(expected)
    assert min(scales) < 0.2 if layer_decay else scales == [1.0] * len(scales)


def test_what_is_reported_is_the_rate_of_the_head() -> None:
    made = stepper(layer_decay=0.5, lr=0.1, warmup_epochs=0)
    made.begin(0)
    assert made.lr == pytest.approx(0.1)
    assert float(made.optimizer.param_groups[0]["lr"]) < 0.05


def test_a_multistep_schedule_decays_at_its_milestones() -> None:
    made = stepper(sched="multistep", decay_milestones=(3, 5), epochs=8, lr=1.0, warmup_epochs=0)
    # timm compares a milestone with the number of the next update, so the last update of the epoch before has the new rate.
    found = [row[0] for row in rates(made)]
    expected = [1.0] * (3 * UPDATES - 1) + [0.1] * (2 * UPDATES) + [0.01] * (3 * UPDATES + 1)
    assert found == pytest.approx(expected)


def test_a_step_schedule_is_timms() -> None:
    made = stepper(sched="step", decay_epochs=3, epochs=8, lr=1.0, warmup_epochs=0)
    own = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    timms = StepLRScheduler(own, 3 * UPDATES, 0.1, t_in_epochs=False)
    for update, row in enumerate(rates(made)):
        timms.step_update(update)
        assert row[0] == pytest.approx(own.param_groups[0]["lr"])
        assert row[0] == pytest.approx(0.1 ** (update // (3 * UPDATES)))


def test_epsilon_betas_and_nesterov_reach_the_optimiser() -> None:
    made = stepper(opt_eps=1e-5, opt_betas="0.8,0.95").optimizer
    assert all(g["eps"] == 1e-5 and tuple(g["betas"]) == (0.8, 0.95) for g in made.param_groups)
    assert all(tuple(g["betas"]) == (0.9, 0.999) for g in stepper().optimizer.param_groups)
    assert [stepper(opt=opt).optimizer.param_groups[0]["nesterov"] for opt in ("sgd", "momentum")] == [True, False]


@pytest.mark.parametrize(("fields", "text"), [
    ({"opt": "sgd", "opt_betas": "0.9,0.99"}, "--opt sgd has no betas"),
    ({"opt": "momentum", "opt_eps": 1e-6}, "--opt momentum has no eps"),
    ({"opt": "adamw", "opt_betas": "0.9"}, "cannot make this optimiser"),
    ({"opt": "adamw", "opt_betas": "0.9,0.9,0.9"}, "cannot make this optimiser"),
    ({"opt": "nonsense"}, "cannot make this optimiser"),
    ({"sched": "nonsense"}, "cannot make this schedule"),
    ({"sched": "plateau"}, "cannot make this schedule"),
    ({"sched": "none"}, "does not know this schedule"),
])  # fmt: skip
def test_what_timm_cannot_make_is_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        stepper("test_resnet", **fields)


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_statistics_are_not_averaged_over_ranks(frozen: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are equal on all ranks, and a sum divided by three is not always what it was."""
    averaged: list[Any] = []
    monkeypatch.setattr(Ranks, "average_statistics", lambda self, module: averaged.append(module))
    made = stepper("test_resnet")
    made.task.freeze_bn = frozen
    made.begin(0)
    made.finish(0)
    assert averaged == ([] if frozen else [made.task.trainable_module])
