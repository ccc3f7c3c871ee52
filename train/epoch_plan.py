"""Epoch plan: the batches of one epoch: their samples, the share of each process, their view size, and their update of weights.

The plan follows from seed and epoch alone, so a run can be resumed from the number of steps that are done.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reinforce.replay.epoch_views import Views
from reinforce.replay.loader import Batch, batch_plan, batches, partners, share_of_rank
from reinforce.train.config import TrainConfig
from reinforce.train.ranks import Ranks


class Update(NamedTuple):
    """An update of the weights, as seen from one of its steps; with accumulation it has several steps, one per batch.

    Attributes:
        number: Number of the update, counted from the start of the run.
        begin: The first step of the update, counted in the epoch.
        views: Number of views in all batches of the update, over all ranks.
        ends: Whether this step is the last one of the update.
    """

    number: int
    begin: int
    views: int
    ends: bool


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch.

    Attributes:
        epoch: Number of the epoch.
        batches: Samples of each batch, over all ranks.
        partner: The sample that must be in one batch with each sample; None: nothing is mixed.
        sizes: Height and width of the views of each batch in pixels.
        repeats: Number of views of a sample in its batch.
        accumulate: Number of batches of an update.
    """

    epoch: int
    batches: list[np.ndarray]
    partner: np.ndarray | None
    sizes: list[int]
    repeats: int
    accumulate: int

    @classmethod
    def of(cls, config: TrainConfig, views: Views, size: int, epoch: int) -> EpochPlan:
        """Set the epoch of `views` and plan it."""
        recipe = config.recipe
        repeats = recipe.repeats_at(epoch)
        views.set_epoch(epoch, repeats)
        partner = partners(views.mixing)
        shape = (config.seed, epoch, len(views), recipe.batch_size)
        found = batch_plan(*shape, partner, repeats, views.groups, views.groups_at_once)
        turns = config.sizes or (size,)
        sizes = [turns[(epoch * len(found) + step) % len(turns)] for step in range(len(found))]
        return cls(epoch, found, partner, sizes, repeats, config.grad_accum_steps)

    @property
    def steps(self) -> int:
        """Number of batches of the epoch."""
        return len(self.batches)

    @property
    def updates(self) -> int:
        """Number of updates of the weights in the epoch."""
        return -(-self.steps // self.accumulate)

    def views_of(self, first: int, stop: int) -> int:
        """Number of views in the batches from `first` up to, not including, `stop`, over all ranks."""
        return self.repeats * sum(map(len, self.batches[first:stop]))

    def update_of(self, step: int) -> Update:
        """The update to which a step belongs."""
        begin = step // self.accumulate * self.accumulate
        ends = (step + 1) % self.accumulate == 0 or step + 1 == self.steps
        number = self.epoch * self.updates + step // self.accumulate
        return Update(number, begin, self.views_of(begin, begin + self.accumulate), ends)

    def load(self, views: Views, ranks: Ranks, first_step: int, workers: int) -> Iterator[tuple[int, Batch]]:
        """The steps from `first_step` on: the number of each step and this rank's share of its batch."""
        mine = [share_of_rank(samples, self.partner, ranks.rank, ranks.world) for samples in self.batches[first_step:]]
        sizes, on_cuda = self.sizes[first_step:], ranks.device.type == "cuda"
        return enumerate(batches(views, mine, workers=workers, sizes=sizes, pin_memory=on_cuda), start=first_step)
