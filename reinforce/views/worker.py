"""Worker: what a process that decodes does before its first sample."""

from __future__ import annotations

import multiprocessing.queues
import os
import signal

from reinforce.errors import first_line
from reinforce.memory import keep_freed_memory
from reinforce.orphan import end_with_parent

CANNOT_SEND = 74
"""Exit code of a worker that could not send what it made."""
_LARGEST = 1 << 26
"""Freed memory up to this size is kept for the next image: enough for 22 megapixels; memory of larger images is given back."""


def start_worker(worker: int) -> None:
    """Leave Ctrl-C to the parent, keep freed memory, and end with the parent, or if nothing can be sent; a `worker_init_fn`.

    Ctrl-C reaches the whole process group; the parent finishes its step and stops the workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    keep_freed_memory(_LARGEST)
    # A thread of the queue sends; if it fails, it prints a traceback and drops what it had, and the parent waits for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]


def _end(error: Exception, made: object) -> None:
    os.write(2, f"A worker cannot send what it made: {first_line(error)}\n".encode())
    os._exit(CANNOT_SEND)
