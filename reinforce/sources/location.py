"""Location: a local file, or a file at a URL that fsspec supports, read by byte ranges; remote files through a cache on disk.

Remote files are fetched in chunks. Each chunk becomes one file of the cache, which is written completely and then renamed. So
any number of processes share the cache without a lock, and a killed process leaves no half-written chunk. (fsspec's own block
cache keeps one sparse file and a table of the parts it has; the table becomes wrong when several processes write it.)
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from reinforce.errors import SourceError
from reinforce.files import open_plain, replacing
from reinforce.sources.retry import OutageError, retried
from reinforce.sources.server import file_info, file_range

CHUNK_BYTES = 1 << 20
"""Bytes of a remote file that are fetched and kept together."""
_VERSIONS = (
    "ETag", "etag", "blob_id", "sha", "Content-MD5", "Digest",
    "Last-Modified", "LastModified", "last_modified", "modified", "modify", "mtime", "created",
)  # fmt: skip
"""The names that fsspec's file systems use for the version of a file: first names for its content, then names for a time."""


class ServerDownError(SourceError):
    """A server failed for so long that it was given up. Nothing is known of the file: it does not count as missing."""


def is_remote(location: str) -> bool:
    """Whether a location is a URL: `https://...`, `s3://...` or another that fsspec supports."""
    return "://" in location


