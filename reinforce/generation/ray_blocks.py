"""Ray blocks: gives blocks to the actors of a cluster, and each block back that was not made.

An actor stays on its node. A node that joins gets actors; one that is lost costs what ran there. A block that failed is made
alone, and elsewhere if there are other nodes, so that neither another block nor a broken node is taken for the cause.
"""

from __future__ import annotations

import time
import warnings
from collections import defaultdict, deque
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np

from reinforce.errors import ReinforceError, WorkerError, first_line
from reinforce.files import Progress
from reinforce.generation.block_faults import BlockFaults, Fault
from reinforce.generation.block_labels import block_samples
from reinforce.generation.device_process import Orders
from reinforce.generation.engine import Work
from reinforce.generation.proof import check_answer, expected
from reinforce.generation.ray_actor import CALLS, Failure, RayActor
from reinforce.generation.ray_cluster import check_alive
from reinforce.generation.ray_nodes import Node, Seat, needs_of, nodes_of, not_started
from reinforce.teachers.shared_teacher import SharedTeacher, mapped, not_sent

SILENT_S = 60.0
"""Seconds after which a node is left out that is there, and on which no process answers."""
_AT_ONCE = 2
"""Blocks of an actor: one that is labelled, and the next, whose views are decoded meanwhile."""
_LOOK_EVERY, _NOBODY = 1.0, 30.0
"""Seconds between two looks at the cluster, and without an actor until the user is told."""


