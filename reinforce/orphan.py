"""Orphan: a process that works for another ends soon after that one has died, whatever it is doing.

Torch's workers look for their parent only between two items, and wait for ever if they cannot send what they made.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_LOOK_EVERY = 0.5
"""Seconds between two looks for the parent."""


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while processes are started. They inherit this: it is for the process that started them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(*, group: bool = False) -> None:
    """Watch the parent from a thread, and end this process when it is gone; `group`: with its whole process group."""
    threading.Thread(target=_watch, args=(os.getppid(), group), daemon=True).start()


def _watch(parent: int, group: bool) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_EVERY)
    end(group=group)


def end(*, group: bool) -> None:
    """End this process at once, without a word."""
    if group:
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
