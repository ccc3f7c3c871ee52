"""Ring: shared memory that batches of pixels travel in, from the processes that make them to the one that trains.

Fresh shared memory for every batch costs a tenth of a millisecond for each 224 px view, for the kernel to find and clear its
pages; copying into pages that are there costs a twentieth of that.
"""

from __future__ import annotations

import torch

PREFETCH = 2
"""Batches that each process works ahead: the default of torch's loader."""


class Ring:
    """A few buffers, each for one batch at a time.

    The process that trains holds one batch while the others work ahead on 2 each, and one more stays whole: a batch is
    overwritten after the second one behind it is asked for.

    Args:
        workers: Processes that make batches.
        size: Bytes of the largest batch.
    """

    def __init__(self, workers: int, size: int) -> None:
        self.buffers = [torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(PREFETCH * workers + 2)]

    def slot(self, number: int) -> int:
        """The buffer of batch `number` of the epoch."""
        return number % len(self.buffers)

    def view(self, slot: int, shape: tuple[int, ...]) -> torch.Tensor:
        """The batch in a buffer: uint8 of that shape, without a copy."""
        batch: torch.Tensor = self.buffers[slot][: torch.Size(shape).numel()].view(shape)
        return batch
