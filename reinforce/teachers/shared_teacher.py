"""Shared teacher: a teacher for several processes of one machine, with its weights in memory once for all of them.

The weights are in a file without a name, of which every process has the descriptor, and not in /dev/shm, which is 64 MB in a
container. What is sent beside it is the model without weights.
"""

from __future__ import annotations

import copy
import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from reinforce.errors import UsageError, first_line
from reinforce.memory import making, nameless
from reinforce.silence import no_warnings
from reinforce.teachers.teacher import Teacher

_ALIGNED = 64
"""Bytes to which each tensor is aligned, as those of torch's own allocator are."""


class _Place(NamedTuple):
    """A registered tensor: the module that has it, in which of its tables, and its name there."""

    module: nn.Module
    table: str
    name: str

    def get(self) -> torch.Tensor:
        tensor: torch.Tensor = getattr(self.module, self.table)[self.name]
        return tensor

    def set(self, tensor: torch.Tensor) -> None:
        getattr(self.module, self.table)[self.name] = tensor


class SharedTeacher:
    """The model without weights, and a descriptor of the memory that has them.

    Args:
        teacher: Is moved to the CPU, and can be used there as before.

    Attributes:
        skeleton: The teacher, all tensors on torch's `meta` device. Send it to a process together with the descriptor.
        handle: Of the memory; it is closed with `close`.

    Raises:
        UsageError: the model cannot be copied.
        OutOfMemoryError: there is too little memory.
    """

    def __init__(self, teacher: Teacher) -> None:
        teacher.move(torch.device("cpu"))
        places = list(_places(teacher))
        sizes = [_aligned(place.get().nbytes) for place in places]
        with making("the weights of the teacher", sum(sizes)):
            self.handle = nameless(max(1, sum(sizes)))
            for place, memory in zip(places, _pieces(mapped(self.handle), sizes), strict=True):
                tensor = place.get().detach()
                _view(memory, tensor).copy_(tensor)
        try:
            self.skeleton = copy.deepcopy(teacher).to("meta")
        except Exception as error:  # noqa: BLE001 - a model may hold anything
            self.close()
            raise not_sent(first_line(error)) from None

    def close(self) -> None:
        """Give the memory back, once the processes have it too."""
        os.close(self.handle)


def not_sent(found: str) -> UsageError:
    """The error for a teacher that cannot be sent to another process."""
    return UsageError(
        "The teacher cannot be given to other processes.",
        found=found,
        expected="a model without locks, open files and functions that were defined inside of others",
        fix="one device: --device cuda:0; on a CPU --processes 1",
    )


def mapped(handle: int) -> mmap.mmap:
    """The memory of a `SharedTeacher` in this process, by its descriptor, which may be closed afterwards."""
    return mmap.mmap(handle, 0)


def attach(skeleton: Teacher, memory: mmap.mmap | np.ndarray) -> Teacher:
    """Give a skeleton its weights, which are not copied; in the process that received both.

    Args:
        skeleton: Of a `SharedTeacher`; it is changed.
        memory: Its weights: `mapped`, or uint8 `[bytes]` at an address that is a multiple of 64. It may be read-only.
    """
    places = list(_places(skeleton))
    sizes = [_aligned(place.get().nbytes) for place in places]
    made: dict[int, torch.Tensor] = {}
    for place, piece in zip(places, _pieces(memory, sizes), strict=True):
        empty = place.get()
        tensor = _view(piece, empty)
        made[id(empty)] = nn.Parameter(tensor, requires_grad=False) if isinstance(empty, nn.Parameter) else tensor
    for module, table, name in _all_places(skeleton):
        _Place(module, table, name).set(made[id(_Place(module, table, name).get())])
    return skeleton


def _all_places(model: nn.Module) -> list[_Place]:
    return [
        _Place(module, table, name)
        for module in model.modules()
        for table in ("_parameters", "_buffers")
        for name, tensor in getattr(module, table).items()
        if tensor is not None
    ]


def _places(model: nn.Module) -> Iterator[_Place]:
    """The place of every registered tensor; of tensors that have several places, the first."""
    seen = set()
    for place in _all_places(model):
        if id(place.get()) not in seen:
            seen.add(id(place.get()))
            yield place


def _aligned(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _pieces(memory: mmap.mmap | np.ndarray, sizes: list[int]) -> Iterator[torch.Tensor]:
    with no_warnings():  # of memory that may not be written to: nobody writes to weights
        whole = torch.frombuffer(memory, dtype=torch.uint8)
    return iter(whole[: sum(sizes)].split(sizes))


def _view(memory: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Memory as a tensor of another's dtype and shape."""
    return memory[: like.nbytes].view(like.dtype).view(like.shape)
