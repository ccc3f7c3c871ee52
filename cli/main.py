"""The `reinforce` command: what stands around all commands, from the first moment on: Ctrl-C, errors, exit codes.

This file imports almost nothing, because what is pressed during imports that come before it would end in a traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

TYPE_CHECKING = False  # typing's own takes milliseconds to import
if TYPE_CHECKING:
    from typing import NoReturn

Handler = Callable[[int, FrameType | None], object]
_MOMENT = 0.01
"""Seconds until an interrupt that Python dropped comes again."""


def main() -> None:
    """Entry point: exit code 0 done, 1 a check failed or the data is bad, 2 wrong usage, 130 interrupted."""
    _handle_interrupts(signal.default_int_handler, _leave)
    from reinforce.errors import ReinforceError
    from reinforce.memory import keep_freed_memory, shortage

    try:
        from reinforce.cli.app import run

        keep_freed_memory()
        _handle_interrupts(_leave, _interrupt)
        sys.unraisablehook = _interrupt_again
        run(sys.argv[1:])
    except KeyboardInterrupt:
        _end_quietly()
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as end:
        if end.code == 130:  # typer's, which says nothing: Ctrl-C before a command's own handling of it began
            _end_quietly()
            print("\ninterrupted; nothing was running yet that would have to be saved", file=sys.stderr)
        raise
    except Exception as error:
        told = error if isinstance(error, ReinforceError) else shortage(error)
        if told is None:
            raise
        _end_quietly()
        print(f"error: {told}", file=sys.stderr)
        sys.exit(told.exit_code)
    finally:
        with suppress(KeyboardInterrupt):  # all is done
            _handle_interrupts(_interrupt, signal.SIG_IGN)  # from here on it would be a traceback, and there is nothing to stop


def _handle_interrupts(before: Handler, after: Handler | signal.Handlers) -> None:
    """Ctrl-C calls `after` from now on if it called `before`; it may also be ignored, as in the background of a shell."""
    if signal.getsignal(signal.SIGINT) is before:
        with suppress(ValueError):  # not in the main thread, which alone gets signals
            signal.signal(signal.SIGINT, after)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; but end the process if a module is being imported, which may turn it into any other error.

    As after a kill, what is committed is kept.
    """
    place = frame
    while place is not None:
        if place.f_code.co_filename == "<frozen importlib._bootstrap>":
            _leave(number, frame)
        place = place.f_back
    signal.default_int_handler(number, frame)


def _interrupt_again(dropped: sys.UnraisableHookArgs) -> None:
    """Python drops what is raised in a destructor, or in a handler while it forks; Ctrl-C comes again, a moment later."""
    if dropped.exc_type is KeyboardInterrupt:
        from threading import Timer

        again = Timer(_MOMENT, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(dropped)


def _end_quietly() -> None:
    """Python takes down what is half made, such as an event loop, and prints tracebacks of it, which tell a user nothing."""
    import warnings

    sys.unraisablehook = lambda _: None
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"\ninterrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
