"""Losses: computes the loss of a step from the student's outputs, the teacher's distributions and the hard labels.

A student with two heads (distilled models of DeiT and LeViT) gives two outputs: the class head learns the hard label, the
distillation head learns the teacher's label (arXiv 2012.12877). If the weight of hard labels is 0, both heads learn the
teacher's label; if there is no teacher, both learn the hard label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from reinforce.replay.targets import Targets

LOSSES = 2
"""Raised when a loss is computed in another way, so that no run goes on with another loss; 2: cosub and the discriminator."""
Outputs = torch.Tensor | tuple[torch.Tensor, torch.Tensor]
Parts = dict[str, torch.Tensor]


@dataclass(frozen=True)
class LossWeights:
    """The weights of the parts of the loss; fields of a recipe.

    Attributes:
        distill: Weight of the teacher's label.
        task: Weight of the hard label.
        smoothing: Label smoothing of the hard label.
        distill_type: `soft`: KL(teacher || student); `hard`: cross-entropy with the teacher's top class (DeiT).
        alpha: Share of the teacher in the target, the rest is the hard label; None: `distill` and `task` are used.
        alpha_ramp: Number of epochs in which that share rises from 0 to `alpha` (momentum distillation, arXiv 2107.07651).
        discriminator: Weight of the discriminator's loss (MEAL V2, arXiv 2009.08453).
        cosub: Whether two submodels of the student teach each other (arXiv 2212.04884); then the teacher's label is learnt by
            binary cross-entropy too.
    """

    distill: float = 1.0
    task: float = 0.0
    smoothing: float = 0.0
    distill_type: Literal["soft", "hard"] = "soft"
    alpha: float | None = None
    alpha_ramp: float = 0.0
    discriminator: float = 0.0
    cosub: bool = False

    def at(self, epochs: float) -> tuple[float, float]:
        """Weights of the teacher's label and of the hard label after `epochs` epochs."""
        if self.alpha is None:
            return self.distill, self.task
        share = self.alpha * (min(1.0, epochs / self.alpha_ramp) if self.alpha_ramp else 1.0)
        return share, 1.0 - share


def hard_loss(logits: torch.Tensor, target: Targets, smoothing: float) -> torch.Tensor:
    """Cross-entropy of logits float `[B, C]` with the hard labels, mixed like the images.

    The mean over the labels that are there; labels of -1 are ignored, and if there are no others, the loss is 0.
    """
    if target.other is None or target.share is None:
        sums = F.cross_entropy(logits, target.hard, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
        return sums / (target.hard >= 0).sum().clamp(min=1)
    total, count = logits.new_zeros(()), logits.new_zeros(())
    for labels, share in ((target.hard, target.share), (target.other, 1 - target.share)):
        each = F.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=smoothing, reduction="none")
        total, count = total + (share * each).sum(), count + (share * (labels >= 0)).sum()
    return total / count.clamp(min=torch.finfo(count.dtype).tiny)


def soft_loss(logits: torch.Tensor, soft: torch.Tensor, distill_type: str) -> torch.Tensor:
    """Mean over the batch of KL(teacher || student) at temperature 1, or cross-entropy with the teacher's top class."""
    if distill_type == "hard":
        return F.cross_entropy(logits, soft.argmax(dim=1))
    return F.kl_div(F.log_softmax(logits, dim=-1), soft, reduction="batchmean")


def mixed_one_hot(target: Targets, num_classes: int) -> torch.Tensor:
    """Hard labels as float `[B, C]`, mixed like the images; a row is zero if its sample has no label."""

    def rows(labels: torch.Tensor) -> torch.Tensor:
        return F.one_hot(labels.clamp(min=0), num_classes).float() * (labels >= 0)[:, None]

    if target.other is None or target.share is None:
        return rows(target.hard)
    return target.share[:, None] * rows(target.hard) + (1 - target.share)[:, None] * rows(target.other)