class RayBlocks:
    """Makes blocks on a cluster.

    Args:
        ray: The module, connected to the cluster.
        work: What blocks are made from, and where they go; the teacher is moved to the CPU.
        missing: Numbers of the blocks, in order.
        done: Samples that are done already.
        on_progress: Called with samples done and in all.
        threads: Of each actor.
    """

    def __init__(self, ray: ModuleType, work: Work, missing: list[int], done: int, on_progress: Progress, threads: int) -> None:
        self.ray, self.work, self.on_progress = ray, work, on_progress
        self.waiting, self.left = deque(missing), set(missing)
        self.done = self.shown = done
        self.nodes = nodes_of(ray)
        self.first = frozenset(self.nodes)
        self.needs = needs_of(work.execution.devices, threads, self.nodes)
        self.refused: dict[str, ReinforceError] = {}
        self.good: set[str] = set()
        self.seats: list[Seat] = []
        self.calls: dict[Any, tuple[str, Seat, int]] = {}
        self.faults = BlockFaults()
        self.looked = self.seated = time.monotonic()

    def run(self) -> None:
        """Make all blocks.

        Raises:
            ReinforceError: a node does not see what it must, or blocks failed; all others are made.
            UsageError: the teacher cannot be sent.
        """
        self._send()
        with expected(self.work) as self.expected:
            try:
                self._look()
                while self.left and not self.faults.hopeless:
                    self._give()
                    self._hear()
                    if time.monotonic() - self.looked >= _LOOK_EVERY:
                        self._look()
            finally:
                with suppress(WorkerError):
                    check_alive(self.ray)  # else each call would wait for the head
                    for seat in self.seats:
                        self.ray.kill(seat.actor)
        if self.faults.given_up:
            raise self.faults.error(len(self.left))

    def _send(self) -> None:
        """Put the weights, and everything else, into Ray's object store: once for each node that asks for them."""
        work, teacher = self.work, SharedTeacher(self.work.teacher)
        try:
            self.memory = self.ray.put(np.frombuffer(mapped(teacher.handle), np.uint8))
            self.orders = self.ray.put(
                Orders(
                    source=work.source,
                    settings=work.settings,
                    place=work.place,
                    execution=work.execution,
                    skeleton=teacher.skeleton,
                    device=self.needs.device,
                    threads=self.needs.threads,
                )
            )
        except ReinforceError:
            raise
        except Exception as error:  # noqa: BLE001 - a source or a teacher may hold anything
            raise not_sent(first_line(error)) from None
        finally:
            teacher.close()

    def _look(self) -> None:
        """See which nodes there are; ask actors what they have done."""
        self.looked = time.monotonic()
        check_alive(self.ray)
        self.nodes = nodes_of(self.ray)
        for seat in [seat for seat in self.seats if seat.node.id not in self.nodes]:
            self._lose(seat)
        for node in self.nodes.values():
            if node.id not in self.refused:
                for _ in range(self.needs.count(node) - sum(seat.node.id == node.id for seat in self.seats)):
                    self._start(node)
        if self.refused and not self.seats:
            raise next(iter(self.refused.values()))
        asked = {(kind, id(seat)) for kind, seat, _ in self.calls.values()}
        for seat in self.seats:
            if seat.silent and ("prove", id(seat)) not in asked:
                self._ask_proof(seat)
            elif seat.proven and ("report", id(seat)) not in asked:
                self.calls[seat.actor.report.remote()] = ("report", seat, -1)
        if any(seat.proven for seat in self.seats):
            self.seated = self.looked
        elif self.looked - self.seated > _NOBODY:
            self.seated = self.looked
            counts = f"{len(self.seats)} actors wait for a place on {len(self.nodes)} nodes"
            asks = "a GPU" if self.needs.device == "cuda" else f"{self.needs.threads} CPUs"
            warnings.warn(f"No node of the cluster makes blocks now: {counts}; each needs {asks}.", UserWarning, stacklevel=1)

    def _start(self, node: Node) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as OnNode

        remote = self.ray.remote(RayActor).options(
            max_restarts=-1, max_concurrency=CALLS, scheduling_strategy=OnNode(node.id, soft=False), **self.needs.of_one(node)
        )
        seat = Seat(remote.remote(node.name, self.needs.count(node)), node)
        self.seats.append(seat)
        self._ask_proof(seat)

    def _ask_proof(self, seat: Seat) -> None:
        """Of a process that has just been started; the call waits until it is."""
        seat.proven = seat.broken = False
        seat.views = seat.settled = 0
        seat.began = 0.0
        self.calls[seat.actor.prove.remote(self.expected, self.orders, self.memory)] = ("prove", seat, -1)

    def _give(self) -> None:
        ready = [seat for seat in self.seats if seat.proven and not seat.broken]
        for held in range(_AT_ONCE):
            for seat in ready:
                if len(seat.blocks) == held and (block := self._next_for(seat)) is not None:
                    self.waiting.remove(block)
                    seat.blocks.add(block)
                    self.calls[seat.actor.make.remote(block)] = ("make", seat, block)

    def _next_for(self, seat: Seat) -> int | None:
        if any(block in self.faults for block in seat.blocks):
            return None
        usable = {other.node.id for other in self.seats if other.proven}
        for block in self.waiting:
            if block not in self.faults:
                return block
            if self.faults.suits(block, seat.node.id, usable):
                return None if seat.blocks else block
        return None

    def _hear(self) -> None:
        if not self.calls:
            time.sleep(_LOOK_EVERY / 4)
            return
        ended, _ = self.ray.wait(list(self.calls), num_returns=1, timeout=_LOOK_EVERY)
        for call in ended:
            if call not in self.calls:
                continue  # of a seat that was given up meanwhile
            kind, seat, block = self.calls.pop(call)
            try:
                told = self.ray.get(call)
            except self.ray.exceptions.RayError as error:
                self._failed_call(kind, seat, block, error)
                continue
            if kind == "prove":
                self._proven(seat, told)
            elif kind == "report":
                self._reported(seat, *told)
            elif kind == "make":
                self._made(seat, block, told)

    def _failed_call(self, kind: str, seat: Seat, block: int, error: Exception) -> None:
        """An actor did not answer: its process ended, or its node."""
        now = time.monotonic()
        if kind == "prove":
            # A node that was lost, or a process that is being started again: the next look at the cluster tells.
            seat.silent = seat.silent or now
            ended = not isinstance(error, self.ray.exceptions.ActorUnavailableError)
            if (ended and seat.node.id in nodes_of(self.ray)) or now - seat.silent > SILENT_S:
                self._refuse(seat, not_started(seat.node, error))
        elif kind == "make":
            seat.broken = True
            seat.blocks.discard(block)
            seat.doubtful.add(block)  # until it is known whether the node is there
            if not seat.blocks:
                self._ask_proof(seat)
        elif kind == "leave":
            self._ask_proof(seat)

    def _proven(self, seat: Seat, told: str | ReinforceError) -> None:
        try:
            if isinstance(told, ReinforceError):
                raise told
            check_answer(self.work.place, told, seat.node.name)
        except ReinforceError as error:
            self._refuse(seat, error)
            return
        seat.proven, seat.silent = True, 0.0
        self.good.add(seat.node.id)
        for block in self._not_there(seat.doubtful):
            self._fault(block, Fault(seat.node, "its process ended"))
        seat.doubtful.clear()

    def _refuse(self, seat: Seat, error: ReinforceError) -> None:
        """Stop because of a node that never saw what it must; but leave one out that joined later, or that was good once."""
        if seat.node.id in self.first - self.good:
            raise error
        warnings.warn(f"A node is left out: {error}", UserWarning, stacklevel=1)
        self.refused[seat.node.id] = error
        self.ray.kill(seat.actor)
        self._lose(seat)

    def _lose(self, seat: Seat) -> None:
        """Give its blocks to others."""
        self.seats.remove(seat)
        self.calls = {call: about for call, about in self.calls.items() if about[1] is not seat}
        self.waiting.extendleft(self._not_there(seat.blocks | seat.doubtful))

    def _not_there(self, blocks: set[int]) -> list[int]:
        """Those of some blocks that were not committed before their process ended, the last first; the others are made."""
        there = self.work.committed()
        for block in blocks & there:
            self._count(block)
        return sorted(blocks - there, reverse=True)

    def _reported(self, seat: Seat, views: int, notes: list[str]) -> None:
        if seat.proven:
            seat.views = views
            seat.began = seat.began or (time.monotonic() if views else 0.0)
            self._tell()
        for note in notes:
            warnings.warn(f"Node {seat.node.name}: {note}", UserWarning, stacklevel=1)

    def _made(self, seat: Seat, block: int, failure: Failure | None) -> None:
        seat.blocks.discard(block)
        seat.settled += len(block_samples(self.work.settings, block)) * self.work.settings.views
        if failure is None:
            self._count(block)
        else:
            seat.broken |= failure.crash
            self._fault(block, Fault(seat.node, failure.said))
        if seat.broken and not seat.blocks:
            if seat.doubtful:
                self._ask_proof(seat)
            else:
                self.calls[seat.actor.leave.remote()] = ("leave", seat, -1)

    def _count(self, block: int) -> None:
        self.left.discard(block)
        self.faults.in_a_row = 0
        self.done += len(block_samples(self.work.settings, block))
        self._tell()

    def _fault(self, block: int, fault: Fault) -> None:
        again = self.faults.add(block, fault)
        what = f"Block {block} failed on node {fault.node.name} ({fault.said})"
        warnings.warn(f"{what}; {'it is tried again' if again else 'it is given up'}.", UserWarning, stacklevel=1)
        if again:
            self.waiting.appendleft(block)
        else:
            self.left.discard(block)

    def _tell(self) -> None:
        views, now, rates = self.work.settings.views, time.monotonic(), defaultdict[str, float](float)
        for seat in self.seats:
            if seat.began:
                rates[seat.node.name] += seat.views / views / max(now - seat.began, 1e-9)
        running = sum(max(0, seat.views - seat.settled) for seat in self.seats) // views
        done = min(self.done + running, len(self.work.source))
        if done > self.shown:
            self.shown = done
            self.work.on_rates(dict(rates))
            self.on_progress(done, len(self.work.source))
