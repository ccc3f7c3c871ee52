"""Long work: progress of work deep inside, of which no caller asks for it, such as the first look at all shards.

It says nothing unless somebody listens: the command line does, and shows it on stderr once such work has taken seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from reinforce.files import Progress

PATIENCE_S = 2.0
"""Seconds after which work counts as long."""
Listener = Callable[[str, str], Progress]
"""A function that begins to show work: its name, and what is counted, to the function that is told (done, total)."""

_listener: Listener | None = None


def listen(listener: Listener | None) -> None:
    """Show all long work of this process from now on; None: no more."""
    global _listener
    _listener = listener


def long_work(name: str, unit: str) -> Progress:
    """A function to be told (done, total) while work is done; what it is told is shown once the work is long.

    Args:
        name: What is done, such as `index`.
        unit: What is counted, such as `shards`.
    """
    began, shown = time.monotonic(), list[Progress]()

    def tell(done: int, total: int) -> None:
        if not shown and _listener is not None and done < total and time.monotonic() - began >= PATIENCE_S:
            shown.append(_listener(name, unit))
        for each in shown:
            each(done, total)

    return tell
