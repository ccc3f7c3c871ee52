"""Tar headers: reads the headers of plain members fast, and leaves a shard with any other header to tarfile.

A shard of webdataset has millions of members that are all alike: `ustar` headers of plain files with short names. Whatever is
not exactly that, valid or not, raises `UnusualHeaderError`: what is accepted and what is refused is tarfile's affair.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

_BLOCK = 512
_OCTAL = b"01234567 \0"
_ZEROS = bytes(_BLOCK)


class UnusualHeaderError(Exception):
    """A header that is read by tarfile."""


class _Reader(Protocol):
    def seek(self, offset: int, /) -> int: ...
    def read(self, size: int, /) -> bytes: ...


def plain_members(file: _Reader, size: int) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size of each member of a tar.

    Args:
        file: The tar.
        size: Its size in bytes.

    Raises:
        UnusualHeaderError: something in it is not plain.
        OSError: it cannot be read.
    """
    at = 0
    while True:
        file.seek(at)
        header = file.read(_BLOCK)
        if header == _ZEROS:
            return
        name, length = _plain(header)
        if at + _BLOCK + length > size:
            raise UnusualHeaderError(name)
        yield name, at + _BLOCK, length
        at += _BLOCK + -(-length // _BLOCK) * _BLOCK


def _plain(header: bytes) -> tuple[str, int]:
    """Name and size of a member, by its header of 512 bytes."""
    is_plain = (
        len(header) == _BLOCK
        and header[257:262] == b"ustar"
        and header[156] in b"0\0"
        and not header[345]  # no prefix of a long name
        and not header[100:156].translate(None, _OCTAL)
        and not header[329:345].translate(None, _OCTAL)
    )
    if not is_plain:
        raise UnusualHeaderError
    try:
        fields = (header[100:108], header[108:116], header[116:124], header[136:148], header[329:337], header[337:345])
        for field in fields:
            _number(field)
        size, stated = _number(header[124:136]), _number(header[148:156])
        name = header[:100].partition(b"\0")[0].decode()
    except ValueError:
        raise UnusualHeaderError from None
    # The checksum is over the header with its own field as spaces.
    if stated != sum(header) - sum(header[148:156]) + 8 * 32 or name.endswith("/"):
        raise UnusualHeaderError
    return name, size


def _number(field: bytes) -> int:
    return int(field.partition(b"\0")[0].strip() or b"0", 8)
