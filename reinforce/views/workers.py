"""Workers: the processes of a torch loader, and what is said if they cannot be had, die, or do not answer.

Torch waits for ever for a worker that hangs. It tells of a dead one by an exception at whatever the parent is doing then, such
as the commit of a block. Here both become errors of the iterator, at the place where it is asked for the next item.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from reinforce.errors import DeadWorkerError, ReinforceError, WorkerError
from reinforce.memory import shortage
from reinforce.sources.location import is_remote
from reinforce.views.ring import PREFETCH
from reinforce.views.worker import CANNOT_SEND, start_worker

T = TypeVar("T")

PATIENCE = 300
"""Seconds without an answer of any worker after which they count as hung: one makes 3,000 large images in that time."""
_LOOK_EVERY = 5
"""Seconds after which the workers are looked at while nothing comes."""
_SHM = "/dev/shm"
_LOCKS, _LOCKS_EACH = 8 + 4, 3
"""Locks of a loader and of each of its workers: a page of /dev/shm each. Four are spare."""
_FILES, _FILES_EACH = 4 + 16, 4
"""File descriptors of a loader and of each of its workers. Sixteen are spare, for images, blocks and libraries."""
_FIX = "fewer --workers (0: none); in a container more shared memory, `docker run --shm-size=1g`; `ulimit -n 4096`"

_processes: set[Any] = set()
"""The workers of all loaders of this process."""
_waiting = 0
"""How many iterators wait for their workers."""


def affordable(workers: int) -> int:
    """As many workers as there are locks and file descriptors for; warns if these are fewer than `workers`."""
    if not workers:
        return 0
    shared, files = _free_shared_memory(), _free_descriptors()
    page = os.sysconf("SC_PAGE_SIZE")
    by_locks = workers if shared is None else max(0, (shared // page - _LOCKS) // _LOCKS_EACH)
    by_files = workers if files is None else max(0, (files - _FILES) // _FILES_EACH)
    fits = min(workers, by_locks, by_files)
    if fits < workers:
        if by_locks <= by_files:
            why, fix = f"{_SHM} has {(shared or 0) // 1024} kB free", "in a container: `docker run --shm-size=1g`"
        else:
            why, fix = f"only {max(0, files or 0)} more files can be opened", "`ulimit -n 4096`"
        many = "worker process" if fits == 1 else "worker processes"
        warnings.warn(f"{fits or 'no'} {many} instead of {workers}: {why} ({fix})", UserWarning, stacklevel=1)
    return fits


def _free_shared_memory() -> int | None:
    """Free bytes of /dev/shm; None: there is none, or it has no limit."""
    try:
        about = os.statvfs(_SHM)
    except OSError:
        return None
    return about.f_bavail * about.f_frsize if about.f_blocks else None


def _free_descriptors() -> int | None:
    """How many more files this process may open; None: no limit, or it is not known."""
    try:
        import resource

        limit, used = resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(os.listdir("/proc/self/fd"))
    except (ImportError, OSError):
        return None
    return None if limit == resource.RLIM_INFINITY else limit - used


def made_by_workers(
    dataset: Dataset[T],
    items: Iterable[Any],
    *,
    workers: int,
    location: str,
    prefetch: int = PREFETCH,
    pin_memory: bool = False,
) -> Generator[T, None, None]:
    """`dataset[item]` of each item, in order.

    Args:
        dataset: Makes an item; a `ReinforceError` that it raises in a worker is raised again here, as it was.
        items: What is asked for.
        workers: Number of processes, as `affordable` gives it; 0: in this one.
        location: Where the images are. At a URL workers may be silent for any time: servers are slow, and each request to them
            has a time-out of its own.
        prefetch: Items that each worker makes in advance.
        pin_memory: As in torch's loader.

    Raises:
        WorkerError: they cannot be started, or do not answer.
        DeadWorkerError: one was killed, or ended by itself.
    """
    asked = _Asked(items)
    loader: DataLoader[Any] = DataLoader(
        _ErrorsAsValues(dataset),
        batch_size=None,
        sampler=asked,
        collate_fn=_as_it_is,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=start_worker,
        timeout=_LOOK_EVERY if workers else 0,
        generator=torch.Generator(),  # not the global one: a model uses that, and resuming must not change it
    )
    made = _answers(loader, asked, None if is_remote(location) else PATIENCE) if workers else iter(loader)
    for each in made:
        if isinstance(each, ReinforceError):
            raise each
        yield each


class _ErrorsAsValues(Dataset[Any]):
    """Errors are sent as values, because torch's loader turns an error raised in a worker into a traceback."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.dataset[item]
        except ReinforceError as error:
            return error
        except (OSError, MemoryError, RuntimeError) as error:
            if (short := shortage(error)) is None:
                raise
            return short


