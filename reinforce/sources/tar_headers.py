"""Tar headers: reads the headers of plain members fast, and leaves a shard with any other header to tarfile.

A shard of webdataset has thousands of members that are all alike: `ustar` headers of plain files with short names. Whatever is
not exactly that, valid or not, raises `UnusualHeaderError`: what is accepted and what is refused is tarfile's affair.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple, Protocol

AHEAD = 8192
"""Bytes that are read at once: a header, and often the headers of the small members that follow."""
_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_PLAIN = re.compile(
    rb"(?:[0-7]{7}\0|[0-7]{6} \0){3}"  # mode, user, group, from byte 100 on
    rb"([0-7]{11})[\0 ][0-7]{11}[\0 ]"  # size, time
    rb"([0-7]{6})(?:\0 | \0)"  # checksum
    rb"[0\0].{100}ustar.{67}"  # a plain file; the name of a link, magic, version, names of user and group
    rb"(?:[0-7]{7}\0|[0-7]{6} \0|\0{8}){2}\0",  # device; no first part of a long name
    re.DOTALL,
)


class UnusualHeaderError(Exception):
    """A header that is read by tarfile."""


class TarMember(NamedTuple):
    """A file in a tar: its name, where its bytes are, and these themselves where they are few and were read with the header."""

    name: str
    offset: int
    size: int
    content: bytes | None = None


class _File(Protocol):
    @property
    def size(self) -> int: ...
    def read(self, offset: int, length: int, /) -> bytes: ...


def plain_members(file: _File, small: int) -> Iterator[TarMember]:
    """The members of a tar, with the content of those of at most `small` bytes if it is at hand.

    Raises:
        UnusualHeaderError: something in it is not plain.
        OSError: it cannot be read.
    """
    at, start, held = 0, 0, b""
    while True:
        if at + _BLOCK > start + len(held):
            start, held = at, file.read(at, max(0, min(AHEAD, file.size - at))) if at < file.size else b""
        header = held[at - start : at - start + _BLOCK]
        if header == _ZEROS:
            return
        fields = _PLAIN.match(header, 100)
        if len(header) < _BLOCK or fields is None:
            raise UnusualHeaderError
        # The checksum is over the header with its own field as spaces.
        size, total = int(fields[1], 8), sum(header) - sum(header[148:156]) + 8 * 32
        try:
            name = header[: header.find(b"\0", 0, 100) if 0 in header[:100] else 100].decode()
        except ValueError:
            raise UnusualHeaderError from None
        at += _BLOCK
        if int(fields[2], 8) != total or at + size > file.size or name[-1:] == "/":
            raise UnusualHeaderError
        content = held[at - start : at - start + size] if size <= small else None
        yield TarMember(name, at, size, content if content is not None and len(content) == size else None)
        at += -(-size // _BLOCK) * _BLOCK
