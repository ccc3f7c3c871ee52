"""Ring: shared memory that batches of pixels travel in, from the processes that make them to the one that trains.

Fresh shared memory for every batch costs a tenth of a millisecond for each 224 px view, for the kernel to find and clear its
pages; copying into pages that are there costs a twentieth of that. What a GPU is to read is copied on into page-locked memory
by the thread of torch's loader, so that processes which decode save the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from weakref import WeakValueDictionary

import torch

PREFETCH = 2
"""Batches that each process works ahead: the default of torch's loader."""
_RINGS: WeakValueDictionary[int, Ring] = WeakValueDictionary()
"""The rings of this process: a batch names its own, as the loader's thread that pins memory is handed nothing but batches."""
_keys = count()


class Ring:
    """A few buffers, each for one batch at a time.

    The process that trains holds one batch while the others work ahead on 2 each, and the batch before stays valid: a batch
    is overwritten after the second one behind it is asked for.

    Args:
        workers: Processes that make batches.
        size: Bytes of the largest batch.
    """

    def __init__(self, workers: int, size: int) -> None:
        self.buffers = [torch.empty(size, dtype=torch.uint8).share_memory_() for _ in range(PREFETCH * workers + 2)]
        self.key = next(_keys)
        _RINGS[self.key] = self

    def slot(self, number: int) -> int:
        """The buffer of batch `number` of the epoch."""
        return number % len(self.buffers)

    def view(self, slot: int, shape: tuple[int, ...]) -> torch.Tensor:
        """The batch in a buffer: uint8 of that shape, without a copy."""
        batch: torch.Tensor = self.buffers[slot][: torch.Size(shape).numel()].view(shape)
        return batch


@dataclass(frozen=True)
class InRing:
    """Where the pixels of a batch are; this travels between processes in their place.

    Attributes:
        key: Of the ring.
        slot: The buffer.
        shape: Of the batch.
    """

    key: int
    slot: int
    shape: tuple[int, ...]

    def pixels(self) -> torch.Tensor:
        """The batch in its buffer, without a copy; in the process that made the ring."""
        return _RINGS[self.key].view(self.slot, self.shape)

    def pin_memory(self) -> torch.Tensor:
        """A copy in page-locked memory (called by torch's DataLoader); torch keeps it until the device has read it."""
        return self.pixels().pin_memory()
