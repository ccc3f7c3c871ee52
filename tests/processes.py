"""Processes that a command has started: which there are, what they are called, and when they are gone."""

from __future__ import annotations

import time
from pathlib import Path


def children(pid: int) -> list[int]:
    """The children of a process that its first thread has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """These, and all that they have started."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def name_of(pid: int) -> str:
    """Its name; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until_gone(pids: list[int], seconds: float = 30) -> None:
    """Wait until processes have ended."""
    until = time.monotonic() + seconds
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < until, {pid: name_of(pid) for pid in left}
        time.sleep(0.1)