class _Asked:
    """The items, and how many of them were asked for; a loader asks for the next ones before it gives an answer."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items, self.count, self.all = items, 0, False

    def __iter__(self) -> Iterator[Any]:
        for item in self.items:
            self.count += 1
            yield item
        self.all = True


def _as_it_is(made: Any) -> Any:
    return made


def _answers(loader: DataLoader[Any], asked: _Asked, patience: float | None) -> Iterator[Any]:
    try:
        iterator: Any = iter(loader)
    except (OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and shortage(error) is None:
            raise
        raise WorkerError(
            "Worker processes cannot be started.", found=getattr(error, "strerror", None) or error, fix=_FIX
        ) from None
    processes = list(iterator._workers)
    _hold_back_deaths()
    _processes.update(processes)
    fault: WorkerError | None = None
    silent, answered = 0, 0
    try:
        while fault is None and not (asked.all and answered == asked.count):
            made, fault = _next(iterator, processes)
            if fault is None and made is _NOTHING:
                silent += _LOOK_EVERY
                if patience is not None and silent >= patience:
                    fault = _hung(silent, len(processes))
            elif fault is None:
                silent, answered = 0, answered + 1
                yield made
                del made  # it may be large
        if fault is not None:
            raise fault
    finally:
        if fault is not None:
            for process in processes:
                process.kill()  # one that was stopped would outlive a polite request, and this process would wait for it
            for process in processes:
                process.join()
        del iterator
        _processes.difference_update(processes)


_NOTHING = object()


def _next(iterator: Any, processes: list[Any]) -> tuple[Any, WorkerError | None]:
    """The next item, or `_NOTHING` if none came for a while; and the error if a worker is dead."""
    global _waiting
    _waiting += 1  # from here on a death is told at once, even in the middle of what the dead one was sending
    try:
        if dead := _dead(processes):
            return _NOTHING, dead
        return next(iterator), None
    except (RuntimeError, OSError, EOFError) as error:
        if str(error).startswith("DataLoader timed out"):
            return _NOTHING, _dead(processes)
        for _ in range(100):  # a process closes its connections some time before it can be seen that it is dead
            if dead := _dead(processes):
                return _NOTHING, dead
            time.sleep(0.01)
        raise
    finally:
        _waiting -= 1


def _dead(processes: list[Any]) -> WorkerError | None:
    """The error that tells of a dead worker; None: all live."""
    codes = [process.exitcode for process in processes if process.exitcode is not None]
    if not codes:
        return None
    if codes[0] == CANNOT_SEND:
        return WorkerError(
            "A worker process cannot send what it made.",
            cause="too little shared memory, or too few file descriptors",
            fix=_FIX,
        )
    if codes[0] < 0:
        return DeadWorkerError(
            "A worker process was killed.",
            found=signal.Signals(-codes[0]).name,
            cause="the system had no memory left for it (see `dmesg`), or the container's limit was reached",
            fix="fewer --workers (0: none), or more memory",
        )
    return DeadWorkerError(
        "A worker process ended by itself.",
        found=f"exit code {codes[0]}",
        expected="that it lives until all is made",
        fix="fewer --workers (0: none)",
    )


def _hung(seconds: int, workers: int) -> WorkerError:
    return WorkerError(
        "The worker processes do not answer.",
        found=f"nothing from {workers} of them for {seconds} s",
        cause="too little shared memory in a container, a file system that hangs, or a lock that was copied with the process",
        fix=_FIX,
    )


def _hold_back_deaths() -> None:
    """Let torch tell of a dead worker of ours only while its answer is waited for; it is looked for there anyway."""
    handler = signal.getsignal(signal.SIGCHLD)
    if isinstance(handler, _HeldBack) or not callable(handler) or threading.current_thread() is not threading.main_thread():
        return
    signal.signal(signal.SIGCHLD, _HeldBack(handler))


@dataclass(frozen=True)
class _HeldBack:
    """Torch's handler of the signal that a child died."""

    handler: Callable[[int, FrameType | None], Any]

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if _waiting or not any(process.exitcode for process in list(_processes)):
            self.handler(number, frame)
