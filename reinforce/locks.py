"""Locks: one writer at a time for a folder; the lock of a killed process ends with that process."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reinforce.errors import BusyError
from reinforce.files import check_output, fsync_folder, make_folder, replacing

_LOCK = ".lock"
_held: set[Path] = set()  # locks of this process


@contextmanager
def only_writer(folder: Path, lock: Path | None = None) -> Iterator[None]:
    """Lock `folder` against other writers while the context lasts; the lock of a killed process ends with that process.

    `lock` is its file, if that is not in the folder.

    It is a POSIX record lock: worker processes do not inherit it, so they cannot keep it after their parent has died.

    Raises:
        BusyError: another process holds the lock.
    """
    path = folder / _LOCK if lock is None else lock
    if path.resolve() in _held:  # a record lock does not stop the process that holds it
        raise BusyError(f"{folder} is being written by this very process.", expected="one writer at a time")
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            try:
                raise _busy(folder, handle) from None
            finally:
                os.close(handle)
        try:
            if path.stat().st_ino == os.fstat(handle).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # the previous holder removed the file after we opened it and before we locked it: try again
    _held.add(path.resolve())
    try:
        with suppress(PermissionError):  # a parent that may be passed and not read
            fsync_folder(folder.resolve().parent)  # a new folder, too, is there after a power cut
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        _held.discard(path.resolve())
        path.unlink(missing_ok=True)
        os.close(handle)


def check_not_held(folder: Path, lock: Path) -> None:
    """Refuse to go on while another process holds a lock; the lock itself is left alone.

    Args:
        folder: What that process writes; for the message.
        lock: The lock's file; None of this process.

    Raises:
        BusyError: it is held.
    """
    try:
        handle = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look at once do not see each other
    except OSError:
        raise _busy(folder, handle) from None
    finally:
        os.close(handle)


def _busy(folder: Path, handle: int) -> BusyError:
    return BusyError(
        f"{folder} is being written by another process.",
        found=os.read(handle, 200).decode(errors="replace").strip() or "a lock",
        expected="one writer at a time",
        fix="wait for it, stop it, or choose another --out",
    )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder to write to, as `replacing` does; only one process at a time makes the same folder.

    Raises:
        BusyError: another process is making it.
        StoreError: it is there, and not empty.
    """
    place = path.absolute()
    make_folder(place.parent)
    with only_writer(place, place.with_name(f".{place.name}.lock")):
        check_output(path)
        with replacing(path) as staging:
            staging.mkdir()
            yield staging
