"""Worker: what a process that decodes does before its first sample."""

from __future__ import annotations

import ctypes
import signal

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEEP = 1 << 28


def start_worker(worker: int) -> None:
    """Leave Ctrl-C to the parent, and keep freed memory; for `DataLoader(worker_init_fn=...)`.

    Ctrl-C reaches the whole process group; the parent finishes its step and stops the workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Have freed memory reused by this process instead of given back to the kernel and fetched again, page by page.

    Images and views are just above the size from which glibc gives memory back at once: a rotation took twice its time.
    Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_TRIM_THRESHOLD, _KEEP)
    mallopt(_M_MMAP_THRESHOLD, _KEEP)
