"""Table guard: refuses a parquet file whose content would fill the memory, before its text is read.

Parquet stores a repeated text once, in a dictionary. A file of two kilobytes can hold one text of fifty megabytes to which a
hundred thousand rows refer: five terabytes in memory if each row gets its own copy. Therefore columns of text are first read as
dictionaries, which costs the memory of the distinct texts only, and the length of these texts is checked.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reinforce.errors import StoreError, first_line

MAX_TEXT = 4096
"""Longest text that a table may have, in bytes."""
_MAX_ROW = 1 << 16


def guard_table(content: Path | BytesIO, name: str, rows: int) -> None:
    """Check the size of a table that somebody else may have made.

    Args:
        content: The file.
        name: Name of the file in error messages.
        rows: Number of rows that it must have.

    Raises:
        StoreError: not parquet, another number of rows, or text longer than `MAX_TEXT`.
    """
    try:
        about = pq.ParquetFile(content)
        metadata, schema = about.metadata, about.schema_arrow
        if metadata.num_rows != rows:
            raise ValueError(f"{metadata.num_rows} rows for {rows} samples")
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        if sum(g.total_byte_size for g in groups) > _MAX_ROW * rows + (64 << 20):
            raise ValueError("columns that decompress to more than 64 kB per row")
        texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        nested = [f.name for f in schema if pa.types.is_nested(f.type) or pa.types.is_dictionary(f.type)]
        if nested or metadata.num_columns > 64:
            raise ValueError(f"{metadata.num_columns} columns, {', '.join(nested)[:60]} among them")
        if isinstance(content, BytesIO):
            content.seek(0)
        for column in pq.read_table(content, columns=texts, read_dictionary=texts).columns:
            for chunk in column.chunks:
                longest = pc.max(pc.binary_length(chunk.dictionary)).as_py() or 0
                if longest > MAX_TEXT:
                    raise ValueError(f"a text of {longest} bytes")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise StoreError(
            f"{name} is damaged.",
            found=first_line(error),
            expected=f"the table of FORMAT.md, with {rows} rows and texts of at most {MAX_TEXT} bytes",
            cause="a damaged file, or one that was made to fill the memory",
            fix="get the data set from someone else",
        ) from None
    finally:
        if isinstance(content, BytesIO):
            content.seek(0)
