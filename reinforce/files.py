"""Files: writing one so that it is seen whole or not at all, hashing one, and holding a folder against a second writer."""

from __future__ import annotations

import fcntl
import hashlib
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reinforce.errors import BusyError, StoreError

_LOCK = ".lock"
_held: set[Path] = set()  # locks of this process


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync it, and rename it into place."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(path: Path) -> None:
    """Make renames inside of a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system says while `path` is written into an error for the user.

    Raises:
        StoreError: a full disk, missing permissions, a file where a folder should be.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written.",
            found=f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""),
            cause="a full disk, a quota, missing permissions, or a file where a folder should be",
            fix="make room or choose another --out, and run the same command again: what is committed is kept",
        ) from error


def write_pieces(file: BinaryIO, pieces: Iterable[bytes]) -> tuple[str, int]:
    """Write pieces to an open file and sync it; hex digest of their sha256, and their bytes in all."""
    digest, length = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        length += len(piece)
        file.write(piece)
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest(), length


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold `folder` against other writers for as long as the context lasts; a killed holder lets go by itself.

    A POSIX record lock: worker processes do not inherit it, so they cannot keep it alive after their parent died.

    Raises:
        BusyError: another process holds it.
    """
    path = folder / _LOCK
    if path.resolve() in _held:  # a record lock does not keep its own process out
        raise BusyError(f"{folder} is being written by this very process.", expected="one writer at a time")
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise BusyError(
                f"{folder} is being written by another process.",
                found=holder or "a lock",
                expected="one writer at a time",
                fix="wait for it, stop it, or choose another --out",
            ) from None
        try:
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # the last holder removed the file between our open and our lock
    _held.add(path.resolve())
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        _held.discard(path.resolve())
        path.unlink(missing_ok=True)
        os.close(handle)
