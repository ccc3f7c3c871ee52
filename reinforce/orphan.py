"""Orphan: a process that works for another ends soon after that one has died, whatever it is doing.

Torch's workers look for their parent only between two items, and wait for ever if they cannot send what they made.
"""

from __future__ import annotations

import os
import signal
import threading
import time

_LOOK_EVERY = 0.5
"""Seconds between two looks for the parent."""


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
