"""What a batch costs, against the formulas written out in numpy and torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

from reinforce.replay.targets import Targets
from reinforce.train.losses import Loss, LossWeights, hard_loss, mixed_one_hot
from reinforce.train.tasks import ReplayTask
from tests.train.batch import CPU, C, batch, student

pytestmark = pytest.mark.unit


def log_softmax(logits: torch.Tensor) -> np.ndarray:
    values = logits.detach().numpy().astype(np.float64)
    values = values - values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_distillation_is_the_kl_divergence_in_nats_as_a_batch_mean(classes: int) -> None:
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


def gradient(of: torch.Tensor) -> torch.Tensor:
    assert of.grad is not None
    return of.grad


def test_the_gradient_of_distillation_is_that_of_soft_cross_entropy() -> None:
    _, logits, soft, hard = batch()
    a, b = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    ReplayTask(student(), LossWeights(), CPU).loss(a, soft, Targets(hard))["loss"].backward()
    (-(soft * F.log_softmax(b, dim=1)).sum(dim=1).mean()).backward()
    assert torch.allclose(gradient(a), gradient(b), atol=1e-7)
    assert torch.allclose(gradient(a), (logits.softmax(dim=1) - soft) / len(logits), atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_task_loss_is_added_with_its_weight(smoothing: float) -> None:
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
def test_the_hard_label_of_a_mixed_image_is_mixed_as_the_image_is(smoothing: float) -> None:
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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("mixed", [False, True])
def test_without_any_hard_label_the_hard_loss_and_its_gradient_are_zero(smoothing: float, mixed: bool) -> None:
    _, logits, soft, hard = batch()
    nothing = torch.full_like(hard, -1)
    target = Targets(nothing, None, nothing, torch.linspace(0, 1, len(hard))) if mixed else Targets(nothing)
    told, taught = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    loss = hard_loss(told, target, smoothing)
    loss.backward()
    assert loss == 0
    assert torch.equal(gradient(told), torch.zeros_like(logits))
    told.grad = None
    Loss(LossWeights(1.0, 0.5, smoothing), C)(told, soft, target)["loss"].backward()
    Loss(LossWeights(1.0, 0.0, smoothing), C)(taught, soft, target)["loss"].backward()
    assert torch.equal(gradient(told), gradient(taught))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_hard_loss_is_timms(smoothing: float) -> None:
    _, logits, _, hard = batch()
    assert torch.allclose(hard_loss(logits, Targets(hard), smoothing), LabelSmoothingCrossEntropy(smoothing)(logits, hard))
    other, share = hard.flip(0), 0.3
    mixed = mixup_target(hard, C, share, smoothing)  # the partner of i is B - 1 - i
    found = hard_loss(logits, Targets(hard, None, other, torch.full((len(hard),), share)), smoothing)
    assert torch.allclose(found, SoftTargetCrossEntropy()(logits, mixed))


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
    _, logits, soft, hard = batch(classes=1000)
    torch.manual_seed(0)
    loss = Loss(LossWeights(0.0, discriminator=1.0), 1000)
    assert loss.discriminator is not None
    linear = [m for m in loss.discriminator.layers if isinstance(m, torch.nn.Linear)]
    assert [tuple(m.weight.shape) for m in linear] == [(125, 1000), (15, 125), (2, 15)]  # as in MEAL V2's code
    student = logits.clone().requires_grad_()
    result = loss(student, soft, Targets(hard))
    judged = loss.discriminator.layers(torch.cat([logits.softmax(dim=1), soft]))
    truth = torch.tensor([[1.0, 0.0]] * len(logits) + [[0.0, 1.0]] * len(logits))
    assert torch.allclose(result["discriminator_loss"], F.binary_cross_entropy_with_logits(judged, truth))
    result["loss"].backward()
    weights = linear[0].weight
    with torch.no_grad():
        step = 1e-3
        weights -= step * gradient(weights) / gradient(weights).norm()
        better = loss(logits, soft, Targets(hard))["discriminator_loss"]
        assert better < result["discriminator_loss"]  # it tells them apart better
        worse = loss(logits - 1e-2 * gradient(student) / gradient(student).norm(), soft, Targets(hard))["discriminator_loss"]
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
    wanted = torch.cat([2 * one.sigmoid() - y - two.sigmoid(), 2 * two.sigmoid() - y - one.sigmoid()]) / (4 * y.numel())
    assert torch.allclose(gradient(both), wanted, atol=1e-6)  # the other's opinion is a constant
    together = Loss(LossWeights(distill=0.5, cosub=True), C)(both, soft, Targets(hard))
    kd = (BinaryCrossEntropy(smoothing=0.0)(one, soft) + BinaryCrossEntropy(smoothing=0.0)(two, soft)) / 2
    assert torch.allclose(together["loss"], expected + 0.5 * kd)
    assert torch.allclose(together["kd_loss"], kd)


@pytest.mark.parametrize("classes", [10, 1000])
@pytest.mark.parametrize("trained", [False, True])
def test_beside_two_submodels_the_teacher_pulls_about_as_hard_as_the_labels(classes: int, trained: bool) -> None:
    torch.manual_seed(0)
    hard, rows = torch.randint(0, classes, (64,)), torch.arange(64)
    taught = torch.randn(64, classes)
    taught[rows, hard] += 8
    # At the start all logits are small; later nearly all probabilities of a sigmoid are, about 1/C.
    logits = torch.randn(128, classes) * (1.0 if trained else 0.05) - (math.log(classes) if trained else 0.0)
    norms = []
    for part in ("cosub_loss", "kd_loss"):
        student = logits.clone().requires_grad_()
        Loss(LossWeights(cosub=True), classes)(student, taught.softmax(dim=1), Targets(hard))[part].backward()
        norms.append(float(gradient(student).norm()))
    assert 1 / 3 < norms[1] / norms[0] < 3


def test_mixed_hard_labels_are_distributions_and_absent_ones_are_nothing() -> None:
    hard, other = torch.tensor([0, 1, -1]), torch.tensor([2, 1, 0])
    rows = mixed_one_hot(Targets(hard, None, other, torch.tensor([0.25, 0.5, 0.5])), C)
    assert torch.allclose(rows, torch.tensor([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0], [0.5, 0.0, 0.0]]))
    assert torch.equal(mixed_one_hot(Targets(hard), C)[2], torch.zeros(C))
