"""Ring: shared memory that passes batches of pixels from the worker processes that make them to the process that trains.

New shared memory for every batch costs a tenth of a millisecond for each 224 px view, because the kernel must find and clear
its pages. To copy the pixels into memory that already exists costs a twentieth of that. If the batch goes to a GPU, a thread
of torch's loader copies it from the ring into page-locked memory, so the worker processes save the same time there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from weakref import WeakValueDictionary

import torch

PREFETCH = 2
"""Batches that each worker makes in advance: the default of torch's loader."""
_RINGS: WeakValueDictionary[int, Ring] = WeakValueDictionary()
"""The rings of this process by key: a batch has the key of its ring, because the thread that pins memory gets batches only."""
_keys = count()


class Ring:
    """A few buffers that are used in turn, each for one batch at a time.

    There are 2 buffers for each worker, which makes 2 batches in advance, one for the batch that the training process uses, and
    one for the batch before it. So a batch stays valid until two more batches are requested; then it is overwritten.

    Args:
        workers: Number of processes that make batches.
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
        """The batch in a buffer, as uint8 of this shape; not a copy."""
        batch: torch.Tensor = self.buffers[slot][: torch.Size(shape).numel()].view(shape)
        return batch


@dataclass(frozen=True)
class InRing:
    """The place of a batch's pixels in a ring. Workers send this to the training process, instead of the pixels.

    Attributes:
        key: Key of the ring.
        slot: Number of the buffer.
        shape: Shape of the batch.
    """

    key: int
    slot: int
    shape: tuple[int, ...]

    def pixels(self) -> torch.Tensor:
        """The batch in its buffer, not a copy; only in the process that made the ring."""
        return _RINGS[self.key].view(self.slot, self.shape)

    def pin_memory(self) -> torch.Tensor:
        """A copy in page-locked memory. Torch's DataLoader calls this; torch keeps the copy until the device has read it."""
        return self.pixels().pin_memory()
