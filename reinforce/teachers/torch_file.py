"""Torch file: the data in a file that `torch.save` wrote, of weights or of labels, read without unpickling.

Both kinds are read: the zip of today, and the row of pickles that torch wrote before 1.6. The tar of 2016 is refused by its
name. Source: torch/serialization.py. Why this and not `torch.load(weights_only=True)`: `reinforce/design/torch-files.md`.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch

from reinforce.errors import StoreError, first_line, shown
from reinforce.files import open_plain
from reinforce.teachers.pickle_bounds import most_bytes
from reinforce.teachers.pickle_names import STORAGES, refused
from reinforce.teachers.pickle_reader import read_first_pickle, read_pickle

MAX_PICKLE_BYTES = 64 << 20
"""Largest pickle that is read; the numbers of tensors are outside of it."""
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of files before 1.6
MAX_DIRECTORY_BYTES = 16 << 20
"""Largest directory of a zip that is read, about a hundred bytes for each of its members."""
_LOCAL_HEADER = 30
_TAR_MAGIC_AT, _TAR_MAGIC = 257, b"ustar"

# What zipfile and struct raise of any bytes; offsets of 64 bits are too large for a file.
_DAMAGE = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error)

File = io.BytesIO | io.BufferedReader
Read = Callable[[str, int], torch.Tensor]
"""Key of a storage and its bytes, to its content: uint8 `[bytes]`, memory of its own."""


def read_torch(source: bytes | Path) -> Any:
    """What a torch file holds; tensors are on the CPU, and share memory where they did.

    Args:
        source: The content of a file, or the path of one.

    Raises:
        StoreError: not such a file, damaged, compressed, or with more in it than data.
        OSError: it cannot be read.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else io.BufferedReader(cast(Any, open_plain(source))) as file:
        try:
            if file.read(2) == b"PK":
                return _read_zip(file)
            return _read_pickles(file)
        except _DAMAGE as error:
            raise refused(f"no file that torch.save wrote: {first_line(error)}") from None


class _Tensors:
    """See `reinforce.teachers.pickle_names.Tensors`. Each storage is read once."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.storages: dict[str, torch.Tensor] = {}
        self.counts: dict[str, int] = {}

    def storage(self, kind: str, key: str, count: int) -> torch.Tensor:
        dtype = getattr(torch, STORAGES[kind])
        if key not in self.storages:
            self.storages[key] = self.read(key, count * dtype.itemsize)
        content = self.storages[key]
        if self.counts.setdefault(key, count) != count or len(content) != count * dtype.itemsize:
            raise refused(f"storage {key} of two lengths")
        return content.view(dtype)

    def tensor(
        self, storage: torch.Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], dtype: str | None
    ) -> torch.Tensor:
        numbers = storage if dtype is None else storage.view(getattr(torch, dtype))
        return numbers.as_strided(size, stride, int(numbers.storage_offset()) + offset)  # a storage may be a part of another


class _Directory:
    """A file of which zipfile reads at most `most` bytes at once: it makes an object of each name in its directory."""

    def __init__(self, file: File) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.most, self._read = MAX_DIRECTORY_BYTES, file.read

    def read(self, length: int = -1) -> bytes:
        if length > self.most:
            raise refused(f"a zip with a directory or a pickle of {length} bytes")
        return self._read(self.most if length < 0 else length)


def _read_zip(file: File) -> Any:
    end = file.seek(0, os.SEEK_END)
    directory = _Directory(file)
    with zipfile.ZipFile(directory) as archive:
        directory.most = MAX_PICKLE_BYTES
        members = {m.filename: m for m in archive.infolist()}
        for member in members.values():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                raise refused(f"{member.filename} is compressed")
        if sum(m.file_size for m in members.values()) > end:
            raise refused("members that overlap")
        data = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(data) != 1 or members[data[0]].file_size > MAX_PICKLE_BYTES:
            raise refused(f"{len(data)} files data.pkl, or one too large")
        prefix = data[0].removesuffix("data.pkl")
        order = members.get(f"{prefix}byteorder")
        if order is not None and (order.file_size != len(b"little") or archive.read(order) != b"little"):
            raise refused("numbers in another byte order")

        def read(key: str, length: int) -> torch.Tensor:
            member = members.get(f"{prefix}data/{key}")
            if member is None or member.file_size < length:
                raise refused(f"no storage {key} of {length} bytes")
            file.seek(member.header_offset)
            names = struct.unpack("<26xHH", file.read(_LOCAL_HEADER))
            file.seek(sum(names), os.SEEK_CUR)
            found = _filled(file, member.file_size)
            if zlib.crc32(_memory(found)) != member.CRC:
                raise refused(f"storage {key} is damaged")
            return found[:length]

        return read_pickle(archive.read(data[0]), _Tensors(read), most_bytes(end))


def _read_pickles(file: File) -> Any:
    """Magic, version, machine, data, keys of the storages; then of each, in that order, its count and its numbers."""
    file.seek(0)
    head = file.read(MAX_PICKLE_BYTES)
    if head[_TAR_MAGIC_AT:].startswith(_TAR_MAGIC):
        raise refused("a tar: the format of torch before 0.2, or files that are still packed")
    try:
        magic, at = read_first_pickle(head, 0)
        protocol, at = read_first_pickle(head, at)
        machine, at = read_first_pickle(head, at)
    except StoreError:
        raise refused("no file that torch.save wrote") from None
    known = type(magic) is int and magic == _MAGIC and type(protocol) is int and protocol == _PROTOCOL
    if not known or not isinstance(machine, dict) or not machine.get("little_endian"):
        raise refused("no file that torch.save wrote")
    lengths: dict[str, int] = {}

    def empty(key: str, length: int) -> torch.Tensor:
        lengths[key] = length
        return torch.empty(length, dtype=torch.uint8, device="meta")

    # The numbers come behind the data: a first reading tells which there are and how long, a second one has them.
    end = file.seek(0, os.SEEK_END)
    _, after = read_first_pickle(head, at, _Tensors(empty), most_bytes(end))
    keys, begin = read_first_pickle(head, after)
    if not isinstance(keys, list) or not all(isinstance(key, (str, int)) for key in keys):
        raise refused(f"keys of storages {shown(keys)}")
    if sorted(map(str, keys)) != sorted(lengths):
        raise refused("storages that are not those of the data")
    if sum(lengths.values()) > end:
        raise refused("storages past the end of the file")
    file.seek(begin)
    content: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    for key in map(str, keys):
        counts[key] = struct.unpack("<q", file.read(8))[0]
        content[key] = _filled(file, lengths[key])
    tensors = _Tensors(lambda key, length: content[key])
    found = read_first_pickle(head, at, tensors, most_bytes(end))[0]
    for key, count in counts.items():
        if count != tensors.counts[key]:
            raise refused(f"storage {key} of {count} numbers, and {tensors.counts[key]} in the data")
    return found


def _filled(file: File, length: int) -> torch.Tensor:
    found = torch.empty(length, dtype=torch.uint8)
    if file.readinto(_memory(found)) != length:
        raise refused("it ends in the middle")
    return found


def _memory(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.numpy())  # type: ignore[arg-type]  # torch has no types for what numpy gives
