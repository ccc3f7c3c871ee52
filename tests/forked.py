"""Work in a process of its own that ends, or waits, at an exact point of the code: what a kill leaves, found without sleeping.

The processes are forked from a server that has imported what they need, so that one costs a fraction of a second. The code
that runs knows nothing of it: a function of it is replaced, in the child alone, by one that counts its calls and acts.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from reinforce.errors import ReinforceError

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.forked", "tests.generation.generator", "reinforce.cli.generate", "pandas"])  # pyarrow's


@dataclass(frozen=True)
class Point:
    """A call of a function, by the order of its calls, and what happens there."""

    where: str
    """`module:name` or `module:Class.name`, where the code that runs looks it up."""
    call: int = 1
    after: bool = False
    act: Literal["kill", "interrupt", "hold"] = "kill"
    """`kill`: as power that fails; `interrupt`: as Ctrl-C; `hold`: tells the parent and waits for it."""


class Child:
    """A process that does `work(*arguments)` up to a point. Use it as a context: what still runs at its end is killed."""

    def __init__(self, work: Callable[..., object], *arguments: object, at: Point | None = None) -> None:
        self._line, theirs = _FORKS.Pipe()
        self._process = _FORKS.Process(target=_run, args=(theirs, at, work, arguments))
        self._process.start()
        theirs.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait_until_held(self) -> None:
        """Return when the child stands at its point."""
        assert self._line.recv() == "held"

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._line.close()

    def end(self) -> tuple[int | None, str]:
        """Wait for its end: the exit code, negative for a signal, and what it said."""
        self._process.join()
        try:
            said = self._line.recv()
        except EOFError:  # killed
            said = ""
        return self._process.exitcode, said


def run(work: Callable[..., object], *arguments: object, at: Point | None = None) -> tuple[int | None, str]:
    """Do `work(*arguments)` in a process of its own: the exit code, negative for a signal, and what was said."""
    with Child(work, *arguments, at=at) as child:
        return child.end()


def command(*arguments: object) -> None:
    """The command line, for a child."""
    from reinforce.cli.main import main

    sys.argv = ["reinforce", *map(str, arguments)]
    main()


def _run(line: Connection, at: Point | None, work: Callable[..., object], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background has it ignored
    multiprocessing.set_start_method(None, force=True)  # its own processes are started as anyone's, not as it was
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if at is not None:
                _act_at(at, line)
            work(*arguments)
        except SystemExit as done:
            code = int(done.code or 0)
        except ReinforceError as error:
            code = error.exit_code
            said.write(f"error: {error}")
        except BaseException:  # noqa: BLE001 - whatever ended the work is told to the parent
            code = 70
            said.write(traceback.format_exc())
    line.send(said.getvalue())
    sys.exit(code)


def _act_at(point: Point, line: Connection) -> None:
    module, _, path = point.where.partition(":")
    *outer, name = path.split(".")
    owner: Any = functools.reduce(getattr, outer, importlib.import_module(module))
    original, calls = getattr(owner, name), 0

    def act() -> None:
        if point.act == "hold":
            line.send("held")
            line.recv()  # does not come: the parent kills
        os.kill(os.getpid(), signal.SIGKILL if point.act == "kill" else signal.SIGINT)

    @functools.wraps(original)
    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        now = calls == point.call
        if now and not point.after:
            act()
        result = original(*arguments, **options)
        if now and point.after:
            act()
        return result

    setattr(owner, name, counting)
