"""Local engine: this process holds the teacher, and decoding workers feed it."""

from __future__ import annotations

from collections.abc import Iterator

from reinforce.files import Progress
from reinforce.generation.block_labels import block_items, block_samples, label_block
from reinforce.generation.engine import Engine, Work
from reinforce.store.block import write_block
from reinforce.teachers.teacher import labeller_of
from reinforce.views.pixels import SampleViews, ViewMaker, views_loader


class LocalEngine(Engine):
    """One teacher in this process, its views from `workers` processes."""

    name = "local"
    description = "this process, with decoding processes beside it"

    def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
        source, teacher, settings, out, execution = work
        total, views = len(source), settings.views
        todo = sum(len(block_samples(settings, block)) for block in missing)
        seen = 0
        on_progress(total - todo, total)
        # One stream over all blocks, so that workers are decoding the next block while this one is encoded and committed.
        items = [item for block in missing for item in block_items(settings, block)]
        loader = views_loader(ViewMaker(source, settings), items, execution.workers)

        def counted() -> Iterator[SampleViews]:
            nonlocal seen
            for item, made in zip(items, loader, strict=True):
                seen += item.stop - item.first
                on_progress(total - todo + seen // views, total)
                yield made

        stream, labeller = counted(), labeller_of(teacher, settings)
        for block in missing:
            write_block(out, block, label_block(stream, block, labeller, settings, execution.batch_size))
