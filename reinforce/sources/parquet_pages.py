"""Parquet pages: what the pages of a parquet file unfold to, from their headers, before anything is decompressed.

The footer states how much a column is when decompressed, but pyarrow makes for each page as much room as the page's own header
says: up to 2 GB for a few bytes. The footer itself is small in the file and large in memory: an empty column chunk is one byte
there and about a kilobyte here. And asked for the columns of a damaged footer, pyarrow may end the process. So both are read
here first. Source: the format's parquet.thrift, and the compact protocol of Thrift.
"""

from __future__ import annotations

from io import BytesIO, FileIO
from typing import Any, NamedTuple

MAX_FOOTER = 1 << 20
"""Longest footer that is read, in bytes. Each row group has about a hundred bytes in it for each column."""
FOOTER_LIMITS = {"thrift_string_size_limit": MAX_FOOTER, "thrift_container_size_limit": 4096}
"""What pyarrow is told besides: the longest text, and the longest list, of row groups among others."""
MAX_PAGE_HEADER = 1 << 16
"""Longest header of a page, in bytes; it may have the lowest and the highest text of the page."""
ENCODINGS = frozenset({0, 2, 3, 8})
"""PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY. DELTA_BYTE_ARRAY is none of them: it repeats a text in two bytes."""
_MAGIC, _END = b"PAR1", 8
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_PLAIN = 0
_BODY_OF, _ENCODING_OF = {_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}, {_DATA: 2, _DICTIONARY: 2, _DATA_V2: 4}
_DEEPEST = 16  # structs and lists in each other
_I32, _I64, _LIST, _STRUCT = 5, 6, 9, 12  # kinds of fields


class Group(NamedTuple):
    """A row group: its rows, and of each column where its pages begin and end in the file."""

    rows: int
    columns: list[tuple[int, int]]


def check_table(file: BytesIO | FileIO, rows: int, most: int) -> list[bool]:
    """Refuse a file of flat columns that has other rows, or whose pages unfold to more than `most` bytes.

    Returns:
        Of each column in the order of the file, whether its pages hold every value themselves (PLAIN, without a dictionary), so
        that it takes no more memory than they unfold to.

    Raises:
        ValueError: it has, they do, they are in other encodings than `ENCODINGS`, or something is damaged.
        OSError: the file cannot be read.
    """
    size = file.seek(0, 2)
    groups = _groups(file, size)
    if sum(group.rows for group in groups) != rows:
        raise ValueError(f"{sum(group.rows for group in groups)} rows for {rows} samples")
    plain = [True] * max((len(group.columns) for group in groups), default=0)
    for group in groups:
        for column, (begin, end) in enumerate(group.columns):
            if not len(_MAGIC) <= begin <= end <= size - _END:
                raise ValueError("pages outside of the file")
            at, values = begin, 0
            while at < end:
                file.seek(at)
                page = _page(file.read(min(MAX_PAGE_HEADER, end - at)))
                at += page.length
                values += page.values
                most -= page.unfolded
                plain[column] &= page.plain
                if most < 0:
                    raise ValueError("pages that decompress to more than the file may have")
            if values != group.rows or at != end:
                raise ValueError(f"pages of {values} values for {group.rows} rows")
    return plain


def _groups(file: BytesIO | FileIO, size: int) -> list[Group]:
    file.seek(max(0, size - _END))
    end = file.read(_END)
    length = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or length > size - _END:
        raise ValueError("no parquet")
    if length > MAX_FOOTER:
        raise ValueError(f"a footer of {length} bytes")
    file.seek(size - _END - length)
    try:
        groups = _field(_Compact(file.read(length)).struct(), 4, _LIST)
        return [_group(dict(group)) for group in groups]
    except (LookupError, TypeError, ValueError):
        raise ValueError("a footer that cannot be read") from None


def _group(fields: dict[int, tuple[int, Any]]) -> Group:
    rows, columns = _field(fields, 3, _I64), []
    for chunk in _field(fields, 1, _LIST):
        about = _field(chunk, 3, _STRUCT)
        begin = _field(about, 9, _I64)
        if 11 in about and 0 < (dictionary := _field(about, 11, _I64)) < begin:
            begin = dictionary
        if _field(about, 5, _I64) != rows or rows < 0:
            raise ValueError
        columns.append((begin, begin + _field(about, 7, _I64)))
    return Group(rows, columns)


def _field(fields: dict[int, tuple[int, Any]], number: int, kind: int) -> Any:
    found = fields[number]
    if found[0] != kind:  # pyarrow passes over it then, and takes it for absent
        raise ValueError
    return found[1]


class _Page(NamedTuple):
    """A page: bytes in the file, with its header; bytes when decompressed; number of values; whether it holds these itself."""

    length: int
    unfolded: int
    values: int
    plain: bool


def _page(head: bytes) -> _Page:
    found = _Compact(head)
    try:
        fields = found.struct()
        kind, unfolded, stored = (_field(fields, number, _I32) for number in (1, 2, 3))
        body = _field(fields, _BODY_OF[kind], _STRUCT)
        values, encoding = _field(body, 1, _I32), _field(body, _ENCODING_OF[kind], _I32)
    except (LookupError, TypeError, ValueError):
        raise ValueError("a page with a header that cannot be read") from None
    if min(unfolded, stored, values) < 0:
        raise ValueError("a page of less than no bytes")
    if encoding not in ENCODINGS:
        raise ValueError(f"a page in encoding {encoding}")
    in_rows = kind != _DICTIONARY
    return _Page(found.at + stored, unfolded, values if in_rows else 0, in_rows and encoding == _PLAIN)


class _Compact:
    """Values in the compact protocol of Thrift. Texts and floats are passed over: they count as None."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0

    def struct(self, depth: int = 0) -> dict[int, tuple[int, Any]]:
        """The fields of a struct by their numbers: kind and value.

        Raises:
            IndexError: the content ends before, or cannot be such a struct.
        """
        if depth > _DEEPEST:
            raise IndexError
        fields: dict[int, tuple[int, Any]] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._number()
            if number in fields:  # another reader might take the other one
                raise IndexError
            fields[number] = head & 15, self._value(head & 15, depth)
        return fields

    def _value(self, kind: int, depth: int, in_list: bool = False) -> Any:
        if kind in (1, 2):
            return (self._byte() if in_list else kind) == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._number()
        if kind == 7:
            self.at += 8
        elif kind == 8:
            length = self._varint()
            self.at += length
        elif kind in (9, 10):
            head = self._byte()
            count = self._varint() if head >> 4 == 15 else head >> 4
            if count > len(self.content) or depth > _DEEPEST:  # each value has a byte at least
                raise IndexError
            return [self._value(head & 15, depth + 1, in_list=True) for _ in range(count)]
        elif kind == 12:
            return self.struct(depth + 1)
        else:  # a map, of which headers have none
            raise IndexError
        return None

    def _byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise IndexError

    def _number(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
