"""Silence: what a library warns of is kept from the user during a call, in the thread that calls and in no other.

`warnings.catch_warnings` and a logger's level hold for the whole process: what other threads warn of meanwhile is lost, and two
threads that leave in another order than they came leave everything silent for good.
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
    """The class of a category that every warning belongs to while the thread that warns is silent."""

    def __subclasscheck__(cls, other: type) -> bool:
        return bool(_here.silent)


class _Silenced(Warning, metaclass=_InThisThread):
    """Not raised by anyone: the category of the one filter that stays in Python's list."""


@contextmanager
def no_warnings() -> Iterator[None]:
    """Python's warnings of this thread are ignored, whatever filters there are.

    Filters that another thread puts in front meanwhile come first; nobody but the user's own program should do that.
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
    """What this thread logs below an error in a package's loggers is dropped: those that are there when it begins."""
    thread = threading.get_ident()

    def audible(record: logging.LogRecord) -> bool:
        return record.thread != thread or record.levelno >= logging.ERROR

    # A logger's filters see only what is logged to itself, so each gets one. Lists are replaced: other threads read them.
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
