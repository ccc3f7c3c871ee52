"""Kinds of tests: every test is `unit`, `process` or `network`, and a unit test that starts a process or opens a socket fails.

A module says `pytestmark = pytest.mark.unit`; what a test says itself takes its place. `slow` comes beside a kind.
"""

from __future__ import annotations

import multiprocessing.util
import socket
import sys
from collections.abc import Generator, Sequence
from typing import Any

import pytest

KINDS = ("unit", "process", "network")
_STARTS = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.exec", "os.system")
_REACHES = ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto")
_unit: str | None = None  # the unit test that runs now
_done: list[str] = []  # what it did that a unit test does not: it may have caught the error, or a thread got it


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Python tells of everything that reaches outside (`sys.addaudithook`); no patch of a module is needed, and none missed."""
    if _unit is None:
        return
    if event in _STARTS or (event in _REACHES and not _is_local(event, arguments)):
        _done.append(event)
        pytest.fail(f"{event} {arguments[1:2] or ''}: {_unit} is marked unit; mark it process or network")


def _is_local(event: str, arguments: tuple[Any, ...]) -> bool:
    """Between threads of this process, as asyncio's loops have them: a socket of the file system."""
    return event != "socket.getaddrinfo" and arguments[0].family == socket.AF_UNIX


def _spawnv_passfds(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    # The one way that starts a process and tells nobody: multiprocessing's spawn.
    sys.audit("os.posix_spawn", path, args, passfds)
    return _original_spawn(path, args, passfds)


_original_spawn = multiprocessing.util.spawnv_passfds
multiprocessing.util.spawnv_passfds = _spawnv_passfds
sys.addaudithook(_audit)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    nearest = {item: _nearest(item) for item in items}
    bare = [item.nodeid for item, kinds in nearest.items() if not kinds]
    both = [item.nodeid for item, kinds in nearest.items() if "unit" in kinds and len(kinds) > 1]
    if bare or both:
        said = [f"  {name}: has no kind" for name in bare] + [f"  {name}: is unit and something else" for name in both]
        raise pytest.UsageError("\n".join([f"Tests are marked {', '.join(KINDS)} (tests/kinds.py):", *said[:20]]))
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)  # first: what runs beside another process ends with it
    for item, kinds in nearest.items():
        for node in item.listchain():
            node.own_markers[:] = [mark for mark in node.own_markers if mark.name not in KINDS]
        for kind in kinds:
            item.add_marker(kind)


def _nearest(item: pytest.Item) -> list[str]:
    """The kinds that the test itself states, or else the nearest of what it stands in."""
    for node in reversed(item.listchain()):
        stated = sorted({mark.name for mark in node.own_markers if mark.name in KINDS})
        if stated:
            return stated
    return []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """With its fixtures: what a session shares may not hang on which test came first."""
    global _unit
    _unit = item.nodeid if item.get_closest_marker("unit") else None
    try:
        return (yield)
    finally:
        _unit = None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    _done.clear()
    result = yield
    if _done:
        pytest.fail(f"{', '.join(_done)} in {item.nodeid}, which is marked unit; the error was caught")
    return result
