"""Loader: which samples an epoch visits in which order, and the loader that makes them.

Stateless: all of it follows from the seed, the epoch and the step, so a run resumes from one integer. The two members of a
pair that is mixed always stand in one batch, and so do all repeats of a sample, so that every image is decoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from reinforce.errors import ReinforceError, UsageError
from reinforce.replay.epoch_views import Item, Views
from reinforce.replay.ring import PREFETCH, InRing, Ring
from reinforce.replay.targets import Targets
from reinforce.views.mix import Mixing, mix
from reinforce.views.rescale import rescale_boxes
from reinforce.views.seeds import epoch_order, group_order
from reinforce.views.worker import start_worker

WINDOW_GROUPS = 8
"""Shards, or row groups of a table, whose samples are shuffled among each other."""

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

    With `repeats` R, an epoch visits one R-th of the samples, R views of each, and R epochs visit all of them once.

    Args:
        seed: Of the order.
        epoch: The epoch.
        num_samples: N.
        batch_size: Views in a batch, at most; a few more where a pair would be torn.
        partner: int64 `[N]`, the sample that each is mixed with, or itself; None: nothing is mixed.
        repeats: Views of a sample in its batch.
        groups: int64 `[N]`, which samples lie together and are quick to read one after the other: the epoch goes through the
            groups in random order and shuffles the samples of `WINDOW_GROUPS` of them at a time; None: all at once.
        groups_at_once: Shuffle the samples of at most so many groups at a time.

    Returns:
        Positions int64 of each batch, pairs side by side; `ceil(N / batch_size)` batches of nearly one size.
    """
    own = np.arange(num_samples)
    partner = own if partner is None else partner
    leaders = np.flatnonzero(partner >= own)
    turn = np.array_split(epoch_order(seed, epoch // repeats, len(leaders)), repeats)[epoch % repeats]
    if groups is not None:
        number = np.unique(groups, return_inverse=True)[1]
        window = group_order(seed, epoch, int(number.max()) + 1) // min(WINDOW_GROUPS, groups_at_once or WINDOW_GROUPS)
        turn = turn[np.argsort(window[number[leaders[turn]]], kind="stable")]
    first = leaders[turn]
    second = partner[first]
    starts = np.concatenate([[0], np.cumsum(1 + (second != first))])  # of each pair or single sample
    order = np.empty(starts[-1], np.int64)
    order[starts[:-1]], order[starts[1:] - 1] = first, second
    return [order[a:b] for a, b in _cuts(starts, max(1, -(-num_samples // batch_size)))]


def partners(mixing: list[Mixing] | None) -> np.ndarray | None:
    """Who must stand beside whom, int64 `[N]`: a pair that any of the repeats mixes; None: nothing is mixed."""
    if not mixing:
        return None
    own = np.arange(len(mixing[0].partner))
    partner = own
    for each in mixing:
        partner = np.where(partner == own, each.partner, partner)
    return partner


def share_of_rank(samples: np.ndarray, partner: np.ndarray | None, rank: int, world: int) -> np.ndarray:
    """What one of `world` processes takes of a batch: pairs whole, the rest as even as can be."""
    follows = np.zeros(len(samples), bool)  # the second member of a pair
    if partner is not None and len(samples) > 1:
        follows[1:] = (partner[samples[1:]] == samples[:-1]) & (samples[1:] != samples[:-1])
    starts = np.append(np.flatnonzero(~follows), len(samples))
    a, b = _cuts(starts, world)[rank]
    return samples[a:b]


def _cuts(starts: np.ndarray, parts: int) -> list[tuple[int, int]]:
    """Cut a row of things that start at `starts`, int64 `[n + 1]` with its end, into parts of nearly one length."""
    length, rest = divmod(int(starts[-1]), parts)
    even = [k * length + min(k, rest) for k in range(parts + 1)]
    ends = starts[np.searchsorted(starts, even)].tolist()
    return list(pairwise(ends))


def check_batch_size(batch_size: int, *, mixing: bool, repeats: int, world: int = 1) -> None:
    """Refuse batches that cannot hold what belongs together.

    Raises:
        UsageError: fewer views than that.
    """
    least = repeats * (4 if mixing else 1) * world
    if batch_size < least:
        raise UsageError(
            f"A batch of {batch_size} is too small.",
            found=f"{repeats} views of a sample" + (", mixed in pairs" if mixing else "") + f", {world} processes",
            expected=f"at least {least}",
            fix=f"--batch-size {least}",
        )


def batches(
    views: Views,
    plan: Sequence[np.ndarray],
    *,
    workers: int,
    sizes: Sequence[int | None] | None = None,
    pin_memory: bool = False,
) -> Iterator[Batch]:
    """Make the batches of `plan`, in its order, with the views of the epoch that was set.

    With repeats, a batch has the first view of each of its samples, then the second of each, and so on. `sizes` gives the
    size of each batch in pixels, where it is not the views' own. With workers and without `pin_memory`, a batch's pixels are
    overwritten after the second batch behind it is asked for: keep a clone, if any.

    Raises:
        ReinforceError: what a worker met, as if it had been met here.
    """
    sizes = sizes or [None] * len(plan)
    ring = None
    if workers and plan:
        side = max(size or views.size for size in sizes)
        ring = Ring(workers, max(map(len, plan)) * views.repeats * 3 * side**2)
    loader = DataLoader(
        _Batches(views, ring),
        batch_sampler=[
            [ring.slot(n) if ring else None, size, *b.tolist()] for n, (b, size) in enumerate(zip(plan, sizes, strict=True))
        ],
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=PREFETCH if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # its own: the global one belongs to the model and must not depend on resuming
    )
    for batch in loader:
        if isinstance(batch, ReinforceError):
            raise batch
        images, targets = batch
        yield (images.pixels() if isinstance(images, InRing) else images), targets


class _Batches(Dataset[Batch]):
    """Hands errors on as values: torch's loader would turn one raised in a worker into a traceback."""

    def __init__(self, views: Views, ring: Ring | None = None) -> None:
        self.views = views
        self.ring = ring

    def __len__(self) -> int:
        return len(self.views)

    def __getitems__(self, wanted: list[Any]) -> tuple[torch.Tensor | InRing, Targets] | ReinforceError:
        slot, size, *samples = wanted
        try:
            return self._batch(samples, size, slot)
        except ReinforceError as error:
            return error

    def _batch(self, samples: list[int], size: int | None, slot: int | None) -> tuple[torch.Tensor | InRing, Targets]:
        """Images, or where they are in the ring; and targets."""
        by_sample = [self.views.items(sample, size) for sample in samples]
        items: list[Item] = [made[repeat] for repeat in range(len(by_sample[0])) for made in by_sample]
        hard = torch.tensor([item.hard for item in items])
        if not self.views.mixing:
            return self._sent([item.image for item in items], slot), Targets(hard, self.views.soft_labels(items))
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


def _in_batch(mixing: list[Mixing], samples: np.ndarray) -> Mixing:
    """The matching of a batch, with partners as positions in it."""
    order = np.argsort(samples)
    parts = []
    for repeat, each in enumerate(mixing):
        partner = order[np.searchsorted(samples[order], each.partner[samples])]
        parts.append(each.take(samples, repeat * len(samples) + partner))
    return Mixing(*map(np.concatenate, zip(*parts, strict=True)))


def _as_it_is(batch: Any) -> Any:
    return batch
