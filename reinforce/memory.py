"""Memory: keep freed memory, share some between processes, say what was made when it was too little.

Too few file descriptors are told here too: both are shortages of this process, and say nothing of the file that met them.
"""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from reinforce.errors import OutOfMemoryError, ReinforceError, TooManyFilesError, first_line

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = -1
_OLD_LIMIT = 1 << 25
"""Largest threshold that older versions of glibc accept (half of HEAP_MAX_SIZE)."""

Mallopt = Callable[[int, int], int]
"""C's `mallopt(option, value)`; it returns 1 if it accepted the value, 0 if it refused it."""


def keep_freed_memory(largest: int = 1 << 30) -> int:
    """Let this process reuse the memory that it freed, instead of returning it to the kernel and getting it again page by page.

    By default, glibc returns freed blocks above 32 MB to the kernel at once, and free memory above 128 kB at the end of its
    heap. Activations of a batch exceed the first limit, views of an image the second: a MobileNetV2 on two cores spent three
    quarters of its time on clearing pages. For whole programs, not for libraries: it changes the whole process. Without
    glibc it does nothing.

    Args:
        largest: Blocks of at least this many bytes are still returned to the kernel.

    Returns:
        The size in bytes up to which freed blocks are kept from now on: `largest`; less if the C library accepts only less; 0
        if it accepts nothing or has no such options.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl and macOS have none
        return 0
    return set_thresholds(mallopt, largest)


def set_thresholds(mallopt: Mallopt, largest: int) -> int:
    """Set both thresholds of malloc, or none; returns the same as `keep_freed_memory`."""
    # The order matters: setting M_TRIM_THRESHOLD stops glibc from adapting M_MMAP_THRESHOLD. If that is refused afterwards, it
    # would stay at 128 kB, and every larger block would be returned to the kernel at once.
    kept = next((size for size in (largest, min(largest, _OLD_LIMIT)) if mallopt(_M_MMAP_THRESHOLD, size)), 0)
    return kept if kept and mallopt(_M_TRIM_THRESHOLD, _NEVER) else 0


_OF_TORCH = ("can't allocate memory", "not enough memory", "out of memory")  # torch raises RuntimeErrors
_OF_ONEDNN = "could not create a primitive"
_OF_SYSTEM = (errno.ENOMEM, errno.EAGAIN)  # EAGAIN: no process or thread can be started
_OF_THREADS = ("can't start new thread", "Failed to launch worker thread")  # Python's words, and arrow's


def shortage(error: BaseException) -> ReinforceError | None:
    """The error for the user if this one says that the process lacks memory, threads or file descriptors, else None."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return TooManyFilesError(
            "This process may open no more files.",
            found=_found(error, error.strerror) + (f": {error.filename}" if error.filename else ""),
            cause="a low limit of open files (`ulimit -n`), or many --workers; nothing is wrong with the file",
            fix="`ulimit -n 4096`, or fewer --workers (0: none), and run the same command again: what is committed is kept",
        )
    return out_of_memory(error)


def out_of_memory(error: BaseException) -> OutOfMemoryError | None:
    """The error for the user if this one says that there is too little memory, else None; numpy and torch say how much."""
    if isinstance(error, OutOfMemoryError):
        return error
    if isinstance(error, OSError):
        return _shortage(_found(error)) if error.errno in _OF_SYSTEM else None
    short = (
        isinstance(error, MemoryError)
        or str(error) == _OF_ONEDNN
        or any(text in str(error) for text in (*_OF_TORCH, *_OF_THREADS))
    )
    return _shortage(_found(error)) if short else None


def _found(error: BaseException, said: str | None = None) -> str:
    """What an error says, and in which function of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "reinforce" in frame.filename] or frames
    where = f", in {ours[-1].name} of {ours[-1].filename.rpartition('/')[2]}" if ours else ""
    return f"{said or first_line(error)}{where}"


@contextmanager
def making(what: str, nbytes: int) -> Iterator[None]:
    """While something large is made: a lack of memory is told with what it is, and how large.

    Raises:
        OutOfMemoryError: there is too little memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error) is None:
            raise
        raise _shortage(f"{what} needs {nbytes / 1e6:,.0f} MB") from error


def _shortage(found: str) -> OutOfMemoryError:
    return OutOfMemoryError(
        "There is not enough memory.",
        found=found,
        cause="too many workers or too large batches for this machine, a limit of its, or a file that claims to be huge",
        fix="fewer --workers, a lower --batch-size, or more memory; what is committed is kept",
    )


def nameless(size: int) -> int:
    """The descriptor of a new file of `size` bytes that has no name and ends with its last descriptor."""
    if hasattr(os, "memfd_create"):
        handle = os.memfd_create("reinforce")
    else:
        with tempfile.TemporaryFile() as file:
            handle = os.dup(file.fileno())
    try:
        os.ftruncate(handle, size)
    except OSError:
        os.close(handle)
        raise
    return handle
