"""Evaluate: top-1, top-5, negative log-likelihood and calibration of a classifier on a labelled source."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from reinforce.errors import SourceError
from reinforce.replay.drawn_labels import HardLabels
from reinforce.replay.epoch_views import FreshViews
from reinforce.replay.loader import batches
from reinforce.sources.source import Source
from reinforce.train.ranks import Ranks
from reinforce.views.policy_text import make_policy

_ECE_BINS = 15


class Validation:
    """A labelled source, whose images are resized and centre-cropped as in timm's evaluation.

    Args:
        source: The images; all their classes must be among `class_names`.
        class_names: Names of the student's outputs, in order; empty if they have no names.
        num_classes: C, the number of the student's outputs.
        size: Input size in pixels.
        crop_pct: Share of the resized image that the centre crop keeps.
        subset: Compare only the logits of classes that the source has, which is how ImageNet-R and -A are evaluated.

    Raises:
        SourceError: the source has no labels, or a class that the student does not have.
    """

    def __init__(
        self, source: Source, class_names: list[str], num_classes: int, size: int, crop_pct: float, subset: bool = False
    ) -> None:
        if source.labels is None:
            raise SourceError(f"{source.location} has no class folders to evaluate against.", fix="check --val")
        names = class_names or ([] if len(source.class_names) != num_classes else list(source.class_names))
        if not set(source.class_names) <= set(names) and _are_indices(source.class_names, num_classes):
            names = [str(c) for c in range(num_classes)]  # folders are named by class index, as in ImageNet-V2
        unknown = [n for n in source.class_names if n not in names]
        if unknown:
            raise SourceError(
                f"{source.location} has classes that the student does not learn.",
                found=f"{len(unknown)} of {len(source.class_names)}, such as {unknown[0]!r}",
                expected="class folders named as in the training data" if names else f"{num_classes} class folders",
                fix="check --val",
            )
        self.class_of = torch.tensor([names.index(n) for n in source.class_names])
        self.subset = self.class_of.sort().values if subset and len(self.class_of) < num_classes else None
        policy = make_policy({"name": "none", "crop_pct": crop_pct}, "none")
        labels = HardLabels(np.array(source.labels))
        self.views = FreshViews(source, np.arange(len(source)), labels, policy, size, num_classes)

    def batches(self, batch_size: int, workers: int, ranks: Ranks) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """This rank's part of the images: `(images uint8 [B, 3, size, size], labels int64 [B])` in index order."""
        order = np.array_split(np.arange(len(self.views)), ranks.world)[ranks.rank]
        plan = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        for images, targets in batches(self.views, plan, workers=workers, pin_memory=ranks.device.type == "cuda"):
            yield images, self.class_of[targets.hard]

    @torch.no_grad()
    def evaluate(
        self, logits_of: Callable[[torch.Tensor], torch.Tensor], ranks: Ranks, batch_size: int, workers: int
    ) -> dict[str, float]:
        """Metrics of a classifier.

        Args:
            logits_of: Function from images uint8 `[B, 3, H, W]` on the rank's device to logits `[B, C]`.
            ranks: The processes of the run; each evaluates its part, and all of them return the metrics of all images.
            batch_size: Images in a batch.
            workers: Number of decoding processes.

        Returns:
            `top1` and `top5` in percent, `nll` in nats, `ece` (15 equal bins of confidence) in percent.
        """
        sums = MetricSums(ranks.device)
        subset = None if self.subset is None else self.subset.to(ranks.device)
        for images, hard in self.batches(batch_size, workers, ranks):
            if self.subset is not None:
                hard = torch.searchsorted(self.subset, hard)
            logits = logits_of(images.to(ranks.device, non_blocking=True))
            sums.add(logits if subset is None else logits[:, subset], hard.to(ranks.device))
        return sums.metrics(len(self.views), ranks)


def _are_indices(names: Sequence[str], num_classes: int) -> bool:
    return all(n.isdecimal() and str(int(n)) == n and int(n) < num_classes for n in names)


class MetricSums:
    """The sums from which metrics are computed, added up on the device: the host does not wait, and no logits are kept.

    Args:
        device: Device of logits and labels.
    """

    def __init__(self, device: torch.device) -> None:
        # Correct images, images whose label is in the top five, negative log-likelihood; then per bin confidence minus correct.
        self.sums = torch.zeros(3 + _ECE_BINS, dtype=torch.float64, device=device)

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch: logits `[B, C]`, labels int64 `[B]`."""
        logits = logits.float()
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        confidence, predicted = logits.softmax(dim=1).max(dim=1)
        bins = (confidence * _ECE_BINS).long().clamp(0, _ECE_BINS - 1)  # 0: where NaN becomes a negative number
        self.sums[0] += top[:, 0].sum()
        self.sums[1] += top.any(dim=1).sum()
        self.sums[2] += F.cross_entropy(logits, labels, reduction="none").double().sum()
        self.sums[3:].index_add_(0, bins, confidence.double() - (predicted == labels).double())

    def metrics(self, count: int, ranks: Ranks) -> dict[str, float]:
        """Metrics over `count` images of all ranks; see `Validation.evaluate`."""
        top1, top5, nll, *gaps = (ranks.sum(self.sums) / count).tolist()
        return {"top1": 100 * top1, "top5": 100 * top5, "nll": nll, "ece": 100 * sum(map(abs, gaps))}


def classification_metrics(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Metrics of logits float `[N, C]` against labels int64 `[N]`; see `Validation.evaluate`."""
    sums = MetricSums(logits.device)
    sums.add(logits, labels)
    return sums.metrics(len(labels), Ranks(0, 1, logits.device))
