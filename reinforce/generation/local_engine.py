"""Local engine: this machine; the teacher in this process, or, on several devices, one process for each."""

from __future__ import annotations

from reinforce.files import Progress
from reinforce.generation.block_labels import block_samples
from reinforce.generation.block_stream import BlockStream
from reinforce.generation.device_processes import DeviceProcesses
from reinforce.generation.engine import Engine, Work


class LocalEngine(Engine):
    """One teacher per device, its views from `workers` processes beside it."""

    name = "local"
    description = "this machine: a process per device, with decoding processes beside it"

    def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
        total, views = len(work.source), work.settings.views
        done = total - sum(len(block_samples(work.settings, block)) for block in missing)
        on_progress(done, total)
        if not missing:
            return
        if len(work.execution.devices) > 1:
            DeviceProcesses(work, missing, done, on_progress).run()
            return
        seen = 0

        def count(made: int) -> None:
            nonlocal seen
            seen += made
            on_progress(min(total, done + seen // views), total)

        BlockStream(work, missing, count, lambda block: None).run()
