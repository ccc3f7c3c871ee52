"""Loader: plans which samples are in each batch of an epoch, and makes these batches.

The plan follows from the seed and the epoch alone, so a run resumes from the number of steps that are done. The two samples of
a mixed pair are always in the same batch, and so are all repeats of a sample; so each image of a batch is decoded only once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from reinforce.errors import UsageError
from reinforce.replay.epoch_views import Item, Views
from reinforce.replay.targets import Targets
from reinforce.views.mix import Mixing, mix
from reinforce.views.rescale import rescale_boxes
from reinforce.views.ring import InRing, Ring
from reinforce.views.seeds import epoch_order, group_order
from reinforce.views.workers import affordable, made_by_workers

WINDOW_GROUPS = 8
"""Number of groups (shards, or row groups of a table) whose samples are shuffled together."""

Batch = tuple[torch.Tensor, Targets]
"""`(images uint8 [B, 3, size, size], targets)`, on the CPU."""


def batch_plan(
    seed: int,
    epoch: int,
    num_samples: int,
    batch_size: int,
    partner: np.ndarray | None = None,
    repeats: int = 1,
    groups: np.ndarray | None = None,
    groups_at_once: int | None = None,
) -> list[np.ndarray]:
    """The samples of each batch of an epoch.

    With `repeats` R, an epoch visits one R-th of the samples and shows R views of each; R epochs together visit every sample
    once.

    Args:
        seed: Seed of the order.
        epoch: Number of the epoch.
        num_samples: N, the number of samples.
        batch_size: Most views in a batch; a batch may have a few more, so that both samples of a pair are in it.
        partner: The sample with which each sample is mixed, or the sample itself: int64 `[N]`; None: nothing is mixed.
        repeats: R, the number of views of a sample in its batch.
        groups: Group of each sample, int64 `[N]`: samples of one group lie together and are quick to read one after the other.
            The epoch visits the groups in random order and shuffles the samples of `WINDOW_GROUPS` groups together. None: all
            samples are shuffled together.
        groups_at_once: Shuffle the samples of at most this many groups together.

    Returns:
        Positions of the samples of each batch, int64, the two of a pair side by side; `ceil(N / batch_size)` batches of nearly
        the same size.
    """
    own = np.arange(num_samples)
    partner = own if partner is None else partner
    leaders = np.flatnonzero(partner >= own)
    order = epoch_order(seed, epoch // repeats, len(leaders))
    counted = np.append(0, np.cumsum(1 + (partner[leaders[order]] != leaders[order])))
    turns = np.searchsorted(counted, [end for _, end in _cuts(counted, repeats)[:-1]])
    turn = np.split(order, turns)[epoch % repeats]
    if groups is not None:
        number = np.unique(groups, return_inverse=True)[1]
        window = group_order(seed, epoch, int(number.max()) + 1) // min(WINDOW_GROUPS, groups_at_once or WINDOW_GROUPS)
        turn = turn[np.argsort(window[number[leaders[turn]]], kind="stable")]
    first = leaders[turn]
    second = partner[first]
    starts = np.concatenate([[0], np.cumsum(1 + (second != first))])  # where each pair or single sample starts in `order`
    order = np.empty(starts[-1], np.int64)
    order[starts[:-1]], order[starts[1:] - 1] = first, second
    return [order[a:b] for a, b in _cuts(starts, max(1, -(-num_samples // batch_size)))]


def partners(mixing: list[Mixing] | None) -> np.ndarray | None:
    """The sample that must be in one batch with each sample, int64 `[N]`: its partner in any repeat; None: nothing is mixed."""
    if not mixing:
        return None
    own = np.arange(len(mixing[0].partner))
    partner = own
    for each in mixing:
        partner = np.where(partner == own, each.partner, partner)
    return partner


def share_of_rank(samples: np.ndarray, partner: np.ndarray | None, rank: int, world: int) -> np.ndarray:
    """The samples of a batch that process `rank` of `world` takes: no pair is split, and the shares are nearly equal."""
    follows = np.zeros(len(samples), bool)  # the second member of a pair
    if partner is not None and len(samples) > 1:
        follows[1:] = (partner[samples[1:]] == samples[:-1]) & (samples[1:] != samples[:-1])
    starts = np.append(np.flatnonzero(~follows), len(samples))
    a, b = _cuts(starts, world)[rank]
    return samples[a:b]


def _cuts(starts: np.ndarray, parts: int) -> list[tuple[int, int]]:
    """Cut a sequence into `parts` of nearly equal length, but only between units (a pair or a single sample).

    Args:
        starts: Where each of n units starts, and the length of the sequence: int64 `[n + 1]`.
        parts: Number of parts.

    Returns:
        Start and end of each part.
    """
    length, rest = divmod(int(starts[-1]), parts)
    even = [k * length + min(k, rest) for k in range(parts + 1)]
    ends = starts[np.searchsorted(starts, even)].tolist()
    return list(pairwise(ends))


def least_share(num_samples: int, batch_size: int, *, mixing: bool, repeats: int, world: int = 1) -> int:
    """Views that every process has in every batch of every epoch, at the least; 0 or below: a process may have none.

    Each cut into nearly equal parts leaves the smallest part the quotient rounded down, less one if pairs stay whole.
    """
    samples = num_samples
    for parts in (repeats, max(1, -(-num_samples // batch_size)), world):
        samples = samples // parts - (mixing and parts > 1)
    return samples * repeats


def check_batch_size(num_samples: int, batch_size: int, *, mixing: bool, repeats: int, world: int = 1, views: int = 1) -> None:
    """Refuse batches of which a process may have fewer than `views` views: there is nothing to learn from, or no variance.

    Raises:
        UsageError: the batch size is too small, or there are too few images.
    """

    def least(size: int) -> int:
        return least_share(num_samples, size, mixing=mixing, repeats=repeats, world=world)

    if least(batch_size) >= views:
        return
    fits = next((size for size in range(batch_size, num_samples + 1) if least(size) >= views), None)
    shared = f" by {world} processes" if world > 1 else ""
    raise UsageError(
        f"A batch of {batch_size} is too small." if fits else "There are too few images.",
        found=f"{num_samples} images in batches of {batch_size}{shared}"
        + (f", {repeats} views of an image in one batch" if repeats > 1 else "")
        + (", pairs together" if mixing else ""),
        expected=f"{views} or more views in the smallest batch" + (" of each process" if world > 1 else ""),
        cause="batch normalisation, which needs two views for a variance" if least(batch_size) > 0 else None,
        fix=f"--batch-size {fits}" if fits else "more images, fewer processes or a smaller --aug-repeats",
    )


def batches(
    views: Views,
    plan: Sequence[np.ndarray],
    *,
    workers: int,
    sizes: Sequence[int | None] | None = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Make the batches of `plan`, in its order, with the views of the epoch that was chosen with `set_epoch`.

    With repeats, a batch has the first view of each of its samples, then the second view of each, and so on. `sizes` gives the
    size of each batch in pixels; None: the views' own size. With workers and without `pin_memory`, a batch stays valid until
    two more batches are requested; then its pixels are overwritten. To keep a batch for longer, clone it.

    Raises:
        ReinforceError: an error in a worker is raised again in this process.
        WorkerError: workers cannot be started, do not answer, or (`DeadWorkerError`) one was killed.
    """
    sizes = sizes or [None] * len(plan)
    workers = affordable(workers) if plan else 0
    ring = None
    if workers:
        side = max(size or views.size for size in sizes)
        ring = Ring(workers, max(map(len, plan)) * views.repeats * 3 * side**2)
    wanted = [[ring.slot(n) if ring else None, size, *b.tolist()] for n, (b, size) in enumerate(zip(plan, sizes, strict=True))]
    made = made_by_workers(_Batches(views, ring), wanted, workers=workers, location=views.location, pin_memory=pin_memory)
    with closing(made):
        for images, targets in made:
            yield (images.pixels() if isinstance(images, InRing) else images), targets


