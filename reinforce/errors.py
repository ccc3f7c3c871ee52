"""The errors that a user can meet, as a tree. Each says what was found, what was expected, the likely cause, and what to do.

ReinforceError            exit code 1: a check failed or the data is bad
|-- Interrupted           exit code 130: Ctrl-C or a TERM signal; finished work is saved
|-- OutOfMemoryError      there is too little memory for what was being made
|-- TooManyFilesError     this process may open no more files
|-- UsageError            exit code 2: wrong options, or options that contradict what is already on disk
|   `-- SettingsError     an existing output was made with another setting
|-- WorkerError           worker processes cannot be started, or do not answer
|   `-- DeadWorkerError   a worker process was killed, or ended by itself
`-- DataError
    |-- SourceError       images or class folders are missing or not usable
    |   `-- ImageError    one image cannot be decoded
    |-- StoreError        a reinforced dataset on disk is incomplete or damaged, or a folder holds none
    |   `-- BusyError     another process is writing the same output
    |-- LabelError        a probability array or a record is not a distribution
    |-- TeacherError      weights or class map do not fit the teacher or the data
    `-- ReplayError       replayed pixels or labels differ from the stored ones
"""

from __future__ import annotations

import reprlib
from typing import Self

__all__ = [
    "BusyError",
    "DataError",
    "DeadWorkerError",
    "ImageError",
    "Interrupted",
    "LabelError",
    "OutOfMemoryError",
    "ReinforceError",
    "ReplayError",
    "SettingsError",
    "SourceError",
    "StoreError",
    "TeacherError",
    "TooManyFilesError",
    "UsageError",
    "WorkerError",
]


_LONGEST_PART = 2000


class ReinforceError(Exception):
    """Base of all errors meant for the user's eyes.

    Args:
        what: One sentence that names the problem.
        found: What was there.
        expected: What should have been there.
        cause: The likely cause.
        fix: The next command or action.
    """

    exit_code = 1

    def __init__(
        self,
        what: str,
        *,
        found: object | None = None,
        expected: object | None = None,
        cause: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.what = _cut(what)
        lines = [self.what]
        for name, value in (("found", found), ("expected", expected), ("likely cause", cause), ("next", fix)):
            if value is not None:
                lines.append(f"  {name + ':':<13} {_cut(value)}")
        super().__init__("\n".join(lines))

    def advised(self, fix: str) -> Self:
        """This error with one more thing to do, which only the caller knows of."""
        *before, last = str(self).split("\n")
        advice = f"{last}; {fix}" if last.startswith("  next:") else f"{last}\n  {'next:':<13} {fix}"
        self.args = ("\n".join([*before, advice]),)
        return self

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes pickle errors for their parent; without this, pickle would call __init__ without the keywords.
        return (_rebuild, (type(self), self.what, self.args))


def _rebuild(kind: type[ReinforceError], what: str, args: tuple[object, ...]) -> ReinforceError:
    error = kind(what)
    error.args = args
    return error


def _cut(value: object) -> str:
    """A part of an error, cut to a length that fits a terminal: texts out of a file may have millions of letters."""
    try:
        text = str(value)
    except ValueError:  # whole numbers of more digits than Python writes
        text = shown(value)
    return text if len(text) <= _LONGEST_PART else f"{text[: _LONGEST_PART - 3]}..."


class Interrupted(ReinforceError):  # noqa: N818 - an interruption is not an error
    """The user or the machine asked the process to stop; its state was saved."""

    exit_code = 130


class OutOfMemoryError(ReinforceError):
    """There is too little memory for what was being made."""


class TooManyFilesError(ReinforceError):
    """This process, or the system, may open no more files."""


class UsageError(ReinforceError):
    """The command line or an argument is wrong."""

    exit_code = 2


class SettingsError(UsageError):
    """An existing output was made with another setting; both values are named."""


class WorkerError(ReinforceError):
    """Processes that work for this one cannot be started, or do not answer."""


class DeadWorkerError(WorkerError):
    """A process that works for this one was killed, or ended by itself."""


class DataError(ReinforceError):
    """Something read from disk is bad."""


class SourceError(DataError):
    """The source of images is not usable."""


class ImageError(SourceError):
    """One image cannot be decoded."""


class StoreError(DataError):
    """A reinforced dataset is incomplete or damaged, or a folder holds none."""


class BusyError(StoreError):
    """Another process is writing the same output."""


class LabelError(DataError):
    """An array is not a distribution, or a record does not decode to one."""


class TeacherError(DataError):
    """The teacher's weights or class map do not fit."""


class ReplayError(DataError):
    """Replay differs from what was generated."""


LONGEST = 100
"""Most characters that an error shows of a value or a text out of a file."""


class _Shown(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong, self.maxother = 3, LONGEST, 40, LONGEST

    def repr_int(self, x: int, level: int) -> str:
        return super().repr_int(x, level) if x.bit_length() < 1024 else f"a number of {x.bit_length()} bits"

    def repr_bytes(self, x: bytes, level: int) -> str:
        return self.repr_str(x[:LONGEST], level)  # type: ignore[arg-type]

    def repr_instance(self, x: object, level: int) -> str:
        # Python's own repr goes through everything that a value holds: of these few kinds it is short.
        return repr(x) if x is None or isinstance(x, (bool, float, complex, type)) else f"<{type(x).__name__}>"


def shown(value: object) -> str:
    """A value out of a file as an error shows it: about as `repr` does, in time and length that nothing in the file can raise.

    `repr` of `t = (t, t)`, nested 60 deep, would never end, and of a list that is nested 200,000 deep would end the process.
    """
    text = _Shown().repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def first_line(error: BaseException) -> str:
    """An error in one line: its type and the first line of its text, cut to a length that is read."""
    line = next(iter(str(error)[: 8 * LONGEST].splitlines()), "")
    line = line if len(line) <= 4 * LONGEST else f"{line[: 4 * LONGEST - 3]}..."
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
