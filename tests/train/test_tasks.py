"""What a batch costs, against the formulas written out in numpy, and the metrics against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.task import TrainingTask

from reinforce.errors import DataError
from reinforce.labels.sparse import SparseLabel, SparseLabels
from reinforce.replay.targets import Targets
from reinforce.teachers.models import create
from reinforce.train.evaluate import classification_metrics
from reinforce.train.losses import Loss, LossWeights, hard_loss, mixed_one_hot
from reinforce.train.tasks import OnlineTask, PlainTask, ReplayTask, StudentTask
from tests.conftest import CLASSES, SIZE

CPU = torch.device("cpu")
C = len(CLASSES)


def student(name: str = "test_resnet", classes: int = C) -> torch.nn.Module:
    torch.manual_seed(0)
    return create(name, weights=None, size=SIZE, kwargs={"num_classes": classes}, pretrained=False)


def batch(rows: int = 6, classes: int = C, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, logits, soft labels (one of them certain) and hard labels."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (rows, 3, SIZE, SIZE), dtype=np.uint8))
    logits = torch.from_numpy(rng.normal(0, 3, (rows, classes)).astype(np.float32))
    soft = torch.from_numpy(rng.dirichlet(np.full(classes, 0.4), rows).astype(np.float32))
    soft[0] = F.one_hot(torch.tensor(1), classes)
    return images, logits, soft, torch.from_numpy(rng.integers(0, classes, rows))


def log_softmax(logits: torch.Tensor) -> np.ndarray:
    values = logits.detach().numpy().astype(np.float64)
    values = values - values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


def sparse(soft: torch.Tensor) -> SparseLabels:
    rows = [SparseLabel(np.arange(len(p)), p.numpy(), 0.0) for p in soft]
    return SparseLabels.stack(rows, soft.shape[1])


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_distillation_is_the_kl_divergence_in_nats_as_a_batch_mean(classes) -> None:
    task = ReplayTask(student(), LossWeights(distill=0.7), CPU)
    _, logits, soft, hard = batch(classes=classes)
    p = soft.numpy().astype(np.float64)
    kl = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - log_softmax(logits)), 0).sum(axis=1).mean()
    result = task.loss(logits, soft, Targets(hard))
    assert float(result["kd_loss"]) == pytest.approx(kl, rel=1e-5)
    assert float(result["loss"]) == pytest.approx(0.7 * kl, rel=1e-5)
    assert result["output"] is logits
    assert "task_loss" not in result


def test_distillation_of_the_teachers_own_distribution_costs_nothing() -> None:
    _, logits, _, hard = batch()
    result = ReplayTask(student(), LossWeights(), CPU).loss(logits, logits.softmax(dim=1), Targets(hard))
    assert abs(float(result["loss"])) < 1e-6


def test_the_gradient_of_distillation_is_that_of_soft_cross_entropy() -> None:
    _, logits, soft, hard = batch()
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ReplayTask(student(), LossWeights(), CPU).loss(a, soft, Targets(hard))["loss"].backward()
    (-(soft * F.log_softmax(b, dim=1)).sum(dim=1).mean()).backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-7)
    assert torch.allclose(a.grad, (logits.softmax(dim=1) - soft) / len(logits), atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_task_loss_is_added_with_its_weight(smoothing) -> None:
    _, logits, soft, hard = batch()
    alone = ReplayTask(student(), LossWeights(), CPU).loss(logits, soft, Targets(hard))["loss"]
    result = ReplayTask(student(), LossWeights(1.0, 0.25, smoothing), CPU).loss(logits, soft, Targets(hard))
    logp = log_softmax(logits)
    target = (1 - smoothing) * np.eye(C)[hard.numpy()] + smoothing / C
    assert float(result["task_loss"]) == pytest.approx(-(target * logp).sum(axis=1).mean(), rel=1e-5)
    assert float(result["loss"]) == pytest.approx(float(alone) + 0.25 * float(result["task_loss"]), rel=1e-6)


def test_hard_labels_alone_can_be_learnt_beside_stored_ones() -> None:
    _, logits, soft, hard = batch()
    result = ReplayTask(student(), LossWeights(0.0, 1.0), CPU).loss(logits, soft, Targets(hard))
    assert torch.equal(result["loss"], F.cross_entropy(logits, hard))


def test_samples_without_a_hard_label_do_not_count_in_the_hard_loss() -> None:
    _, logits, soft, hard = batch()
    some = hard.clone()
    some[[1, 4]] = -1
    task = ReplayTask(student(), LossWeights(1.0, 0.5), CPU)
    result = task.loss(logits, soft, Targets(some))
    keep = some >= 0
    assert torch.allclose(result["task_loss"], F.cross_entropy(logits[keep], hard[keep]))
    assert torch.equal(result["kd_loss"], task.loss(logits, soft, Targets(hard))["kd_loss"])


def test_without_a_weight_of_their_own_hard_labels_may_be_absent() -> None:
    _, logits, soft, hard = batch()
    result = ReplayTask(student(), LossWeights(), CPU).loss(logits, soft, Targets(torch.full_like(hard, -1)))
    assert torch.isfinite(result["loss"])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_plain_task_is_cross_entropy_with_smoothing(smoothing) -> None:
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


def test_the_online_task_learns_what_the_live_teacher_says_of_the_same_pixels(teacher) -> None:
    images, _, _, hard = batch()
    task = OnlineTask(student(), teacher, LossWeights(), CPU).eval()
    result = task(images, Targets(hard))
    assert torch.equal(result["loss"], task.loss(result["output"], teacher(images), Targets(hard))["loss"])


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_efficientnet"])
def test_images_are_normalised_by_the_students_own_mean_and_std(name) -> None:
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
def test_tasks_are_timms(kind, teacher) -> None:
    assert issubclass(kind, StudentTask)
    assert issubclass(kind, TrainingTask)
    model = student()
    task = kind(model, teacher, LossWeights(), CPU) if kind is OnlineTask else kind(model, LossWeights(), CPU)
    assert task.get_trainable_module() is model
    assert task.get_checkpoint_state()["state_dict"].keys() == model.state_dict().keys()
    assert {id(p) for p in task.parameters() if p.requires_grad} == {id(p) for p in model.parameters()}
    task.setup_ema(decay=0.5)
    assert task.get_checkpoint_state(ema=True)["state_dict_ema"].keys() == model.state_dict().keys()


def test_the_teacher_stays_in_evaluation_mode_and_learns_nothing(teacher) -> None:
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


def logits_of(probs: list[list[float]]) -> torch.Tensor:
    return torch.tensor(probs).log()


def test_metrics_are_those_counted_by_hand() -> None:
    logits = logits_of([[0.82, 0.10, 0.08], [0.82, 0.10, 0.08], [0.25, 0.50, 0.25], [0.04, 0.06, 0.90]])
    metrics = classification_metrics(logits, torch.tensor([0, 1, 1, 2]))
    assert metrics["top1"] == 75.0
    assert metrics["top5"] == 100.0  # three classes only
    assert metrics["nll"] == pytest.approx(-np.log([0.82, 0.10, 0.50, 0.90]).mean(), rel=1e-5)
    # bin of 0.82: half are right; bin of 0.5 and bin of 0.9: all are
    assert metrics["ece"] == pytest.approx(100 * (2 / 4 * abs(0.82 - 0.5) + 1 / 4 * 0.5 + 1 / 4 * 0.1), rel=1e-5)


def test_errors_within_a_bin_cancel_and_across_bins_do_not() -> None:
    same = classification_metrics(logits_of([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
    assert same["ece"] == pytest.approx(0.0, abs=1e-4)
    # 0.9 wrong and 0.6 right: too sure and not sure enough by 0.9 and 0.4
    apart = classification_metrics(logits_of([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([1, 0]))
    assert apart["ece"] == pytest.approx(100 * (0.5 * 0.9 + 0.5 * 0.4), rel=1e-5)


def test_calibration_is_measured_in_fifteen_equal_bins() -> None:
    right_and_wrong = torch.tensor([0, 1])
    within = classification_metrics(logits_of([[0.61, 0.39], [0.65, 0.35]]), right_and_wrong)  # both in 9/15 to 10/15
    across = classification_metrics(logits_of([[0.66, 0.34], [0.67, 0.33]]), right_and_wrong)  # either side of 10/15
    assert within["ece"] == pytest.approx(100 * abs((0.61 + 0.65) / 2 - 0.5), rel=1e-4)
    assert across["ece"] == pytest.approx(100 * (0.5 * (1 - 0.66) + 0.5 * 0.67), rel=1e-4)


def test_a_classifier_that_is_right_and_certain_is_perfect() -> None:
    labels = torch.tensor([0, 5, 9])
    metrics = classification_metrics(100.0 * F.one_hot(labels, 10), labels)
    assert metrics == pytest.approx({"top1": 100.0, "top5": 100.0, "nll": 0.0, "ece": 0.0}, abs=1e-6)


def test_top5_counts_the_five_highest() -> None:
    logits = torch.arange(10.0).repeat(10, 1)
    metrics = classification_metrics(logits, torch.arange(10))
    assert metrics["top1"] == pytest.approx(10.0)
    assert metrics["top5"] == pytest.approx(50.0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_hard_label_of_a_mixed_image_is_mixed_as_the_image_is(smoothing) -> None:
    _, logits, _, hard = batch()
    other, share = hard.roll(1), torch.linspace(0, 1, len(hard))
    classes = logits.shape[1]
    own, theirs = (F.one_hot(h, classes) * (1 - smoothing) + smoothing / classes for h in (hard, other))
    mixed = share[:, None] * own + (1 - share)[:, None] * theirs
    expected = -(mixed * logits.log_softmax(dim=1)).sum(dim=1).mean()
    assert torch.allclose(hard_loss(logits, Targets(hard, None, other, share), smoothing), expected)
    assert torch.allclose(
        hard_loss(logits, Targets(hard, None, other, torch.ones(len(hard))), smoothing),
        hard_loss(logits, Targets(hard), smoothing),
    )


def test_a_partner_without_a_hard_label_does_not_count() -> None:
    _, logits, _, hard = batch()
    nothing = torch.full_like(hard, -1)
    share = torch.full((len(hard),), 0.25)
    assert torch.allclose(hard_loss(logits, Targets(hard, None, nothing, share), 0.0), hard_loss(logits, Targets(hard), 0.0))
    assert hard_loss(logits, Targets(nothing, None, nothing, share), 0.0) == 0


def test_hard_distillation_is_cross_entropy_with_the_teachers_top_class() -> None:
    _, logits, soft, hard = batch()
    result = Loss(LossWeights(0.5, 0.5, distill_type="hard"), C)(logits, soft, Targets(hard))
    expected = 0.5 * F.cross_entropy(logits, soft.argmax(dim=1)) + 0.5 * F.cross_entropy(logits, hard)
    assert torch.allclose(result["loss"], expected)


def test_of_two_heads_one_learns_the_hard_label_and_one_the_teachers() -> None:
    _, logits, soft, hard = batch()
    other = logits.flip(1)
    result = Loss(LossWeights(0.7, 0.3), C)((logits, other), soft, Targets(hard))
    kd = F.kl_div(other.log_softmax(dim=1), soft, reduction="batchmean")
    assert torch.allclose(result["loss"], 0.7 * kd + 0.3 * F.cross_entropy(logits, hard))
    assert torch.equal(result["output"], (logits + other) / 2)
    alone = Loss(LossWeights(), C)((logits, other), soft, Targets(hard))["loss"]
    assert torch.allclose(alone, (kd + F.kl_div(logits.log_softmax(dim=1), soft, reduction="batchmean")) / 2)
    plain = Loss(LossWeights(), C)((logits, other), None, Targets(hard))["loss"]
    assert torch.allclose(plain, (F.cross_entropy(logits, hard) + F.cross_entropy(other, hard)) / 2)


def test_the_share_of_the_teacher_rises_by_a_ramp_and_the_target_stays_a_distribution() -> None:
    _, logits, soft, hard = batch()
    loss = Loss(LossWeights(alpha=0.4, alpha_ramp=2.0), C)
    for epochs, share in ((0.0, 0.0), (1.0, 0.2), (2.0, 0.4), (7.0, 0.4)):
        target = share * soft + (1 - share) * F.one_hot(hard, C)
        cross_entropy = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
        entropy = torch.special.entr(soft).sum(dim=1).mean()
        found = loss(logits, soft, Targets(hard), epochs)["loss"]
        assert torch.allclose(found, cross_entropy - share * entropy, atol=1e-6)
    assert LossWeights(alpha=0.4).at(0.0) == (0.4, 0.6)


def test_the_discriminator_learns_to_tell_and_the_student_to_be_taken_for_the_teacher() -> None:
    _, logits, soft, hard = batch(classes=40)
    torch.manual_seed(0)
    loss = Loss(LossWeights(0.0, discriminator=1.0), 40)
    assert [tuple(m.weight.shape) for m in loss.discriminator.layers[::2]] == [(20, 40), (10, 20), (2, 10)]
    student = logits.clone().requires_grad_()
    result = loss(student, soft, Targets(hard))
    judged = loss.discriminator.layers(torch.cat([logits.softmax(dim=1), soft]))
    truth = torch.tensor([[1.0, 0.0]] * len(logits) + [[0.0, 1.0]] * len(logits))
    assert torch.allclose(result["discriminator_loss"], F.binary_cross_entropy_with_logits(judged, truth))
    result["loss"].backward()
    weights = loss.discriminator.layers[0].weight
    with torch.no_grad():
        step = 1e-3
        weights -= step * weights.grad / weights.grad.norm()
        better = loss(logits, soft, Targets(hard))["discriminator_loss"]
        assert better < result["discriminator_loss"]  # it tells them apart better
        worse = loss(logits - 1e-2 * student.grad / student.grad.norm(), soft, Targets(hard))["discriminator_loss"]
        assert worse > better  # and the student makes that harder


def test_two_submodels_learn_the_label_and_each_other() -> None:
    _, logits, soft, hard = batch()
    one, two = logits, logits.flip(1)
    y, bce = F.one_hot(hard, C).float(), F.binary_cross_entropy_with_logits
    both = torch.cat([one, two]).requires_grad_()
    result = Loss(LossWeights(cosub=True), C)(both, None, Targets(hard))
    expected = (bce(one, y) + bce(two, y) + bce(one, two.sigmoid()) + bce(two, one.sigmoid())) / 4
    assert torch.allclose(result["loss"], expected)
    result["loss"].backward()
    gradient = torch.cat([2 * one.sigmoid() - y - two.sigmoid(), 2 * two.sigmoid() - y - one.sigmoid()]) / (4 * y.numel())
    assert torch.allclose(both.grad, gradient, atol=1e-6)  # the other's opinion is a constant
    together = Loss(LossWeights(distill=0.5, cosub=True), C)(both, soft, Targets(hard))
    kd = sum(F.kl_div(x.log_softmax(dim=1), soft, reduction="batchmean") for x in (one, two)) / 2
    assert torch.allclose(together["loss"], expected + 0.5 * kd)


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


def test_mixed_hard_labels_are_distributions_and_absent_ones_are_nothing() -> None:
    hard, other = torch.tensor([0, 1, -1]), torch.tensor([2, 1, 0])
    rows = mixed_one_hot(Targets(hard, None, other, torch.tensor([0.25, 0.5, 0.5])), C)
    assert torch.allclose(rows, torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0]]))
    assert torch.equal(mixed_one_hot(Targets(hard), C)[2], torch.zeros(C))
