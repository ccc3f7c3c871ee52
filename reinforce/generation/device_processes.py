"""Device processes: the parent of one process per device, which gives them blocks and hears what they made.

A process asks for a block when it needs one, so a slow device makes fewer. One that dies gives its blocks back and is started
again. The processes are started as new ones, not forked: a CUDA context and the threads of a CPU do not survive a fork.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from socket import socketpair
from threading import Thread

import torch

from reinforce.errors import DeadWorkerError, first_line
from reinforce.files import Progress
from reinforce.generation.block_labels import block_samples
from reinforce.generation.device_process import Orders
from reinforce.generation.engine import Work
from reinforce.teachers.shared_teacher import SharedTeacher, not_sent

RESTARTS = 3
"""How often the process of a device is started again."""
_LOOK_EVERY, _TO_END = 1.0, 5.0
"""Seconds between two looks at the processes, and that a process has to end when all is made."""


@dataclass
class _Process:
    """A running process: what it has claimed and made."""

    number: int
    running: subprocess.Popen[bytes]
    connection: Connection
    sending: Thread | None = None  # gives it its orders
    claimed: set[int] = field(default_factory=set)
    views: int = 0  # made
    committed: int = 0  # views of committed blocks
    began: float = 0.0  # when the first view came
    ended: bool = False  # it has nothing more to do, and said so
    crash: str | None = None  # its last words


class DeviceProcesses:
    """Makes blocks on several devices.

    Args:
        work: What they are made from, and where they go; the teacher is moved to the CPU.
        missing: Numbers of the blocks, in order.
        done: Samples that are done already.
        on_progress: Called with samples done and in all.
    """

    def __init__(self, work: Work, missing: list[int], done: int, on_progress: Progress) -> None:
        self.work, self.waiting, self.done, self.on_progress = work, deque(missing), done, on_progress
        devices = work.execution.devices
        self.names = [d if devices.count(d) == 1 else f"{d} #{i + 1}" for i, d in enumerate(devices)]
        self.starts = [0] * len(devices)
        self.processes: dict[Connection, _Process] = {}
        self.shown = done
        self.notes: set[str] = set()

    def run(self) -> None:
        """Make all blocks.

        Raises:
            DeadWorkerError: a process died again and again.
            ReinforceError: a process met an error that starting it again does not mend.
            UsageError: the teacher cannot be given to other processes.
        """
        self.teacher = SharedTeacher(self.work.teacher)
        try:
            for number in range(min(len(self.names), len(self.waiting))):
                self._start(number)
            while self.processes:
                for connection in wait(list(self.processes), _LOOK_EVERY):
                    self._hear(self.processes[connection])  # type: ignore[index]
        finally:
            for process in self.processes.values():
                _stop(process)
            self.teacher.close()

    def _start(self, number: int) -> None:
        ours, theirs = socketpair()
        with ours, theirs:
            handles = (theirs.fileno(), self.teacher.handle)
            # A group of its own: Ctrl-C goes to this process alone, which stops the others with all that they have started.
            running = subprocess.Popen(
                [sys.executable, "-P", "-m", "reinforce.generation.device_process", *map(str, handles)],
                pass_fds=handles,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                process_group=0,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
            )
            process = _Process(number, running, Connection(os.dup(ours.fileno())))
        self.starts[number] += 1
        self.processes[process.connection] = process
        devices, work = self.work.execution.devices, self.work
        orders = Orders(
            source=work.source,
            settings=work.settings,
            place=work.place,
            execution=work.execution,
            skeleton=self.teacher.skeleton,
            device=devices[number],
            threads=max(1, torch.get_num_threads() // len(devices)),
        )
        try:
            content = ForkingPickler.dumps(orders)
        except Exception as error:  # noqa: BLE001 - a source or a teacher may hold anything
            raise not_sent(first_line(error)) from None
        # In a thread: the process takes it only when it has imported everything, and the others start in the meantime.
        process.sending = Thread(target=_send, args=(process.connection, content), daemon=True)
        process.sending.start()

    def _hear(self, process: _Process) -> None:
        try:
            kind, told = process.connection.recv()
        except (EOFError, OSError):
            self._ended(process)
            return
        if kind == "claim":
            block = self.waiting.popleft() if self.waiting else None
            if block is not None:
                process.claimed.add(block)
            self._answer(process, block)
        elif kind == "views":
            process.began = process.began or time.monotonic()
            process.views += told
            self._tell()
        elif kind == "block":
            process.claimed.remove(told)
            samples = len(block_samples(self.work.settings, told))
            self.done, process.committed = self.done + samples, process.committed + samples * self.work.settings.views
            self._tell()
        elif kind == "note":
            if told not in self.notes:
                self.notes.add(told)
                warnings.warn(told, UserWarning, stacklevel=1)
        elif kind == "error":
            raise told
        elif kind == "end":
            process.ended = True
        else:
            process.crash = told

    def _answer(self, process: _Process, block: int | None) -> None:
        try:
            process.connection.send(block)
        except OSError:
            return  # it is dead: told when its end is heard

    def _ended(self, process: _Process) -> None:
        """Take the blocks of a process that has ended; start it again, if it died or there is work."""
        del self.processes[process.connection]
        _stop(process)
        code, name = process.running.returncode, self.names[process.number]
        there = self.work.committed()
        kept = [block for block in process.claimed if block in there]  # it died between the commit and its report
        self.done += sum(len(block_samples(self.work.settings, block)) for block in kept)
        back = sorted(process.claimed - there)
        self.waiting.extendleft(reversed(back))
        if process.ended:
            return
        found = process.crash or (f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
        if self.starts[process.number] > RESTARTS:
            raise DeadWorkerError(
                f"The process of {name} died {self.starts[process.number]} times.",
                found=found,
                cause="too little memory, for which the system kills processes (see `dmesg`), or a device that is broken",
                fix="the same command goes on with the missing blocks; fewer --workers, or a --device without this one",
            )
        warnings.warn(f"The process of {name} died ({found}); it is started again.", UserWarning, stacklevel=1)
        self._start(process.number)
        for number in range(len(self.names)):  # some may have ended before there was work again
            if len(self.processes) < len(self.waiting) and number not in {p.number for p in self.processes.values()}:
                self._start(number)

    def _tell(self) -> None:
        views, now = self.work.settings.views, time.monotonic()
        running = sum(p.views - p.committed for p in self.processes.values()) // views
        done = min(self.done + running, len(self.work.source))
        if done <= self.shown:
            return
        self.shown = done
        self.work.on_rates(
            {self.names[p.number]: p.views / views / max(now - p.began, 1e-9) for p in self.processes.values() if p.began}
        )
        self.on_progress(self.shown, len(self.work.source))


def _send(connection: Connection, content: memoryview) -> None:
    with suppress(OSError):  # it is dead already: told when its end is heard
        connection.send_bytes(content)


def _stop(process: _Process) -> None:
    """End a process and all that it has started."""
    with suppress(subprocess.TimeoutExpired):
        process.running.wait(_TO_END if process.ended or process.crash else 0)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.running.pid, signal.SIGKILL)
    process.running.wait()
    if process.sending is not None:
        process.sending.join()  # nobody hears it any more, so it has ended
    process.connection.close()
