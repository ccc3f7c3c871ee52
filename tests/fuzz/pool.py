"""Pool: forked processes that are used again and again; each piece of work has limits of memory, processor time and time.

A process that dies, hangs or grows is a result like any other; a fresh one takes its place.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

SECONDS, BYTES, CASES = 10.0, 2 << 30, 250
"""Limits of one piece of work: seconds of the processor, or of waiting for anything but the processor, and bytes. A process is
replaced after `CASES` pieces of work."""
OVER = "over 2 GB"
Work = Callable[[int], dict[str, object]]
_FORKS = multiprocessing.get_context("fork")
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    line: Connection
    done: int = 0
    number: int = -1
    since: float = 0.0
    cpu: float = 0.0
    seen: float = 0.0


def run_all(
    work: Work, numbers: Iterable[int], processes: int, until: float, seconds: float = SECONDS, limited: bool = True
) -> Iterator[dict[str, object]]:
    """Do `work(number)` for each number in forked processes, until a time of the clock; results come as they are ready.

    Args:
        work: What is done; it stands in the memory of this process, so it may be anything.
        numbers: Of the pieces of work.
        processes: How many run at once.
        until: No work begins after it.
        seconds: Limit of the processor's time, and of waiting.
        limited: The limit of memory holds. It is one of address space, of which a process that has done other work has less:
            work that goes over it is done again in a fresh process.

    Yields:
        What the work returned, with `number` added; or a fault, with `kind` and `trace`: dead, hanging, slow, or any exception.
    """
    queue: Iterator[int] = iter(numbers)
    workers: list[_Worker] = []
    try:
        while True:
            for _ in range(processes - len(workers)):
                fresh = _start(work, limited)
                if _feed(fresh, queue, until):
                    workers.append(fresh)
                else:
                    _end(fresh)
                    break
            if not workers:
                return
            ready = wait([w.line for w in workers], timeout=0.2)
            for worker in list(workers):
                result = _result(worker, seconds) if worker.line in ready else _overdue(worker, seconds)
                if result is None:
                    continue
                if result.get("kind") == OVER and worker.done > 1:
                    queue = itertools.chain([worker.number], queue)
                    workers.remove(worker)
                    _end(worker)
                    continue
                yield result | {"number": worker.number}
                spent = worker.done >= CASES or "died" in result
                if spent or not _feed(worker, queue, until):
                    workers.remove(worker)
                    _end(worker)
    finally:
        for worker in workers:
            _end(worker)


def _start(work: Work, limited: bool) -> _Worker:
    ours, theirs = _FORKS.Pipe()
    process = _FORKS.Process(target=_serve, args=(theirs, work, limited))
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _feed(worker: _Worker, queue: Iterator[int], until: float) -> bool:
    number = next(queue, None) if time.time() < until else None
    if number is None:
        return False
    worker.number, worker.since, worker.done = number, time.monotonic(), worker.done + 1
    worker.cpu = _cpu(worker.process.pid)
    worker.line.send(number)
    return True


def _result(worker: _Worker, limit: float) -> dict[str, object]:
    try:
        result: dict[str, object] = worker.line.recv()
    except EOFError:
        worker.process.join()
        code = worker.process.exitcode or 0
        name = signal.Signals(-code).name if code < 0 else f"code {code}"
        return {"kind": f"died by {name}", "trace": "", "died": True}
    if (seconds := _cpu(worker.process.pid) - worker.cpu) > limit:
        return {"kind": "slow", "trace": f"{seconds:.0f} s of the processor"}
    return result


def _overdue(worker: _Worker, limit: float) -> dict[str, object] | None:
    """A fault if the work takes too long; the process is ended, after it has said where it was."""
    now = _cpu(worker.process.pid)
    cpu, waits = now - worker.cpu, "R" not in _state(worker.process.pid)
    if now != worker.seen or not waits:
        worker.seen, worker.since = now, time.monotonic()
    if cpu <= limit + 1 and time.monotonic() - worker.since <= limit:
        return None
    assert worker.process.pid is not None
    os.kill(worker.process.pid, signal.SIGUSR1)  # the work is broken off, if Python still runs it
    told = worker.line.recv() if worker.line.poll(3) else {}
    _end(worker)
    kind = "slow" if cpu > limit else "hangs"
    return {**told, "kind": kind, "trace": f"{cpu:.0f} s of the processor\n{told.get('trace', '')}", "died": True}


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.line.close()


def _stat(pid: int | None) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["Z", *["0"] * 20]


def _cpu(pid: int | None) -> float:
    numbers = _stat(pid)
    return (int(numbers[11]) + int(numbers[12])) / _TICKS


def _state(pid: int | None) -> str:
    """States of all threads, such as `RS`; work on other threads is work."""
    states = []
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(thread.read_text().rpartition(")")[2].split()[0])
    return "".join(states)


class _TooLong(BaseException):
    pass


def _serve(line: Connection, work: Work, limited: bool) -> None:
    def stop(*_: object) -> None:
        raise _TooLong

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, stop)
    if limited:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, resource.RLIM_INFINITY))
    while True:
        try:
            number = line.recv()
        except EOFError:
            return
        try:
            result = work(number)
        except BaseException as error:  # noqa: BLE001 - whatever ended the work is told to the parent
            kind = OVER if isinstance(error, MemoryError) else f"raises {type(error).__name__}"
            result = {"kind": kind, "trace": "".join(traceback.format_exception(error))[-6000:]}
            del error
            gc.collect()
        line.send(result)
