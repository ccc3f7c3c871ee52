"""Files: atomic writes (readers see all of a file or nothing), hashes, and checks of a folder's other files and writers."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import os
import shutil
import socket
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from reinforce.errors import BusyError, StoreError

_LOCK = ".lock"
_PIECE = 1 << 16
_held: set[Path] = set()  # locks of this process


Progress = Callable[[int, int], None]
"""A function that a long job calls to report its progress, with (done, total)."""


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to; it replaces `path` when the context ends. Readers see a whole file or folder, or none.

    The temporary path is beside `path`, under a name with a leading dot. At the end everything in it is synced, then one
    rename puts it in place. After an error it is removed.

    Args:
        path: A file, or a folder that is absent or empty.
        shared: For caches: several processes and threads may write the same path at once. Each uses its own temporary name,
            and nothing is synced.

    Raises:
        StoreError: the folder is the current folder of this process, which cannot be replaced.
    """
    if path.is_dir():
        path = path.resolve()
        if path == Path.cwd():
            raise StoreError(f"{path} is the current folder.", expected="a new folder", fix="choose another --out")
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.partial" if shared else f".{path.name}.partial")
    remove(temporary)
    try:
        yield temporary
        if not shared:
            _sync(temporary)
        os.replace(temporary, path)  # noqa: TID251 - the one place
        if not shared:
            _sync_folder(path.parent)
    except BaseException:
        remove(temporary)
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; a path that is absent is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    if not path.is_dir():
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # noqa: TID251
        return
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            _sync(Path(folder, name))
        _sync_folder(Path(folder))


def _sync_folder(path: Path) -> None:
    """Make renames inside of a folder durable."""
    _fsync(path)


def _fsync(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)  # noqa: TID251
    finally:
        os.close(handle)


def check_output(out: Path, marks: Collection[str] = (), allowed: Collection[str] = ()) -> None:
    """Refuse a folder that holds other files than those that are to be written there. Leftovers of killed writers are ignored.

    Args:
        out: The folder; it may be absent.
        marks: If one of these files is in the folder, it is an output of this kind, and its other files do not matter.
        allowed: Names that may be in the folder although no mark is.

    Raises:
        StoreError: the folder holds other files.
    """
    there = {n for n in os.listdir(out) if not n.endswith(".partial") and n != _LOCK} if out.is_dir() else set()
    if there - set(allowed) and not there & set(marks):
        raise StoreError(
            f"{out} holds other files.",
            found=", ".join(sorted(there - set(allowed))[:3]),
            expected="an empty or new folder",
            fix="choose another --out",
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system while `path` is written into an error for the user.

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
    """Write pieces to an open file; returns the hex digest of their sha256, and how many bytes they have in all."""
    digest, length = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        length += len(piece)
        file.write(piece)
    return digest.hexdigest(), length


def read_at_most(path: str | Path, limit: int) -> bytes:
    """The first bytes of a file, read piece by piece: the memory that this takes is that of what the file has.

    Args:
        path: A plain file; a pipe, on which one may wait for ever, is not opened.
        limit: Reading ends after this many bytes and one more, by which the caller sees that the file is too long.

    Raises:
        OSError: it cannot be read, or is no plain file.
    """
    with open_plain(path) as file:
        content = bytearray()
        while len(content) <= limit and (piece := file.read(min(_PIECE, limit + 1 - len(content)))):
            content += piece
    return bytes(content)


def open_plain(path: str | Path) -> io.FileIO:
    """Open a plain file for reading; a pipe, on which one may wait for ever, is not opened, nor is a device.

    Raises:
        OSError: it cannot be read, or is no plain file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "no plain file", str(path))
    return io.FileIO(handle)


def read_small(path: Path, most: int = 1 << 20) -> bytes:
    """The content of a plain file of at most `most` bytes, such as settings.

    Raises:
        OSError: it cannot be read, is longer, or is a device or a pipe, whose reading may never end.
    """
    content = read_at_most(path, most)
    if len(content) > most:
        raise OSError(f"{path} has more than {most} bytes")
    return content


def file_sha256(path: Path) -> str:
    """Hex digest of a plain file's content."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
            holder = os.read(handle, 200).decode(errors="replace").strip()
            os.close(handle)
            raise BusyError(
                f"{folder} is being written by another process.",
                found=holder or "a lock",
                expected="one writer at a time",
                fix="wait for it, stop it, or choose another --out",
            ) from None
        try:
            if path.stat().st_ino == os.fstat(handle).st_ino:
                break
        except FileNotFoundError:
            pass
        os.close(handle)  # the previous holder removed the file after we opened it and before we locked it: try again
    _held.add(path.resolve())
    try:
        with suppress(PermissionError):  # a parent that may be passed and not read
            _fsync(folder.resolve().parent)  # a new folder, too, is there after a power cut
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
    finally:
        _held.discard(path.resolve())
        path.unlink(missing_ok=True)
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing; a power cut takes none of them away again."""
    new = [each for each in (path, *path.parents) if not each.is_dir()]
    path.mkdir(parents=True, exist_ok=True)
    for each in reversed(new):
        with suppress(PermissionError):  # a parent that may be passed and not read
            _fsync(each.resolve().parent)


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
