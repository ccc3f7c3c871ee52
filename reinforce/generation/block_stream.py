"""Block stream: makes blocks with one teacher, from one stream of views over all of them.

Workers decode the next block while this one is encoded and committed. Which block comes next is asked only when its first
sample is needed, so several of these streams can share the blocks of a data set.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain

from reinforce.errors import DeadWorkerError
from reinforce.generation.block_labels import block_items, label_block, most_views
from reinforce.generation.engine import Work
from reinforce.teachers.fitting import Fitting
from reinforce.teachers.teacher import labeller_of
from reinforce.views.pixels import SampleViews, ViewMaker, ViewRange, views_loader


class BlockStream:
    """Makes and commits blocks.

    Args:
        work: What they are made from, and where they go.
        blocks: Their numbers; some more of them are read than have been committed.
        on_views: Called with the number of views after each sample that was decoded.
        on_block: Called with the number of each block after its commit.
    """

    def __init__(
        self, work: Work, blocks: Iterable[int], on_views: Callable[[int], None], on_block: Callable[[int], None]
    ) -> None:
        self.work, self.blocks, self.on_views, self.on_block = work, iter(blocks), on_views, on_block
        self.open: deque[int] = deque()  # blocks that were begun and not committed, in order
        self.labeller = Fitting(labeller_of(work.teacher, work.settings), work.execution.batch_size)

    def run(self) -> None:
        """Make all blocks. If a worker is killed, workers are started again, once.

        Raises:
            ReinforceError: something went wrong; blocks committed before it stay.
        """
        try:
            self._make(self.blocks)
        except DeadWorkerError as error:
            warnings.warn(f"{error.what} Workers are started again, once.", UserWarning, stacklevel=1)
            again = list(self.open)
            self.open.clear()
            self._make(chain(again, self.blocks))

    def _make(self, blocks: Iterator[int]) -> None:
        source, _, settings, place, execution, _ = self.work
        asked: deque[ViewRange] = deque()

        def items() -> Iterator[ViewRange]:
            for block in blocks:
                self.open.append(block)
                for item in block_items(settings, block):
                    asked.append(item)
                    yield item

        def counted(made: Iterator[SampleViews]) -> Iterator[SampleViews]:
            for each in made:
                item = asked.popleft()
                self.on_views(item.stop - item.first)
                yield each

        loader = views_loader(ViewMaker(source, settings), items(), execution.workers, most_views(settings))
        with closing(loader):
            stream = counted(loader)
            for first in stream:
                block = self.open[0]
                data = label_block(chain([first], stream), block, self.labeller, settings, execution.batch_size)
                place.commit(self.work.planned(block), data)
                self.open.popleft()
                self.on_block(block)
