"""Tasks: what each of them learns from, how its images are normalised, and targets that keep their values when moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from timm.task import TrainingTask

from reinforce.errors import DataError
from reinforce.labels.sparse import SparseLabel, SparseLabels
from reinforce.replay.targets import Targets
from reinforce.teachers.models import create
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher import Teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.train.losses import LossWeights
from reinforce.train.tasks import OnlineTask, PlainTask, ReplayTask, StudentTask
from tests.conftest import SIZE
from tests.train.batch import CPU, C, batch, student

pytestmark = pytest.mark.unit


def sparse(soft: torch.Tensor) -> SparseLabels:
    rows = [SparseLabel(np.arange(len(p)), p.numpy(), 0.0) for p in soft]
    return SparseLabels.stack(rows, soft.shape[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_plain_task_is_cross_entropy_with_smoothing(smoothing: float) -> None:
    images, _, _, hard = batch()
    task = PlainTask(student(), LossWeights(smoothing=smoothing), CPU).eval()
    result = task(images, Targets(hard))
    assert torch.equal(result["loss"], F.cross_entropy(result["output"], hard, label_smoothing=smoothing))
    assert torch.equal(result["output"], task.trainable_module(task.normalise(images)))


def test_the_plain_task_ignores_soft_labels_and_the_replaying_one_needs_them() -> None:
    images, _, soft, hard = batch()
    plain = PlainTask(student(), LossWeights(), CPU).eval()
    assert torch.equal(plain(images, Targets(hard, sparse(soft)))["loss"], plain(images, Targets(hard))["loss"])
    with pytest.raises(DataError, match="needs soft labels"):
        ReplayTask(student(), LossWeights(), CPU)(images, Targets(hard))


def test_the_replaying_task_learns_the_dense_form_of_the_stored_labels() -> None:
    images, _, _, hard = batch(rows=2)
    rows = [
        SparseLabel(np.array([2]), np.array([0.7], np.float32), 0.3),
        SparseLabel(np.array([0, 1]), np.array([0.5, 0.25], np.float32), 0.25),
    ]
    task = ReplayTask(student(), LossWeights(), CPU).eval()
    result = task(images, Targets(hard[:2], SparseLabels.stack(rows, C)))
    dense = torch.tensor([[0.15, 0.15, 0.7], [0.5, 0.25, 0.25]])
    assert torch.allclose(result["loss"], task.loss(result["output"], dense, Targets(hard[:2]))["loss"])


def test_the_online_task_learns_what_the_live_teacher_says_of_the_same_pixels(teacher: Teacher) -> None:
    images, _, _, hard = batch()
    task = OnlineTask(student(), teacher, LossWeights(), CPU).eval()
    result = task(images, Targets(hard))
    assert torch.equal(result["loss"], task.loss(result["output"], teacher(images), Targets(hard))["loss"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_live_teacher_keeps_its_own_precision_beside_a_student_with_mixed_precision(weights: Path, precision: str) -> None:
    images, _, _, hard = batch()
    live = load_teacher(
        [TeacherSpec("test_resnet", weights)], size=SIZE, class_names=[], class_map=None, device=CPU, precision=precision
    )
    task = OnlineTask(student(), live, LossWeights(), CPU).eval()
    alone = live(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(task.soft_of(images, Targets(hard)), alone)
        logits = task(images, Targets(hard))["output"]
    assert not torch.equal(logits, task(images, Targets(hard))["output"])  # the student's precision is another one
    timms = timm.create_model("test_resnet", num_classes=C).eval()
    timms.load_state_dict(load_file(weights))
    mean, std = (255 * torch.tensor(timms.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        exact = timms((images.float() - mean) / std).softmax(dim=1)
    assert torch.equal(alone, exact) == (precision == "fp32")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_images_are_normalised_by_the_students_own_mean_and_std(name: str) -> None:
    images, *_ = batch()
    model = student(name)
    config = model.pretrained_cfg
    mean, std = (np.array(config[k]).reshape(1, 3, 1, 1) for k in ("mean", "std"))
    normalised = PlainTask(model, LossWeights(), CPU).normalise(images)
    assert normalised.dtype == torch.float32
    assert np.allclose(normalised.numpy(), (images.numpy() / 255.0 - mean) / std, atol=1e-5)


def test_students_with_different_normalisation_are_told_apart() -> None:
    images, *_ = batch()
    a, b = (PlainTask(student(n), LossWeights(), CPU).normalise(images) for n in ("test_vit", "test_efficientnet"))
    assert not torch.allclose(a, b, atol=1e-2)


def test_the_student_gets_the_normalised_view() -> None:
    images, _, soft, hard = batch()
    task = ReplayTask(student(), LossWeights(), CPU)
    inputs = []
    task.trainable_module.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    task(images, Targets(hard, sparse(soft)))
    assert torch.equal(inputs[0], task.normalise(images))


@pytest.mark.parametrize("kind", [PlainTask, ReplayTask, OnlineTask])
def test_tasks_are_timms(kind: Any, teacher: Teacher) -> None:
    assert issubclass(kind, StudentTask)
    assert issubclass(kind, TrainingTask)
    model = student()
    task = kind(model, teacher, LossWeights(), CPU) if kind is OnlineTask else kind(model, LossWeights(), CPU)
    assert task.get_trainable_module() is model
    assert task.get_checkpoint_state()["state_dict"].keys() == model.state_dict().keys()
    assert {id(p) for p in task.parameters() if p.requires_grad} == {id(p) for p in model.parameters()}
    task.setup_ema(decay=0.5)
    assert task.get_checkpoint_state(ema=True)["state_dict_ema"].keys() == model.state_dict().keys()


def test_the_teacher_stays_in_evaluation_mode_and_learns_nothing(teacher: Teacher) -> None:
    images, _, _, hard = batch()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    labels = teacher(images)
    task = OnlineTask(student(), teacher, LossWeights(), CPU)
    task.train()
    assert task.trainable_module.training
    assert not any(module.training for module in teacher.modules())
    result = task(images, Targets(hard))
    result["loss"].backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad is not None for p in task.trainable_module.parameters())
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert torch.equal(teacher(images), labels)
    task.eval()
    assert not task.trainable_module.training


def test_targets_keep_their_values_when_moved() -> None:
    _, _, soft, hard = batch()
    labels = sparse(soft)
    moved = Targets(hard, labels).to(CPU)
    assert torch.equal(moved.hard, hard)
    assert torch.equal(moved.soft.dense(), soft)
    assert moved.soft.num_classes == C
    assert Targets(hard).to(CPU).soft is None
    other = labels.to("meta")
    for name in ("class_ids", "probs", "remainder"):
        assert getattr(other, name).device.type == "meta"
        assert getattr(other, name).dtype == getattr(labels, name).dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_targets_keep_their_values_on_a_gpu_and_when_pinned() -> None:
    _, _, soft, hard = batch()
    pinned = Targets(hard, sparse(soft)).pin_memory()
    assert pinned.hard.is_pinned()
    assert pinned.soft.probs.is_pinned()
    moved = pinned.to(torch.device("cuda"), non_blocking=True)
    assert torch.equal(moved.hard.cpu(), hard)
    assert torch.equal(moved.soft.dense().cpu(), soft)


def test_cosub_passes_the_batch_twice_with_different_paths_dropped() -> None:
    images, _, soft, hard = batch()
    torch.manual_seed(0)
    model = create("test_vit", weights=None, size=SIZE, kwargs={"num_classes": C, "drop_path_rate": 0.5}, pretrained=False)
    task = ReplayTask(model, LossWeights(cosub=True), CPU).train()
    passed = []
    model.register_forward_hook(lambda module, inputs, output: passed.append(output.detach()))
    result = task(images, Targets(hard, sparse(soft)))
    assert [len(p) for p in passed] == [12]
    assert not torch.allclose(*passed[0].chunk(2))
    assert result["output"].shape == (6, C)
    assert {"cosub_loss", "kd_loss"} <= result.keys()
