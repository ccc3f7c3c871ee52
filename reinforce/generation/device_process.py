"""Device process: the process that runs the teacher on one device, and makes the blocks that its parent gives it.

It is started as `python -m reinforce.generation.device_process CONNECTION WEIGHTS`, with two file descriptors. What it says are
pairs: `claim` (a block is wanted), `views` (so many were decoded), `block` (a number was committed), `note`, `error` (an
exception of ours), `crash` (a line of text), `end`. If its parent dies, it ends too, with all that it has started.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch

from reinforce.errors import ReinforceError, first_line
from reinforce.generation.block_stream import BlockStream
from reinforce.generation.engine import Execution, Work
from reinforce.memory import keep_freed_memory, out_of_memory
from reinforce.orphan import end, end_with_parent
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.store.place import Place
from reinforce.teachers.shared_teacher import attach, mapped
from reinforce.teachers.teacher import Teacher


class Orders(NamedTuple):
    """What a process gets from its parent; the weights of the skeleton are in shared memory."""

    source: Source
    settings: Settings
    place: Place
    execution: Execution
    skeleton: Teacher
    device: str
    threads: int


class _Parent:
    """The parent, through a connection. If it is gone, this process ends at once: nobody wants to hear of it."""

    def __init__(self, handle: int) -> None:
        self.connection = Connection(handle)

    def say(self, kind: str, told: object = None) -> None:
        try:
            self.connection.send((kind, told))
        except OSError:
            end(group=True)

    def hear(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            end(group=True)


def _serve(parent: _Parent, weights: int) -> None:
    """Make blocks until the parent has no more; `weights` is the descriptor of the memory with those of the teacher."""
    orders: Orders = parent.hear()
    torch.set_num_threads(orders.threads)
    device = torch.device(orders.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    teacher = attach(orders.skeleton, mapped(weights))
    os.close(weights)
    teacher.move(device)
    execution = dataclasses.replace(orders.execution, devices=(orders.device,))
    work = Work(orders.source, teacher, orders.settings, orders.place, execution)

    def claimed() -> Iterator[int]:
        while True:
            parent.say("claim")
            block = parent.hear()
            if block is None:
                return
            yield block

    BlockStream(work, claimed(), lambda views: parent.say("views", views), lambda block: parent.say("block", block)).run()
    parent.say("end")


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    end_with_parent(group=True)
    keep_freed_memory()
    parent, weights = _Parent(int(sys.argv[1])), int(sys.argv[2])

    def note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, UserWarning):
            parent.say("note", str(message))

    warnings.showwarning = note
    try:
        _serve(parent, weights)
    except Exception as error:  # noqa: BLE001 - a model, a driver or a library may raise anything; the parent tells of it
        shortage = out_of_memory(error)
        if isinstance(error, (ReinforceError, OSError)):
            parent.say("error", error)
        else:
            parent.say("crash", first_line(error) if shortage is None else str(shortage.args[0]))
        sys.exit(1)


if __name__ == "__main__":
    main()
