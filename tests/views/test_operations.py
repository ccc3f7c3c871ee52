"""Ops: each keeps the laws, and one of one's own, made in this file, goes through the whole product."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.errors import StoreError
from reinforce.policy import AUGMENTATIONS, RGB, Augmentation, Policy
from reinforce.testing.operations import check_operation
from reinforce.views import ops
from reinforce.views.augment import AUGMENTERS
from reinforce.views.operation import Operation
from reinforce.views.operations import OPERATIONS, operation_of
from reinforce.views.params import MAX_FACTOR, Op
from tests.conftest import Cli
from tests.views import plain
from tests.views.plain import OnPixels

pytestmark = pytest.mark.unit


def rolled(image: np.ndarray, interpolation: int, a: int, b: int, fill: RGB) -> np.ndarray:
    """The channels moved on by `a`."""
    return np.roll(image, a, axis=0)


ROLL = Operation(200, "ROLL", rolled, a=(0, 2))


def one_roll(rng: np.random.Generator, policy: Policy, size: int) -> list[list[int]]:
    return [[ROLL.id, 0, int(rng.integers(3)), 0]]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPERATIONS, ROLL.id, ROLL)
    monkeypatch.setitem(AUGMENTATIONS, "roll", Augmentation(slots=1))
    monkeypatch.setitem(AUGMENTERS, "roll", one_roll)


@pytest.mark.parametrize("operation", [*OPERATIONS.values(), ROLL], ids=lambda operation: operation.name)
def test_every_op_keeps_the_laws(operation: Operation) -> None:
    check_operation(operation)


@pytest.mark.parametrize(("change", "law"), [
    ({"kernel": lambda image, i, a, b, fill: image[:, :1]}, "gives uint8"),
    ({"kernel": lambda image, i, a, b, fill: image.astype(np.int16)}, "gives int16"),
    ({"kernel": lambda image, i, a, b, fill: np.add(image, 1, out=image)}, "changes the view"),
    ({"kernel": lambda image, i, a, b, fill: np.random.default_rng().integers(0, 256, image.shape, np.uint8)}, "second time"),
    ({"kernel": lambda image, i, a, b, fill: image + np.uint8(image.flags.c_contiguous)}, "memory layout"),
    ({"scaled": lambda a, scale: a + 5}, "times as large"),
    ({"scaled": lambda a, scale: a if scale == 1 else -1}, "times as large"),
])  # fmt: skip
def test_a_broken_law_is_named(change: dict[str, object], law: str) -> None:
    broken = dataclasses.replace(ROLL, **change)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match=law):
        check_operation(broken)


def test_every_id_of_the_enum_has_an_op_and_every_augmentation_is_drawn() -> None:
    assert {int(op): op.name for op in Op} == {op.id: op.name for op in OPERATIONS.values()}
    assert AUGMENTERS.keys() == AUGMENTATIONS.keys()


@settings(max_examples=60)
@given(factor=st.integers(-MAX_FACTOR, MAX_FACTOR) | st.sampled_from([-MAX_FACTOR, MAX_FACTOR]), seed=st.integers(0, 99))
@pytest.mark.parametrize("name", ["brightness", "contrast", "color", "sharpness"])
def test_the_largest_factors_do_not_overflow(name: str, factor: int, seed: int) -> None:
    image = np.random.default_rng(seed).choice(np.array([0, 255], np.uint8), (9, 8, 3))
    assert np.array_equal(getattr(OnPixels(ops), name)(image, factor), getattr(plain, name)(image, factor))


@pytest.mark.parametrize(("slot", "said"), [
    ((int(Op.ROTATE), 0, 1, 1), "interpolation 0"),
    ((int(Op.SHEAR_X), 4, 1, 0), "interpolation 4"),
    ((int(Op.GAUSSIAN_BLUR), 0, -1, 0), "a = -1"),
    ((int(Op.COLOR), 0, MAX_FACTOR + 1, 0), f"a = {MAX_FACTOR + 1}"),
])  # fmt: skip
def test_an_argument_that_an_op_does_not_take_is_refused(slot: tuple[int, int, int, int], said: str) -> None:
    with pytest.raises(StoreError, match="an argument that it does not take") as error:
        operation_of(*slot)
    assert said in str(error.value)


@pytest.mark.process
def test_an_op_of_ones_own_is_generated_verified_and_learnt_from(
    registered: None, images: Path, weights: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 32, "--views", 2, "--workers", 0)
    labels = tmp_path / "labels"
    assert cli("generate", "--data", images, *teacher, "--policy", "rrc:aa=roll", "--out", labels)[0] == 0
    assert cli("verify", labels, "--data", images)[0] == 0
    run = ("--student", "test_resnet", "--data", images, "--labels", labels, "--epochs", 1, "--batch-size", 8, "--workers", 0)
    assert cli("train", *run, "--out", tmp_path / "run")[0] == 0
    # What it drew is no op of a version that does not have it; arguments that it does not take are told too.
    monkeypatch.setitem(OPERATIONS, ROLL.id, dataclasses.replace(ROLL, a=(0, 0)))
    code, out, _ = cli("verify", labels, "--data", images)
    assert code == 1
    assert "an argument that it does not take" in out
    monkeypatch.delitem(OPERATIONS, ROLL.id)
    code, out, _ = cli("verify", labels, "--data", images)
    assert code == 1
    assert "an unknown op" in out
