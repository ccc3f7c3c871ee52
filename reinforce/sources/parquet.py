"""Parquet: a source of tables as the Hugging Face Hub keeps them: a column of images (bytes, or struct of bytes and path).

Parquet can only read whole row groups, not single rows. A process keeps some row groups in memory. So samples of the same group
are read quickly one after the other, but in random order each sample costs the read of its whole row group. Therefore training
visits a few groups at a time, and `reinforce pack` can turn the tables into shards.

Each process holds at most `HELD_BYTES` of decompressed images, or one row group if that alone is larger (up to
`MAX_GROUP_BYTES`). While a group is read, its bytes as stored in the file are in memory too. Training shuffles 8 groups
together, or fewer if 8 groups do not fit into `HELD_BYTES`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reinforce.errors import SourceError, first_line
from reinforce.sources.held_groups import HeldGroups
from reinforce.sources.location import File
from reinforce.sources.patterns import expand
from reinforce.sources.source import Source, check_index, numbered_classes

KEY_COLUMNS = ("key", "__key__", "id")
LABEL_COLUMNS = ("label", "labels", "cls", "fine_label")
MAX_GROUP_BYTES = 4 << 30
"""Largest row group of images that is read, in bytes when decompressed."""
HELD_BYTES = 1 << 30
"""Most bytes of row groups that a process holds in memory."""
_HELD = HeldGroups(HELD_BYTES)


@dataclass(frozen=True)
class Parquet(Source):
    """Indexed parquet files; `places` are int64 `[N, 3]`: number of the file, row group, and row in it.

    Attributes:
        files: The parquet files.
        column: Path of the column of image bytes.
        largest: Bytes of the largest row group when decompressed.
    """

    files: tuple[File, ...] = ()
    column: str = ""
    largest: int = 0

    kind = "parquet"
    suffix = ".parquet"
    in_folders = True

    @classmethod
    def open(cls, pattern: str) -> Parquet:
        """Index parquet files: a file, a glob or brace ranges.

        Raises:
            SourceError: no such files, not parquet, no column of images, or two images with the same key.
        """
        files = tuple(File.open(location) for location in expand(pattern))
        readers = [_reader(file) for file in files]
        column = _image_column(readers[0].schema_arrow, files[0].location)
        label = next((c for c in LABEL_COLUMNS if _is_integer(readers[0].schema_arrow, c)), None)
        keys: list[str] = []
        labels: list[Any] = []
        places = []
        largest = 0
        for number, reader in enumerate(readers):
            if not reader.schema_arrow.equals(readers[0].schema_arrow):
                raise SourceError(
                    "The files have different columns.",
                    found=f"{', '.join(reader.schema_arrow.names)} in {files[number].location}",
                    expected=", ".join(readers[0].schema_arrow.names),
                    fix="give each kind of file as a source of its own",
                )
            keys += _keys(reader, column, len(keys), files[number].location)
            labels += _column(reader, label, files[number].location) if label else []
            for group in range(reader.num_row_groups):
                rows = reader.metadata.row_group(group).num_rows
                largest = max(largest, _group_bytes(reader, group))
                places.append(np.stack([np.full(rows, number), np.full(rows, group), np.arange(rows)], axis=1))
        if None in labels:
            raise SourceError(
                f"Some samples of {pattern} have a label and others have none.", found="null", expected="class ids"
            )
        names = numbered_classes(labels, _names(readers[0].schema_arrow, label), pattern) if labels else ()
        check_index(keys, keys, names)
        where = np.concatenate(places).astype(np.int64)
        groups = np.unique(where[:, :2], axis=0, return_inverse=True)[1].reshape(-1)
        return cls(pattern, keys, labels or None, names, where, groups, files, column, largest)

    @property
    def groups_at_once(self) -> int | None:
        return max(1, HELD_BYTES // max(1, self.largest))

    def read(self, index: int) -> bytes:
        file, group, row = self.places[index].tolist()
        try:
            content = _group(self.files[file], self.column, group)[row].as_py()
        except (pa.ArrowException, IndexError) as error:
            raise OSError(first_line(error)) from None
        if content is None:
            raise OSError("no image in this row")
        return bytes(content)

    def where(self, index: int) -> str:
        return f"{self.keys[index]} in {self.files[int(self.places[index, 0])].location}"


class _Handle:
    """A `File` with the methods of a Python file object, which pyarrow needs."""

    closed = False

    def __init__(self, file: File) -> None:
        self.file = file
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.file.size}[whence]
        return self.at

    def read(self, size: int = -1) -> bytes:
        left = self.file.size - self.at
        content = self.file.read(self.at, left if size < 0 else min(size, left))
        self.at += len(content)
        return content

    def close(self) -> None:
        self.closed = True


@lru_cache(maxsize=256)
def _reader(file: File) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.PythonFile(_Handle(file), mode="r"))
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{file.location} is not parquet.",
            found=first_line(error),
            expected="a table with a column of images",
            cause="another file, or a broken download",
            fix="download it again",
        ) from None


def _group(file: File, column: str, group: int) -> pa.Array:
    def size() -> int:
        found = _group_bytes(_reader(file), group)
        if found > MAX_GROUP_BYTES:
            raise OSError(f"a row group of {found} bytes; at most {MAX_GROUP_BYTES} are read")
        return found

    def read() -> pa.Array:
        found = _reader(file).read_row_group(group, columns=[column], use_threads=False).column(0).combine_chunks()
        return found.field("bytes") if pa.types.is_struct(found.type) else found

    return _HELD.get((file, column, group), size, read)


def _group_bytes(reader: pq.ParquetFile, group: int) -> int:
    """Bytes of a row group when decompressed, as stated by the file.

    Those of its images alone would need pyarrow's metadata of a column, which end the process where a footer is damaged.
    """
    return int(reader.metadata.row_group(group).total_byte_size)


def _image_column(schema: pa.Schema, location: str) -> str:
    for field in schema:
        if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            return f"{field.name}.bytes"
    for field in schema:
        if pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            return str(field.name)
    raise SourceError(
        f"{location} has no column of images.",
        found=", ".join(f"{f.name}: {f.type}" for f in schema)[:200],
        expected="a column of bytes, or of structs with a field `bytes`",
    )


def _is_integer(schema: pa.Schema, name: str) -> bool:
    return name in schema.names and pa.types.is_integer(schema.field(name).type)


def _column(reader: pq.ParquetFile, name: str, location: str) -> list[Any]:
    try:
        column = reader.read(columns=[name]).column(0).combine_chunks()
    except (pa.ArrowException, OSError, IndexError) as error:
        raise SourceError(f"{location} is damaged.", found=first_line(error), fix="download it again") from None
    found: list[Any] = (column.field(name.rpartition(".")[2]) if pa.types.is_struct(column.type) else column).to_pylist()
    return found


def _keys(reader: pq.ParquetFile, column: str, first: int, location: str) -> list[str]:
    """Keys of a file's rows: from a column of keys, else the paths of the images, else the number of the row in all files."""
    schema, rows = reader.schema_arrow, reader.metadata.num_rows
    for name in KEY_COLUMNS:
        if name in schema.names and pa.types.is_string(schema.field(name).type):
            return [str(k) for k in _column(reader, name, location)]
    struct = column.rpartition(".")[0]
    if struct and schema.field(struct).type.get_field_index("path") >= 0:
        paths = _column(reader, f"{struct}.path", location)
        if all(paths) and len(set(paths)) == len(paths):
            return [os.path.splitext(str(p))[0] for p in paths]
    return [f"{i:08d}" for i in range(first, first + rows)]


def _names(schema: pa.Schema, label: str | None) -> Sequence[str] | None:
    """Class names from the metadata that the Hub adds to the schema; None if there are none."""
    try:
        about = json.loads((schema.metadata or {})[b"huggingface"])
        names = about["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) and all(isinstance(n, str) for n in names) else None
