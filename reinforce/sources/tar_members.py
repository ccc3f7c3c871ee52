"""Tar members: finds where the members of webdataset shards are.

The headers of a shard are read once, and the result is kept in the cache as parquet. Nothing is unpacked. A tar file may have
been made to do harm, so its headers are checked: links, devices and sparse files are refused, members must lie inside the file,
and no header may be longer than `MAX_HEADER`.
"""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reinforce.errors import SourceError
from reinforce.files import write_atomic
from reinforce.sources.location import File, cache_root
from reinforce.sources.source import IMAGE_SUFFIXES

MAX_HEADER = 1 << 20
"""Longest extended header (long names and the like) that is read, in bytes."""
MAX_LABEL = 32
"""Longest `.cls` member, in bytes."""
_AHEAD = 8192  # bytes read at once: a header, and often the headers of the small members that follow
_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),  # of the image's bytes
        pa.field("size", pa.int64(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("rein_offset", pa.int64(), nullable=False),  # of params and labels
        pa.field("rein_size", pa.int64(), nullable=False),  # 0: there are none
    ],
    metadata={"reinforce-tar-index": "1"},
)


@dataclass(frozen=True)
class Member:
    """One image of a shard: where its bytes are, its class id or None, and where its params and labels are (size 0: none)."""

    key: str
    offset: int
    size: int
    label: int | None
    rein_offset: int = 0
    rein_size: int = 0

    def lies_within(self, size: int) -> bool:
        """Whether the member lies inside a file of `size` bytes."""
        places = ((self.offset, self.size), (self.rein_offset, self.rein_size))
        return all(0 <= start <= start + length <= size for start, length in places)


class _Window(io.RawIOBase):
    """A `File` with the methods of a Python file object, which tarfile needs; refuses reads longer than `MAX_HEADER`."""

    def __init__(self, file: File) -> None:
        self.file = file
        self.at = 0
        self.start, self.held = 0, b""

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.file.size}[whence]
        return self.at

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        size = max(0, min(size, self.file.size - self.at))
        if not self.start <= self.at <= self.at + size <= self.start + len(self.held):
            self.start = self.at
            self.held = self.file.read(self.at, min(max(size, _AHEAD), self.file.size - self.at))
        content = self.held[self.at - self.start :][:size]
        self.at += len(content)
        return content


def tar_members(file: File) -> list[Member]:
    """The images of one shard, in order; from the cache if the shard has been read before.

    Raises:
        SourceError: not a tar, cut off, or with members that are not allowed in a shard.
    """
    kept = cache_root() / "indexes" / f"{file.fingerprint}.parquet"
    found = _read_kept(kept, file.size)
    if found is None:
        found = scan(file)
        _keep(kept, found)
    return found


def scan(file: File) -> list[Member]:
    """Read the headers of a shard.

    Raises:
        SourceError: as `tar_members` does.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    reins: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(fileobj=_Window(file), mode="r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member in this list
                if member.isdir() or _is_meta(member.name):
                    continue
                if not member.isreg() or member.issparse():
                    raise tarfile.ReadError(f"{member.name!r} is no plain file")
                if member.offset_data + member.size > file.size:
                    raise tarfile.ReadError(f"{member.name!r} ends past the end of the file")
                key, extension = split_name(member.name)
                if f".{extension}" in IMAGE_SUFFIXES:
                    if key in images:
                        raise tarfile.ReadError(f"two images have the key {key!r}")
                    images[key] = (member.offset_data, member.size)
                elif extension == "cls":
                    labels[key] = _label(file, member)
                elif extension == "rein":
                    reins[key] = (member.offset_data, member.size)
            end = file.read(tar.offset, max(0, min(512, file.size - tar.offset)))
            if len(end) < 512 or any(end):
                raise tarfile.ReadError("it ends in the middle")
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise SourceError(
            f"{file.location} is not a shard that can be read.",
            found=str(error) or type(error).__name__,
            expected="an uncompressed tar of plain files: KEY.jpg, KEY.cls",
            cause="another file, a broken download, or a hostile one",
            fix="download it again",
        ) from None
    return [Member(key, *place, labels.get(key), *reins.get(key, (0, 0))) for key, place in images.items()]


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member, as webdataset splits them: at the first dot of the last part of the path."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem).removeprefix("./"), extension.lower()


def _is_meta(name: str) -> bool:
    return any(part.startswith("__") and part.endswith("__") for part in name.split("/")[:1])


def _label(file: File, member: tarfile.TarInfo) -> int:
    if member.size > MAX_LABEL:
        raise ValueError(f"{member.name!r} of {member.size} bytes is no class id")
    return int(file.read(member.offset_data, member.size).decode("ascii"))


def _keep(path: Path, members: list[Member]) -> None:
    columns = [[getattr(m, name) for m in members] for name in _SCHEMA.names]
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), sink, compression="zstd")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, sink.getvalue())
    except OSError:
        pass  # not cached: the headers are read again next time


def _read_kept(path: Path, size: int) -> list[Member] | None:
    try:
        table = pq.read_table(path)
        if table.schema.equals(_SCHEMA, check_metadata=True):
            members = [Member(*row) for row in zip(*(table[name].to_pylist() for name in _SCHEMA.names), strict=True)]
            if all(m.lies_within(size) for m in members):
                return members
    except (OSError, pa.ArrowException):
        pass
    return None
