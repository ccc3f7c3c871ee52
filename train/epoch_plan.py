"""Epoch plan: the batches of one epoch, who takes what of each, at which size, and of which update of the weights it is a part.

Stateless: all of it follows from seed and epoch, so that a run goes on from a number of steps.
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
    """The update of the weights that a step is a part of.

    Attributes:
        number: Counted from the start of the run.
        begin: Its first step in the epoch.
        views: In all of its batches, over all ranks.
        ends: Whether this step is its last one.
    """

    number: int
    begin: int
    views: int
    ends: bool


@dataclass(frozen=True)
class EpochPlan:
    """What one epoch goes through.

    Attributes:
        epoch: The epoch.
        batches: Samples of each batch, over all ranks.
        partner: Who must stand beside whom; None: nothing is mixed.
        sizes: Height and width of the views of each batch, pixels.
        repeats: Views of a sample in its batch.
        accumulate: Batches of an update.
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
        views.set_epoch(epoch, recipe.aug_repeats)
        partner = partners(views.mixing)
        shape = (config.seed, epoch, len(views), recipe.batch_size)
        found = batch_plan(*shape, partner, recipe.aug_repeats, views.groups, views.groups_at_once)
        turns = config.sizes or (size,)
        sizes = [turns[(epoch * len(found) + step) % len(turns)] for step in range(len(found))]
        return cls(epoch, found, partner, sizes, recipe.aug_repeats, config.grad_accum_steps)

    @property
    def steps(self) -> int:
        """Batches of the epoch."""
        return len(self.batches)

    @property
    def updates(self) -> int:
        """Updates of the weights in the epoch."""
        return -(-self.steps // self.accumulate)

    def views_of(self, first: int, stop: int) -> int:
        """Views in the batches `first` to `stop`, over all ranks."""
        return self.repeats * sum(map(len, self.batches[first:stop]))

    def update_of(self, step: int) -> Update:
        """The update that a step is a part of."""
        begin = step // self.accumulate * self.accumulate
        ends = (step + 1) % self.accumulate == 0 or step + 1 == self.steps
        number = self.epoch * self.updates + step // self.accumulate
        return Update(number, begin, self.views_of(begin, begin + self.accumulate), ends)

    def load(self, views: Views, ranks: Ranks, first_step: int, workers: int) -> Iterator[tuple[int, Batch]]:
        """Steps from `first_step` on, each with this rank's share of its batch."""
        mine = [share_of_rank(samples, self.partner, ranks.rank, ranks.world) for samples in self.batches[first_step:]]
        sizes, on_cuda = self.sizes[first_step:], ranks.device.type == "cuda"
        return enumerate(batches(views, mine, workers=workers, sizes=sizes, pin_memory=on_cuda), start=first_step)
