"""Silence: hide a library's warnings and log lines during a call, in the calling thread only.

`warnings.catch_warnings` and a logger's level change the whole process. During the call, warnings of other threads are lost. If
two threads leave in another order than they entered, all warnings stay hidden for good.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class _Here(threading.local):
    silent = 0


_here = _Here()
_lock = threading.Lock()


class _InThisThread(type):
    """Metaclass of a category to which every warning belongs, as long as the thread that warns is silent."""

    def __subclasscheck__(cls, other: type) -> bool:
        return bool(_here.silent)


class _Silenced(Warning, metaclass=_InThisThread):
    """The category of the one filter that stays in Python's list; no code raises it."""


@contextmanager
def no_warnings() -> Iterator[None]:
    """Ignore Python's warnings in this thread, for any warning filters.

    A filter that another thread adds during the call comes before ours and may show warnings; only the user's own program
    should add filters.
    """
    if not warnings.filters or warnings.filters[0][2] is not _Silenced:
        warnings.simplefilter("ignore", _Silenced)
    _here.silent += 1
    try:
        yield
    finally:
        _here.silent -= 1


@contextmanager
def no_log(package: str) -> Iterator[None]:
    """Drop what this thread logs below level ERROR to the package's loggers that exist when the context begins."""
    thread = threading.get_ident()

    def audible(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.ERROR

    # A logger's filter sees only records logged to this very logger, so each logger gets one. The list of filters is replaced,
    # not changed in place, because other threads may be reading it.
    names = [name for name in list(logging.root.manager.loggerDict) if name == package or name.startswith(f"{package}.")]
    loggers = [logging.getLogger(name) for name in (package, *names)]
    with _lock:
        for logger in loggers:
            logger.filters = [*logger.filters, audible]
    try:
        yield
    finally:
        with _lock:
            for logger in loggers:
                logger.filters = [f for f in logger.filters if f is not audible]
