"""Tar headers: reads the headers of plain members fast, and leaves a shard with any other header to tarfile.

A shard of webdataset has thousands of members that are all alike: `ustar` headers of plain files. Their names are short, or in
a header before theirs: one of pax, which webdataset also writes for fractions of a second, or one of GNU. Whatever is not
exactly that, valid or not, raises `UnusualHeaderError`: what is accepted and what is refused is tarfile's affair.
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
    rb"([0\0xL]).{100}ustar.{67}"  # a file, or about the next one; name of a link, magic, version, names of user and group
    rb"(?:[0-7]{7}\0|[0-7]{6} \0|\0{8}){2}"  # device
    rb"([^\0]{0,155})",  # the first part of a name
    re.DOTALL,
)
_MAX_ABOUT = 4096
"""Longest content of a header about the next one that is read here, in bytes."""
_RECORD = re.compile(rb"([1-9][0-9]{0,3}) ([^=]{1,40})=", re.DOTALL)
_NO_MATTER = re.compile(rb"[acm]time|[ug]id|[ug]name|comment|LIBARCHIVE\.creationtime|SCHILY\.(?:dev|ino|nlink)")
"""Records of pax that change nothing in where a member is and what it is called."""


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
    at, start, held, about = 0, 0, b"", None
    while True:
        if at + _BLOCK > start + len(held):
            start, held = at, _ahead(file, at)
        header = held[at - start : at - start + _BLOCK]
        if header == _ZEROS and about is None:
            return
        fields = _PLAIN.match(header, 100)
        if len(header) < _BLOCK or fields is None:
            raise UnusualHeaderError
        # The checksum is over the header with its own field as spaces.
        size, total = int(fields[1], 8), sum(header) - sum(header[148:156]) + 8 * 32
        at += _BLOCK
        if int(fields[2], 8) != total or at + size > file.size:
            raise UnusualHeaderError
        padded = -(-size // _BLOCK) * _BLOCK
        raw = header[: header.find(b"\0", 0, 100) if 0 in header[:100] else 100]
        if fields[3] in b"xL":
            if about is not None or size > _MAX_ABOUT:
                raise UnusualHeaderError
            if at + padded > start + len(held):
                start, held = at, _ahead(file, at)
            content = held[at - start : at - start + padded]
            if len(content) < padded or any(content[size:]):  # tarfile may read on behind the end
                raise UnusualHeaderError
            about = _pax_name(content[:size]) if fields[3] == b"x" else _gnu_name(content)
        else:
            if raw[-1:] == b"/" and (not about or fields[3] == b"\0"):
                raise UnusualHeaderError
            name = _text(about or (fields[4] + b"/" + raw if fields[4] else raw))
            about, content = None, held[at - start : at - start + size] if size <= small else b""
            yield TarMember(name, at, size, content if size <= small and len(content) == size else None)
        at += padded


def _ahead(file: _File, at: int) -> bytes:
    return file.read(at, max(0, min(AHEAD, file.size - at))) if at < file.size else b""


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except ValueError:
        raise UnusualHeaderError from None


def _gnu_name(content: bytes) -> bytes:
    """The name in a header of GNU."""
    name = content.partition(b"\0")[0]
    if not name or name[-1:] == b"/":
        raise UnusualHeaderError
    return name


def _pax_name(content: bytes) -> bytes:
    """The name among the records of a header of pax; empty: there is none."""
    name, at = b"", 0
    while at < len(content):
        record = _RECORD.match(content, at)
        end = at + int(record[1]) if record is not None else 0
        if record is None or not record.end() < end <= len(content) or content[end - 1 : end] != b"\n":
            raise UnusualHeaderError
        value = content[record.end() : end - 1]
        if record[2] == b"path":
            if name or not value or value[-1:] == b"/" or b"\0" in value:
                raise UnusualHeaderError
            name = value
        elif _NO_MATTER.fullmatch(record[2]) is None:
            raise UnusualHeaderError
        at = end
    return name
