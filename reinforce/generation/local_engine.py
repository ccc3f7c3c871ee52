"""Local engine: this process holds the teacher, and decoding workers feed it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import closing

from reinforce.errors import DeadWorkerError
from reinforce.files import Progress
from reinforce.generation.block_labels import block_items, block_samples, label_block
from reinforce.generation.engine import Engine, Work
from reinforce.store.block import committed_blocks, write_block
from reinforce.teachers.teacher import labeller_of
from reinforce.views.pixels import SampleViews, ViewMaker, views_loader


class LocalEngine(Engine):
    """One teacher in this process, its views from `workers` processes."""

    name = "local"
    description = "this process, with decoding processes beside it"

    def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
        try:
            _make(work, missing, on_progress)
            return
        except DeadWorkerError as error:
            warnings.warn(f"{error.what} Workers are started again, once.", UserWarning, stacklevel=1)
        _make(work, sorted(set(missing) - committed_blocks(work.out)), on_progress)


def _make(work: Work, missing: list[int], on_progress: Progress) -> None:
    source, teacher, settings, out, execution = work
    total, views = len(source), settings.views
    todo = sum(len(block_samples(settings, block)) for block in missing)
    seen = 0
    on_progress(total - todo, total)
    # One stream over all blocks, so that workers are decoding the next block while this one is encoded and committed.
    items = [item for block in missing for item in block_items(settings, block)]

    def counted(made: Iterator[SampleViews]) -> Iterator[SampleViews]:
        nonlocal seen
        for item, each in zip(items, made, strict=True):
            seen += item.stop - item.first
            on_progress(total - todo + seen // views, total)
            yield each

    with closing(views_loader(ViewMaker(source, settings), items, execution.workers)) as made:
        stream, labeller = counted(made), labeller_of(teacher, settings)
        for block in missing:
            write_block(out, block, label_block(stream, block, labeller, settings, execution.batch_size))
