"""Files: atomic writes (readers see all of a file or nothing), hashes, and checks of a folder's other files and writers."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from reinforce.errors import StoreError, UsageError
from reinforce.memory import shortage

_PIECE = 1 << 16

Progress = Callable[[int, int], None]
"""A function that a long job calls to report its progress, with (done, total)."""


@contextmanager
def replacing(path: Path, *, shared: bool = False, synced: bool | None = None) -> Iterator[Path]:
    """Give a temporary path to write to; it replaces `path` when the context ends. Readers see a whole file or folder, or none.

    The temporary path is beside `path`, under a name with a leading dot. At the end everything in it is synced, then one
    rename puts it in place. After an error it is removed.

    Args:
        path: A file, or a folder that is absent or empty.
        shared: Several processes and threads may write the same path at once. Each uses its own temporary name.
        synced: Whether what was written survives a power cut; None: unless it is `shared`, as caches are.

    Raises:
        StoreError: the folder is the current folder of this process, which cannot be replaced.
    """
    if path.is_dir():
        path = path.resolve()
        if path == Path.cwd():
            raise StoreError(f"{path} is the current folder.", expected="a new folder", fix="choose another --out")
    synced = not shared if synced is None else synced
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.partial" if shared else f".{path.name}.partial")
    remove(temporary)
    try:
        yield temporary
        if synced:
            _sync(temporary)
        os.replace(temporary, path)  # noqa: TID251 - the one place
        if synced:
            _sync_folder(path.parent)
    except BaseException:
        remove(temporary)
        raise


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that readers see all of it or nothing."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def writing_once(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `path` when the context ends, unless there is one by then."""
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        yield temporary
        _sync(temporary)
        with suppress(FileExistsError):
            os.link(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_once(path: Path, content: bytes) -> None:
    """Write a file, unless another process has written it in the meantime; readers see all of it or nothing."""
    with writing_once(path) as temporary:
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
    fsync_folder(path)


def fsync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)  # noqa: TID251
    finally:
        os.close(handle)


def is_lock(name: str) -> bool:
    """Whether a file of this name is a lock."""
    return name.startswith(".") and name.endswith(".lock")


def check_output(out: Path, marks: Collection[str] = (), allowed: Collection[str] = ()) -> None:
    """Refuse a folder that holds other files than those that are to be written there. Leftovers of killed writers are ignored.

    Args:
        out: The folder; it may be absent.
        marks: If one of these files is in the folder, it is an output of this kind, and its other files do not matter.
        allowed: Names that may be in the folder although no mark is.

    Raises:
        StoreError: the folder holds other files.
    """
    there = {n for n in os.listdir(out) if not n.endswith(".partial") and not is_lock(n)} if out.is_dir() else set()
    if there - set(allowed) and not there & set(marks):
        raise StoreError(
            f"{out} holds other files.",
            found=", ".join(sorted(there - set(allowed))[:3]),
            expected="an empty or new folder",
            fix="choose another --out",
        )


def check_beside(out: str | Path, folder: str | Path | None, what: str) -> None:
    """Refuse to write into a folder that is read: its list of files, and whoever copies or removes it, would meet what is new.

    Args:
        out: The folder to write, if it is a local one.
        folder: The folder that is read; it itself is refused elsewhere, by what is in it.
        what: What the user calls it, such as an option.

    Raises:
        UsageError: `out` is inside of it.
    """
    if folder is None:
        return
    outer = Path(folder).resolve()
    if outer in Path(out).resolve().parents and outer.is_dir():
        raise UsageError(
            f"--out is inside of {what}.",
            found=f"{out} in {folder}",
            expected="a folder beside it",
            fix="choose another --out",
        )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn errors of the file system while `path` is written into an error for the user.

    Raises:
        StoreError: a full disk, missing permissions, a file where a folder should be.
        TooManyFilesError, OutOfMemoryError: the process is short of them, which says nothing of `path`.
    """
    try:
        yield
    except OSError as error:
        if (short := shortage(error)) is not None:
            raise short from error
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


def check_plain(path: str | Path) -> None:
    """Refuse a pipe, on which one may wait for ever, a device, which may have no end, and a folder.

    Raises:
        OSError: it is no plain file, or absent.
    """
    mode = Path(path).stat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "no plain file", str(path))


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


def open_plain(path: str | Path) -> FileIO:
    """Open a plain file for reading; a pipe, on which one may wait for ever, is not opened, nor is a device.

    Raises:
        OSError: it cannot be read, or is no plain file.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "no plain file", str(path))
    return open(handle, "rb", buffering=0)


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


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing; a power cut takes none of them away again."""
    new = [each for each in (path, *path.parents) if not each.is_dir()]
    path.mkdir(parents=True, exist_ok=True)
    for each in reversed(new):
        with suppress(PermissionError):  # a parent that may be passed and not read
            fsync_folder(each.resolve().parent)
