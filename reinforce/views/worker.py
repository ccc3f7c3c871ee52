"""Worker: what a process that decodes does before its first sample."""

from __future__ import annotations

import signal

from reinforce.memory import keep_freed_memory

_LARGEST = 1 << 26
"""Photographs of up to 22 megapixels are decoded into memory that is there; a larger one is not to stay in every process."""


def start_worker(worker: int) -> None:
    """Leave Ctrl-C to the parent, and keep freed memory; for `DataLoader(worker_init_fn=...)`.

    Ctrl-C reaches the whole process group; the parent finishes its step and stops the workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory(_LARGEST)