class _Batches(Dataset[tuple[torch.Tensor | InRing, Targets]]):
    """Makes batches."""

    def __init__(self, views: Views, ring: Ring | None = None) -> None:
        self.views = views
        self.ring = ring

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, wanted: list[Any]) -> tuple[torch.Tensor | InRing, Targets]:
        slot, size, *samples = wanted
        return self._batch(samples, size, slot)

    def _batch(self, samples: list[int], size: int | None, slot: int | None) -> tuple[torch.Tensor | InRing, Targets]:
        """The targets of a batch, and its images or their place in the ring."""
        by_sample = [self.views.items(sample, size) for sample in samples]
        items: list[Item] = [made[repeat] for repeat in range(len(by_sample[0])) for made in by_sample]
        hard = torch.tensor([item.hard for item in items])
        if not self.views.mixing:
            targets = Targets(hard, self.views.soft_labels(items), *_other_labels(items))
            return self._sent([item.image for item in items], slot), targets
        images = torch.stack([item.image for item in items])
        mixing = _in_batch(self.views.mixing, np.array(samples))
        mixing = mixing._replace(boxes=rescale_boxes(mixing.boxes, self.views.size, images.shape[-1]))
        mixed = torch.from_numpy(mix(images.numpy(), mixing))
        share = mixing.share(images.shape[-1])
        soft = self.views.soft_labels(items, mixing, share)
        targets = Targets(hard, soft, hard[torch.from_numpy(mixing.partner)], torch.from_numpy(share))
        return self._sent(list(mixed), slot), targets

    def _sent(self, images: list[torch.Tensor], slot: int | None) -> torch.Tensor | InRing:
        if self.ring is None or slot is None:
            return torch.stack(images)
        shape = (len(images), *images[0].shape)
        torch.stack(images, out=self.ring.view(slot, shape))
        return InRing(self.ring.key, slot, shape)


def _other_labels(items: list[Item]) -> list[torch.Tensor]:
    """Hard labels and shares of views that were mixed one-way when they were made; empty if they are not of such labels."""
    shares = [item.share for item in items if item.share is not None]
    return [torch.tensor([item.other for item in items]), torch.tensor(shares)] if shares else []


def _in_batch(mixing: list[Mixing], samples: np.ndarray) -> Mixing:
    """The mixing of a batch, with partners as positions in the batch."""
    order = np.argsort(samples)
    parts = []
    for repeat, each in enumerate(mixing):
        partner = order[np.searchsorted(samples[order], each.partner[samples])]
        parts.append(each.take(samples, repeat * len(samples) + partner))
    return Mixing(*map(np.concatenate, zip(*parts, strict=True)))