class Loss(nn.Module):
    """The loss that a step minimises; contains the discriminator if the recipe uses one.

    Args:
        weights: The weights of its parts.
        num_classes: C, the number of classes.
    """

    def __init__(self, weights: LossWeights, num_classes: int) -> None:
        super().__init__()
        self.weights = weights
        self.discriminator = Discriminator(num_classes) if weights.discriminator else None

    def forward(self, outputs: Outputs, soft: torch.Tensor | None, target: Targets, epochs: float = 0.0) -> Parts:
        """The loss and its parts.

        Args:
            outputs: Logits float `[B, C]`, or a pair: of the class head and of the distillation head; `2 B` rows with cosub.
            soft: The teacher's distributions, float32 `[B, C]`; None without a teacher.
            target: The hard labels.
            epochs: Number of epochs done, for the ramp of alpha.

        Returns:
            `loss`, `output` (logits `[B, C]`; with two heads their mean), and those of the parts `kd_loss`, `task_loss`,
            `discriminator_loss`, `cosub_loss` that the recipe uses.
        """
        heads = [o.float() for o in outputs] if isinstance(outputs, tuple) else [outputs.float()]
        if self.weights.cosub:
            return self._cosub(torch.stack(heads).mean(dim=0), soft, target)
        distill, task = self.weights.at(epochs) if soft is not None else (0.0, 1.0)
        parts: Parts = {"output": torch.stack(heads).mean(dim=0) if len(heads) > 1 else heads[0]}
        loss = heads[0].new_zeros(())
        two = len(heads) == 2
        if soft is not None:
            taught = heads[1:] if two and task else heads
            parts["kd_loss"] = torch.stack([soft_loss(h, soft, self.weights.distill_type) for h in taught]).mean()
            loss = loss + distill * parts["kd_loss"]
        if task:
            told = heads[:1] if two and soft is not None else heads
            parts["task_loss"] = torch.stack([hard_loss(h, target, self.weights.smoothing) for h in told]).mean()
            loss = loss + task * parts["task_loss"]
        if self.discriminator is not None and soft is not None:
            parts["discriminator_loss"] = self.discriminator(parts["output"], soft)
            loss = loss + self.weights.discriminator * parts["discriminator_loss"]
        return {"loss": loss, **parts}

    def _cosub(self, logits: torch.Tensor, soft: torch.Tensor | None, target: Targets) -> Parts:
        """The loss of two submodels, whose logits are the halves of `[2 B, C]`.

        All parts are the paper's binary cross-entropy, a mean over the C classes: with the hard label, with the probabilities
        of the other submodel, and with the teacher's label. KL(teacher || student) is a sum over the classes: beside this mean,
        its gradient is the larger by 10 to 14 times at 10 classes, and by 94 to 1,463 times at 1000.
        """
        first, second = logits.chunk(2)
        labels = mixed_one_hot(target, logits.shape[1])
        bce = F.binary_cross_entropy_with_logits
        told = bce(first, labels) + bce(second, labels)
        taught = bce(first, second.detach().sigmoid()) + bce(second, first.detach().sigmoid())
        parts: Parts = {"output": first, "cosub_loss": (told + taught) / 4}
        loss = parts["cosub_loss"]
        if soft is not None and self.weights.distill:
            parts["kd_loss"] = (bce(first, soft) + bce(second, soft)) / 2
            loss = loss + self.weights.distill * parts["kd_loss"]
        return {"loss": loss, **parts}


class Discriminator(nn.Module):
    """Learns to tell the student's distributions from the teacher's; the student learns to make them hard to tell apart.

    Layers of C, C/8, C/64 and 2 units with ReLU between them, as in MEAL V2's code (1000, 125, 15, 2); targets: student [1, 0],
    teacher [0, 1]; binary cross-entropy with logits. One loss trains both, because the gradient into the student is reversed
    (arXiv 1409.7495). Their code has a ReLU after the last layer too: then a quarter of the discriminators never learn.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        first = max(2, num_classes // 8)
        second = max(2, first // 8)
        self.layers = nn.Sequential(
            nn.Linear(num_classes, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, 2)
        )

    def forward(self, logits: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
        """Loss of a student's logits `[B, C]` against the teacher's distributions `[B, C]`."""
        probs = logits.softmax(dim=-1)
        reversed_ = 2 * probs.detach() - probs  # the same value, the opposite gradient
        judged = self.layers(torch.cat([reversed_, soft]))
        truth = torch.zeros_like(judged)
        truth[: len(probs), 0] = truth[len(probs) :, 1] = 1.0
        return F.binary_cross_entropy_with_logits(judged, truth)
