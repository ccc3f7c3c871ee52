"""Ray actor: the process on a node of a Ray cluster that holds the teacher, and makes the blocks that it is asked for.

Several calls run at once: a block is decoded while the one before it is labelled, and what was done can be asked at any time.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch

from reinforce.errors import ReinforceError, first_line
from reinforce.generation.block_stream import BlockStream
from reinforce.generation.device_process import Orders
from reinforce.generation.engine import AS_SUITS, Work
from reinforce.generation.proof import Expected, prove
from reinforce.memory import keep_freed_memory, out_of_memory
from reinforce.teachers.device import default_workers
from reinforce.teachers.shared_teacher import attach

CALLS = 4
"""How many calls run at once: two blocks, what was done, and one to spare."""


class Failure(NamedTuple):
    """Why a block was not made. A process that met a `crash` is of no more use."""

    said: str
    crash: bool


class RayActor:
    """Makes blocks.

    Args:
        node: Name of the node.
        beside: How many actors like this one the node has.
    """

    def __init__(self, node: str, beside: int) -> None:
        keep_freed_memory()
        self.node, self.beside = node, beside
        self.work: Work | None = None  # once it is proven
        self.lock = threading.Lock()
        self.waiting: SimpleQueue[int] = SimpleQueue()
        self.asked: dict[int, Future[Failure | None]] = {}
        self.claimed: set[int] = set()
        self.views = 0
        self.notes: list[str] = []

        def note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
            if issubclass(category, UserWarning):
                self.notes.append(str(message))

        warnings.showwarning = note

    def prove(self, wanted: Expected, orders: Orders, memory: np.ndarray) -> str | ReinforceError:
        """Check that this node sees what it must; then blocks can be made.

        Args:
            wanted: What it must see.
            orders: What blocks are made from, and how; the device is `cpu` or `cuda`. Arguments of this call and not of the
                class: Ray does not promise to keep those until a process is started again.
            memory: Weights of the teacher: uint8 `[bytes]`, which all actors of a node share.

        Returns:
            The answer of `proof.prove`, or its error.
        """
        self.views = 0
        try:
            if self.work is not None:  # asked once more, because the first answer was lost
                return prove(self.work, wanted, self.node)
            device, workers = torch.device(orders.device), orders.execution.workers
            workers = default_workers(device, self.beside) if workers == AS_SUITS else workers
            execution = dataclasses.replace(orders.execution, devices=(), workers=workers)
            work = Work(orders.source, attach(orders.skeleton, memory), orders.settings, orders.place, execution)
            answer = prove(work, wanted, self.node)
        except ReinforceError as error:
            return error
        work.teacher.move(device)
        self.work = work
        threading.Thread(target=self._run, args=(work, orders.threads), daemon=True).start()
        return answer

    def make(self, block: int) -> Failure | None:
        """Make and commit a block; None: it is committed. A block that is asked for twice at once is made once."""
        if self.work is None:
            return Failure("the process was started again", crash=False)
        with self.lock:
            asked = self.asked.get(block)
            if asked is None:
                asked = self.asked[block] = Future()
                self.waiting.put(block)
        return asked.result()

    def report(self) -> tuple[int, list[str]]:
        """How many views were decoded, and what there is to tell the user; each is told once."""
        notes, self.notes = self.notes, []
        return self.views, notes

    def leave(self) -> NoReturn:
        """End this process; Ray starts another one in its place."""
        os._exit(1)

    def _run(self, work: Work, threads: int) -> None:
        torch.set_num_threads(threads)
        while True:
            first = self.waiting.get()
            self.claimed.add(first)
            try:
                blocks = chain([first], self._waiting())
                BlockStream(work, blocks, self._count, lambda block: self._answer(block, None)).run()
            except Exception as error:  # noqa: BLE001 - a model, a driver or a library may raise anything; the driver tells of it
                ours = isinstance(error, (ReinforceError, OSError))
                short = out_of_memory(error)
                said = " ".join(str(error if short is None else short).split()) if ours or short else first_line(error)
                for block in list(self.claimed):
                    self._answer(block, Failure(said, crash=not ours))

    def _waiting(self) -> Iterator[int]:
        """Blocks, until none is waiting: to wait for one here would keep the views of those before it from being labelled."""
        while True:
            try:
                block = self.waiting.get_nowait()
            except Empty:
                return
            self.claimed.add(block)
            yield block

    def _count(self, views: int) -> None:
        self.views += views

    def _answer(self, block: int, failure: Failure | None) -> None:
        with self.lock:
            asked = self.asked.pop(block)
        self.claimed.discard(block)
        asked.set_result(failure)