def cache_root() -> Path:
    """The folder in which remote files and indexes are kept: `$REINFORCE_CACHE`, or `reinforce` in the user's cache folder."""
    given = os.environ.get("REINFORCE_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reinforce"


@dataclass(frozen=True)
class File:
    """A file that is read by byte ranges.

    Attributes:
        location: Path or URL.
        size: In bytes.
        version: Text that changes when the content changes: entity tag or time of change. Empty if the server tells neither;
            then the cache does not notice a changed file if its size is the same.
    """

    location: str
    size: int
    version: str

    @classmethod
    def open(cls, location: str) -> File:
        """Ask for the size and version of a file.

        Raises:
            SourceError: the file does not exist or cannot be reached, or its size is not known.
        """
        try:
            if not is_remote(location):
                about = os.stat(location)
                if not stat.S_ISREG(about.st_mode):
                    raise OSError(f"{location} is no file but a folder, a pipe or a device")
                return cls(location, about.st_size, str(about.st_mtime_ns))
            info = retried(lambda: file_info(location), location)
        except OSError as error:
            raise unreadable(location, error) from None
        if not isinstance(info.get("size"), int):
            raise SourceError(f"The size of {location} is not known.", expected="a server that tells the length of a file")
        return cls(location, info["size"], next((str(info[name]) for name in _VERSIONS if info.get(name) is not None), ""))

    @property
    def fingerprint(self) -> str:
        """Hex digest over location, size and version."""
        place = self.location if is_remote(self.location) else os.path.abspath(self.location)
        text = f"{place}\0{self.size}\0{self.version}"
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()  # a file may have any bytes as its name

    def read(self, offset: int = 0, length: int | None = None) -> bytes:
        """Read a range of bytes; `length` None: up to the end of the file.

        Raises:
            OSError: the range cannot be read, or the file is shorter.
            ServerDownError: the server failed each time that it was asked.
        """
        length = self.size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > self.size:
            raise OSError(f"bytes {offset} to {offset + length} of a file of {self.size} bytes")
        if is_remote(self.location):
            try:
                return self._cached(offset, length)
            except OutageError as error:
                raise unreadable(self.location, error) from None
        content = _slice(self.location, offset, length)
        if len(content) != length:
            raise OSError("the file became shorter")
        return content

    def copied(self) -> Path:
        """The path of a complete copy of a remote file in the cache.

        Raises:
            OSError: the file cannot be fetched, or the cache cannot be written.
        """
        whole = cache_root() / "files" / self.fingerprint
        if _kept_length(whole) != self.size:
            whole.parent.mkdir(parents=True, exist_ok=True)
            with replacing(whole, shared=True) as temporary, open(temporary, "wb") as file:
                file.writelines(
                    _range(self.location, at, min(at + 16 * CHUNK_BYTES, self.size))
                    for at in range(0, self.size, 16 * CHUNK_BYTES)
                )
        return whole

    def _cached(self, offset: int, length: int) -> bytes:
        if not length:
            return b""
        folder = cache_root() / "chunks" / self.fingerprint[:2] / self.fingerprint
        first, last = offset // CHUNK_BYTES, (offset + length - 1) // CHUNK_BYTES
        parts: list[bytes | None] = []
        for number in range(first, last + 1):
            start = max(offset - number * CHUNK_BYTES, 0)
            stop = min(offset + length - number * CHUNK_BYTES, CHUNK_BYTES)
            parts.append(_kept(folder / str(number), self._chunk_length(number), start, stop))
        for i, part in enumerate(parts):
            if part is None:
                end = next((j for j in range(i, len(parts)) if parts[j] is not None), len(parts))
                for j, chunk in enumerate(self._fetch(folder, first + i, first + end), start=i):
                    at = (first + j) * CHUNK_BYTES
                    parts[j] = chunk[max(offset - at, 0) : offset + length - at]
        return b"".join(part for part in parts if part is not None)

    def _chunk_length(self, number: int) -> int:
        return min(CHUNK_BYTES, self.size - number * CHUNK_BYTES)

    def _fetch(self, folder: Path, first: int, stop: int) -> list[bytes]:
        begin, end = first * CHUNK_BYTES, min(stop * CHUNK_BYTES, self.size)
        content = _range(self.location, begin, end)
        parts = []
        for number in range(first, stop):
            at = number * CHUNK_BYTES - begin
            part = content[at : at + self._chunk_length(number)]
            _keep(folder / str(number), part)
            parts.append(part)
        return parts


@lru_cache(maxsize=1024)
def opened(location: str) -> File:
    """A file as it was when this process first looked at it."""
    return File.open(location)


def exists(location: str) -> bool:
    """Whether a file is there; one that must not be read counts as absent, since S3 answers so for files that are absent.

    Raises:
        SourceError: a server that does not answer, or fails.
    """
    try:
        if not is_remote(location):
            return os.path.exists(location)
        retried(lambda: file_info(location), location)
    except (FileNotFoundError, PermissionError):
        return False
    except OSError as error:
        raise unreadable(location, error) from None
    return True


def unreadable(location: str, error: OSError) -> SourceError:
    """The error for a location that cannot be read."""
    remote = is_remote(location)
    absent = isinstance(error, FileNotFoundError)
    kind = ServerDownError if isinstance(error, OutageError) else SourceError
    return kind(
        f"{location} cannot be read.",
        found="no such file" if remote and absent else error.strerror or error,
        expected="a server that answers, and permission to read the file" if remote else "a file that is there",
        cause="a wrong address, no network, or missing credentials" if remote else "a wrong path",
        fix="check the address, and the credentials that the client of its protocol reads" if remote else "check the path",
    )


def _range(url: str, begin: int, end: int) -> bytes:
    return retried(lambda: file_range(url, begin, end), url)


def pieces(location: str, size: int) -> Iterator[bytes]:
    """The content of a file, a few megabytes at a time, not kept in the cache.

    Args:
        location: Path or URL.
        size: The length of the file in bytes, which the caller knows from elsewhere; a remote file is never read beyond it.

    Raises:
        OSError: the file cannot be read, or has another length.
    """
    step = 8 * CHUNK_BYTES
    if not is_remote(location):
        with open_plain(location) as file:
            if os.fstat(file.fileno()).st_size != size:
                raise OSError(f"{os.fstat(file.fileno()).st_size} bytes, expected {size}")
            while piece := file.read(step):
                yield piece
        return
    found = retried(lambda: file_info(location), location).get("size")
    if found not in (None, size):
        raise OSError(f"{found} bytes, expected {size}")
    for begin in range(0, size, step):
        yield _range(location, begin, min(begin + step, size))


def _kept_length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _kept(path: Path, length: int, start: int, stop: int) -> bytes | None:
    """A part of a chunk in the cache; None if the chunk is missing or has another length."""
    if _kept_length(path) != length:
        return None
    try:
        return _slice(str(path), start, stop - start)
    except OSError:
        return None


def _slice(path: str, offset: int, length: int) -> bytes:
    # os.pread without a Python file object: to make such an object costs more time than the read itself.
    # Of a pipe, where one would wait for a writer, nothing can be read in this way.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return os.pread(handle, length, offset)
    finally:
        os.close(handle)


def _keep(path: Path, content: bytes) -> None:
    """Put a chunk into the cache; if the cache cannot be written, nothing is kept and nothing fails."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, shared=True) as temporary:
            temporary.write_bytes(content)
