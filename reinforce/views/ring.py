"""Ring: shared memory that passes pixels from the worker processes that make them to the process that uses them.

New shared memory for every batch costs a tenth of a millisecond for each 224 px view, because the kernel must find and clear
its pages. To copy the pixels into memory that already exists costs a twentieth of that. If the batch goes to a GPU, a thread
of torch's loader copies it from the ring into page-locked memory, so the worker processes save the same time there.

The memory is a file without a name, of which all processes have the descriptor: it is not in /dev/shm, which is 64 MB in a
container, and it is there before any worker starts, so that a worker can run short of nothing while it sends.
"""

from __future__ import annotations

import mmap
import os
import weakref
from dataclasses import dataclass
from itertools import count
from multiprocessing.reduction import DupFd
from typing import Any
from weakref import WeakValueDictionary

import torch

from reinforce.errors import WorkerError
from reinforce.memory import nameless

PREFETCH = 2
"""Batches that each worker makes in advance: the default of torch's loader."""
_RINGS: WeakValueDictionary[int, Ring] = WeakValueDictionary()
"""The rings of this process by key: a batch has the key of its ring, because the thread that pins memory gets batches only."""
_keys = count()


class Ring:
    """A few buffers that are used in turn, each for one batch at a time.

    There are `prefetch` buffers for each worker, which makes so many batches in advance, one for the batch that the training
    process uses, and one for the batch before it. So a batch stays valid until two more batches are requested; then it is
    overwritten.

    Args:
        workers: Number of processes that make batches.
        size: Bytes of the largest batch.
        prefetch: Batches that each worker makes in advance.

    Raises:
        WorkerError: there is not so much memory.
    """

    def __init__(self, workers: int, size: int, prefetch: int = PREFETCH) -> None:
        number = prefetch * workers + 2
        try:
            self._map(nameless(number * size), number, size)
        except OSError as error:
            raise WorkerError(
                "There is no memory for what the workers make.",
                found=f"{error.strerror}: {number} buffers of {size / 1e6:.1f} MB",
                fix="fewer --workers (0: none), or smaller batches",
            ) from None
        self.key = next(_keys)
        _RINGS[self.key] = self

    def _map(self, handle: int, number: int, size: int) -> None:
        self._handle = handle
        weakref.finalize(self, os.close, handle)
        memory = torch.frombuffer(mmap.mmap(handle, number * size), dtype=torch.uint8)
        self.buffers = list(memory.split(size))

    def __getstate__(self) -> dict[str, Any]:  # for workers that are not forked
        return {"key": self.key, "shape": (len(self.buffers), len(self.buffers[0])), "handle": DupFd(self._handle)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.key = state["key"]
        self._map(state["handle"].detach(), *state["shape"])

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
