"""Batches: which samples an epoch visits in which order, and the loader that makes them.

Stateless: all of it follows from the seed, the epoch and the step, so a run resumes from one integer.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from reinforce.apply import apply
from reinforce.decode import decode
from reinforce.draw import draw
from reinforce.errors import DataError, ImageError, ReinforceError
from reinforce.policy import NonePolicy, RRCPolicy, RRCRandAugmentPolicy
from reinforce.replay import ReinforcedDataset
from reinforce.seeds import epoch_order, fresh_view_rng
from reinforce.source import ImageFolder
from reinforce.sparse import SparseLabel, SparseLabels
from reinforce.train.tasks import Targets

Item = tuple[torch.Tensor, SparseLabel | None, int]
"""`(view uint8 [3, size, size], sparse soft label or None, hard label or -1)`."""


class Views(Protocol):
    """What a loader needs: samples that know their view of an epoch."""

    @property
    def num_classes(self) -> int: ...
    def __len__(self) -> int: ...
    def set_epoch(self, epoch: int) -> None: ...
    def item(self, index: int) -> Item: ...


@dataclass
class ReplayedViews:
    """The stored views and labels."""

    dataset: ReinforcedDataset

    @property
    def num_classes(self) -> int:
        return self.dataset.num_classes

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int) -> None:
        self.dataset.set_epoch(epoch)

    def item(self, index: int) -> Item:
        return self.dataset.sparse_item(index)


@dataclass
class FreshViews:
    """Views drawn anew in every epoch, without labels of a teacher.

    Attributes:
        source: The images.
        samples: Positions in the source: int64 `[N]`.
        labels: Hard label of each of them, -1 where there is none: int64 `[N]`.
    """

    source: ImageFolder
    samples: np.ndarray
    labels: np.ndarray
    policy: NonePolicy | RRCPolicy | RRCRandAugmentPolicy
    size: int
    num_classes: int
    seed: int = 0
    epoch: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def item(self, index: int) -> Item:
        position = int(self.samples[index])
        try:
            image = decode(self.source.read(position))
        except (OSError, ImageError) as error:
            reason = error.what if isinstance(error, ImageError) else error.strerror
            fix = "remove or replace the image; `reinforce generate` notes such images and goes on"
            raise DataError(f"Image {self.source.keys[position]} cannot be used.", found=reason, fix=fix) from None
        rng = fresh_view_rng(self.seed, position, self.epoch)
        params = draw(rng, self.policy, self.size, image.shape[1], image.shape[0])
        return apply(image, params, self.policy.spec(self.size)), None, int(self.labels[index])


class _Guarded(Dataset[Item | ReinforceError]):
    """Hands errors on as values: torch's loader would turn one raised in a worker into a traceback."""

    def __init__(self, views: Views) -> None:
        self.views = views

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> Item | ReinforceError:
        try:
            return self.views.item(int(index))
        except ReinforceError as error:
            return error


def batch_plan(seed: int, epoch: int, num_samples: int, batch_size: int) -> list[np.ndarray]:
    """The batches of an epoch: every sample once, in batches that differ in size by one at most."""
    order = epoch_order(seed, epoch, num_samples)
    return np.array_split(order, max(1, -(-num_samples // batch_size)))


def batches(
    views: Views, plan: list[np.ndarray], *, workers: int, pin_memory: bool = False
) -> Iterator[tuple[torch.Tensor, Targets]]:
    """Make the batches of `plan`, in its order, with the views of the epoch that was set.

    Yields:
        `(images uint8 [B, 3, size, size], targets)`, on the CPU.

    Raises:
        ReinforceError: what a worker met, as if it had been met here.
    """
    loader = DataLoader(
        _Guarded(views),
        batch_sampler=[b.tolist() for b in plan],
        collate_fn=_Collate(views.num_classes),
        num_workers=workers,
        pin_memory=pin_memory,
        worker_init_fn=_ignore_interrupts,
        generator=torch.Generator(),  # its own: the global one belongs to the model and must not depend on resuming
    )
    for batch in loader:
        if isinstance(batch, ReinforceError):
            raise batch
        yield batch


@dataclass(frozen=True)
class _Collate:
    num_classes: int

    def __call__(self, items: list[Item | ReinforceError]) -> tuple[torch.Tensor, Targets] | ReinforceError:
        good: list[Item] = []
        for item in items:
            if isinstance(item, ReinforceError):
                return item
            good.append(item)
        rows = [row for _, row, _ in good if row is not None]
        soft = SparseLabels.stack(rows, self.num_classes) if rows else None
        images = torch.stack([image for image, _, _ in good])
        return images, Targets(torch.tensor([label for _, _, label in good]), soft)


def _ignore_interrupts(worker: int) -> None:
    # Ctrl-C reaches the whole process group; the parent finishes its step and stops the workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
