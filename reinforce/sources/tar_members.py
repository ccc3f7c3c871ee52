"""Tar members: finds where the members of webdataset shards are.

The headers of a shard are read once, and the result is kept in the cache as parquet. Nothing is unpacked. A tar file may have
been made to do harm, so its headers are checked: links, devices and sparse files are refused, members must lie inside the file,
and no header may be longer than `MAX_HEADER`.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reinforce.errors import SourceError
from reinforce.files import write_atomic
from reinforce.sources.location import File, cache_root
from reinforce.sources.source import IMAGE_SUFFIXES, check_texts
from reinforce.sources.tar_headers import AHEAD, TarMember, UnusualHeaderError, plain_members

MAX_HEADER = 1 << 20
"""Longest extended header (long names and the like) that is read, in bytes."""
MAX_LABEL = 32
"""Longest `.cls` member, in bytes."""
SCHEMA = pa.schema(
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
        if not size:
            return b""
        if not self.start <= self.at <= self.at + size <= self.start + len(self.held):
            self.start = self.at
            self.held = self.file.read(self.at, min(max(size, AHEAD), self.file.size - self.at))
        content = self.held[self.at - self.start :][:size]
        self.at += len(content)
        return content


def tar_members(file: File) -> pa.Table:
    """The images of one shard, in order, a row each, with the columns of `SCHEMA`; from the cache if it has been read before.

    Raises:
        SourceError: not a tar, cut off, or with members that are not allowed in a shard.
    """
    kept = cache_root() / "indexes" / f"{file.fingerprint}.parquet"
    found = _read_kept(kept, file.size)
    if found is None:
        found = scan(file)
        _keep(kept, found)
    return found


def scan(file: File) -> pa.Table:
    """Read the headers of a shard.

    Raises:
        SourceError: as `tar_members` does.
    """
    try:
        try:
            members = list(plain_members(file, MAX_LABEL))
        except UnusualHeaderError:  # tarfile knows all kinds of headers, and takes ten times as long for each
            members = _members(file)
        return _table(file, members)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise SourceError(
            f"{file.location} is not a shard that can be read.",
            found=str(error) or type(error).__name__,
            expected="an uncompressed tar of plain files: KEY.jpg, KEY.cls",
            cause="another file, a broken download, or a hostile one",
            fix="download it again",
        ) from None


def _members(file: File) -> list[TarMember]:
    """Each file in a tar."""
    members = []
    with tarfile.open(fileobj=_Window(file), mode="r:") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member in this list
            if member.isdir() or is_meta(member.name):
                continue
            if not member.isreg() or member.issparse():
                raise tarfile.ReadError(f"{member.name!r} is no plain file")
            if member.offset_data + member.size > file.size:
                raise tarfile.ReadError(f"{member.name!r} ends past the end of the file")
            members.append(TarMember(member.name, member.offset_data, member.size))
        end = file.read(tar.offset, max(0, min(512, file.size - tar.offset)))
        if len(end) < 512 or any(end):
            raise tarfile.ReadError("it ends in the middle")
    return members


def _table(file: File, members: list[TarMember]) -> pa.Table:
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    reins: dict[str, tuple[int, int]] = {}
    for member in members:
        name, offset, size, _ = member
        if is_meta(name):
            continue
        key, extension = split_name(name)
        if f".{extension}" in IMAGE_SUFFIXES:
            if key in images:
                raise tarfile.ReadError(f"two images have the key {key!r}")
            images[key] = (offset, size)
        elif extension == "cls":
            labels[key] = _label(file, member)
        elif extension == "rein":
            reins[key] = (offset, size)
    check_texts(list(images))
    places, own = [*zip(*images.values(), strict=True)] or [(), ()], [reins.get(key, (0, 0)) for key in images]
    columns = [list(images), *places, [labels.get(key) for key in images], *([*zip(*own, strict=True)] or [(), ()])]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def split_name(name: str) -> tuple[str, str]:
    """Key and extension of a member, as webdataset splits them: at the first dot of the last part of the path."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return (folder + slash + stem).removeprefix("./"), extension.lower()


def is_meta(name: str) -> bool:
    """Whether a member is about the shard, such as `__index__/...`, and no part of a sample."""
    return name.startswith("__") and name.partition("/")[0].endswith("__")


def _label(file: File, member: TarMember) -> int:
    if member.size > MAX_LABEL:
        raise ValueError(f"{member.name!r} of {member.size} bytes is no class id")
    content = file.read(member.offset, member.size) if member.content is None else member.content
    label = int(content.decode("ascii"))
    if not -(1 << 63) <= label < 1 << 63:
        raise ValueError(f"{member.name!r} is no class id: {label}")
    return label


def lie_within(table: pa.Table, sizes: np.ndarray | int) -> np.ndarray:
    """Whether each member lies inside of its file, of so many bytes: bool `[n]`."""
    inside = np.ones(len(table), bool)
    for name in ("", "rein_"):
        start, length = (table[f"{name}{end}"].to_numpy() for end in ("offset", "size"))
        inside &= (start >= 0) & (length >= 0) & (length <= sizes)
        inside &= start <= sizes - np.where(inside, length, 0)
    return inside


def _keep(path: Path, members: pa.Table) -> None:
    sink = io.BytesIO()
    pq.write_table(members, sink, compression="zstd")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, sink.getvalue())
    except OSError:
        pass  # not cached: the headers are read again next time


def _read_kept(path: Path, size: int) -> pa.Table | None:
    try:
        table = pq.read_table(path)
        if table.schema.equals(SCHEMA, check_metadata=True):
            table.validate(full=True)
            if lie_within(table, size).all():
                return table
    except (OSError, pa.ArrowException):
        pass
    return None
