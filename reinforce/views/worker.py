"""Worker: what a process that decodes does before its first sample."""

from __future__ import annotations

import signal

from reinforce.memory import keep_freed_memory

_LARGEST = 1 << 26
"""Freed memory up to this size is kept for the next image: enough for 22 megapixels; memory of larger images is given back."""


def start_worker(worker: int) -> None:
    """Leave Ctrl-C to the parent, and keep freed memory; for `DataLoader(worker_init_fn=...)`.

    Ctrl-C reaches the whole process group; the parent finishes its step and stops the workers itself.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory(_LARGEST)
