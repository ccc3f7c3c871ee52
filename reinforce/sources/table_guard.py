"""Table guard: reads a parquet file that somebody else may have made, unless its content would fill the memory.

Parquet stores a repeated value once. A file of two kilobytes can hold one text of fifty megabytes to which a hundred thousand
rows refer: five terabytes in memory if each row gets its own copy. Or it can have two billion rows that are all the same.
Therefore rows are read group by group; columns of text are first read as dictionaries, which costs the memory of the distinct
texts only, and their lengths are added up; and keys must differ, so that the file has bytes for each row. What each page
unfolds to is looked up before, in the headers of the pages (`parquet_pages.py`). Where these say that a column has no
dictionary, as those of keys that Reinforce writes, it is read as it is, in a tenth of the time: no text of it can repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reinforce.errors import StoreError, first_line
from reinforce.files import open_plain
from reinforce.memory import shortage
from reinforce.sources.parquet_pages import FOOTER_LIMITS, check_table

MAX_TEXT = 4096
"""Longest text that a table may have, in bytes."""
MAX_GROUP_ROWS = 1 << 22
"""Most rows of a row group; pyarrow writes 1,048,576."""
BYTES_PER_ROW, SPARE_BYTES = 1024, 64 << 20
"""A table may have so many bytes per row when decompressed, and so many more."""
MAX_TABLE = 8 << 30
"""Largest file of a table that is read whole, in bytes."""


def read_table(content: Path | BytesIO, name: str, rows: int, schema: pa.Schema, newer: str | None = None) -> pa.Table:
    """Read a table that somebody else may have made.

    Args:
        content: The file.
        name: Name of the file in error messages.
        rows: Number of rows that it must have.
        schema: Its columns, flat, of which `key` holds texts that all differ, which the caller checks over all rows.
        newer: A column that tables of older writers lack.

    Raises:
        StoreError: not parquet, other columns, another number of rows, keys that a dictionary repeats, or more bytes than the
            bounds allow.
    """
    try:
        if isinstance(content, BytesIO):
            content.seek(0)
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        with open_plain(content) if isinstance(content, Path) else nullcontext(content) as opened:
            is_plain = check_table(opened, rows, BYTES_PER_ROW * rows + SPARE_BYTES)
        metadata = pq.ParquetFile(content, **FOOTER_LIMITS).metadata
        if newer is not None and metadata.num_columns == len(schema) - 1:
            schema = schema.remove(schema.get_field_index(newer))
        _check_metadata(metadata, rows, schema)
        mapped, folded = isinstance(content, Path), [name for name in texts if not is_plain[schema.names.index(name)]]
        with pq.ParquetFile(content, metadata=metadata, read_dictionary=folded, memory_map=mapped) as file:
            groups = list(_groups(file, texts, rows))
        return pa.concat_tables(groups).cast(schema) if groups else schema.empty_table()
    except (OSError, ValueError, pa.ArrowException) as error:
        if (short := shortage(error)) is not None:
            raise short from None
        raise StoreError(
            f"{name} is damaged.",
            found=first_line(error),
            expected=f"the table of FORMAT.md, with {rows} rows and texts of at most {MAX_TEXT} bytes",
            cause="a damaged file, or one that was made to fill the memory",
            fix="get the data set from someone else",
        ) from None


def repeated(schema: pa.Schema) -> list[str]:
    """The columns to write with a dictionary: all but keys and hashes, which are not repeated and are read faster without."""
    return [name for name in schema.names if name not in ("key", "sha256")]


def _check_metadata(metadata: pq.FileMetaData, rows: int, schema: pa.Schema) -> None:
    if metadata.num_rows != rows:
        raise ValueError(f"{metadata.num_rows} rows for {rows} samples")
    paths = [metadata.schema.column(i).path for i in range(min(metadata.num_columns, len(schema) + 1))]
    if paths != schema.names:  # a nested column has other paths
        raise ValueError(f"columns {' '.join(paths)}"[:200])
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    if any(not 0 < g.num_rows <= MAX_GROUP_ROWS for g in groups) or sum(g.num_rows for g in groups) != rows:
        raise ValueError(f"row groups without rows, or of more than {MAX_GROUP_ROWS}")
    if sum(g.total_byte_size for g in groups) > BYTES_PER_ROW * rows + SPARE_BYTES:
        raise ValueError(f"columns that decompress to more than {BYTES_PER_ROW} bytes per row")


def _groups(file: pq.ParquetFile, texts: list[str], rows: int) -> Iterator[pa.Table]:
    left = BYTES_PER_ROW * rows + SPARE_BYTES
    others = [name for name in file.schema_arrow.names if name not in texts]
    for group in range(file.metadata.num_row_groups):
        found = file.read_row_group(group, columns=texts)
        found.validate(full=True)  # pyarrow itself believes numbers of dictionary entries, and that texts are UTF-8
        for name in texts:
            distinct = 0
            for chunk in found[name].chunks:
                folded = pa.types.is_dictionary(chunk.type)
                lengths = np.append(pc.binary_length(chunk.dictionary if folded else chunk).fill_null(0).to_numpy(), 0)
                if lengths.max() > MAX_TEXT:
                    raise ValueError(f"a text of {lengths.max()} bytes")
                of_rows = lengths[chunk.indices.fill_null(len(lengths) - 1).to_numpy()] if folded else lengths
                left -= int(of_rows.sum())
                distinct += len(chunk.dictionary) if folded else len(chunk)
            if left < 0:
                raise ValueError(f"texts of more than {BYTES_PER_ROW} bytes per row")
            if name == "key" and distinct < len(found):
                raise ValueError(f"{distinct} keys for {len(found)} rows: a key that is missing or occurs twice")
        columns = {name: found[name].cast(pa.string()) for name in texts}
        rest = file.read_row_group(group, columns=others)
        rest.validate(full=True)
        yield pa.table({name: columns.get(name, rest[name] if name in others else None) for name in file.schema_arrow.names})
