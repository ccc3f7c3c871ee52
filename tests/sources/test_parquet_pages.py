"""Tables that are small as files and large in memory are refused before they are read, whatever their footers say."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reinforce.errors import StoreError
from reinforce.sources.parquet_pages import MAX_FOOTER, check_table
from reinforce.sources.table_guard import read_table

pytestmark = pytest.mark.unit

KEYS = pa.schema([pa.field("key", pa.string())])


def written(table: pa.Table, **given: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", **given)
    return sink.getvalue()


def varint(value: int, length: int = 0) -> bytes:
    made = bytearray()
    while value > 127 or len(made) + 1 < length:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def said_to_be(content: bytes, size: int) -> bytes:
    """The same file, whose footer says that its one column has `size` bytes when decompressed."""
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") : -8]
    old = varint(2 * pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0).column(0).total_uncompressed_size)
    assert footer.count(old) == 2
    return content[: -8 - len(footer)] + footer.replace(old, varint(2 * size, len(old))) + content[-8:]


def refused(content: bytes, match: str, rows: int) -> None:
    with pytest.raises(StoreError, match=match):
        read_table(io.BytesIO(content), "table", rows, KEYS)


def test_a_page_that_unfolds_to_more_than_the_footer_says_is_refused() -> None:
    long = pa.table({"key": pa.array(["k" * (80 << 20)])})
    bomb = said_to_be(written(long, use_dictionary=False, write_statistics=False), 1000)
    assert len(bomb) < 1 << 14
    refused(bomb, "pages that decompress to more", 1)


def test_a_text_that_is_repeated_in_two_bytes_is_refused() -> None:
    """1.6 kB of such pages were a gigabyte in memory."""
    same = pa.table({"key": pa.array(["k" * 4000] * 1000)})
    bomb = written(same, use_dictionary=False, column_encoding={"key": "DELTA_BYTE_ARRAY"}, write_statistics=False)
    assert len(bomb) < 2000
    refused(bomb, "a page in encoding 7", 1000)


def test_a_footer_that_is_long_is_refused() -> None:
    table = pa.table({"key": pa.array(["k"])}).replace_schema_metadata({"x": "y" * MAX_FOOTER})
    refused(written(table), "a footer of", 1)
    refused(b"PAR1" + bytes(20) + (25).to_bytes(4, "little") + b"PAR1", "no parquet", 1)
    refused(b"", "no parquet", 1)


@pytest.mark.parametrize("given", [{}, {"data_page_version": "2.0"}, {"use_dictionary": False}, {"row_group_size": 7}], ids=str)
def test_what_pages_unfold_to_is_what_pyarrow_says(given: dict[str, Any]) -> None:
    rows = 20_000
    columns = {
        "key": [f"{i:06d}" for i in range(rows)],
        "reason": [None, "x", "y" * 500, "é"] * (rows // 4),
        "ok": [True, False, None, True] * (rows // 4),
        "n": np.arange(rows) ** 2,
    }
    rows_here = rows if "row_group_size" not in given else 70
    content = written(pa.table(columns).slice(0, rows_here), data_page_size=1000, **given)
    file = io.BytesIO(content)
    metadata = pq.ParquetFile(file).metadata
    stated = sum(metadata.row_group(g).total_byte_size for g in range(metadata.num_row_groups))  # with the headers of the pages
    check_table(file, rows_here, stated)
    with pytest.raises(ValueError, match="pages that decompress to more"):
        check_table(file, rows_here, stated // 2)


def test_no_change_of_a_byte_makes_more_of_a_table_than_may_be() -> None:
    """Nor does it end the process, as it does when pyarrow is asked for columns whose histograms do not fit."""
    content = written(pa.table({"key": pa.array(["a", "b", "c" * 40])}), use_dictionary=False)
    for place in range(4, len(content)):
        for value in (0, 1, 127, 128, 255, content[place] ^ 0x15):
            changed = content[:place] + bytes([value]) + content[place + 1 :]
            try:
                assert len(read_table(io.BytesIO(changed), "table", 3, KEYS)) == 3
            except StoreError:
                continue


def test_a_pipe_in_place_of_a_table_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "samples.parquet")
    with pytest.raises(StoreError, match="no plain file"):
        read_table(tmp_path / "samples.parquet", "samples.parquet", 1, KEYS)
