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


def encodings_of(metadata: pq.FileMetaData) -> list[set[str]]:
    """All encodings that pyarrow names for each column."""
    groups = [metadata.row_group(g) for g in range(metadata.num_row_groups)]
    return [{e for group in groups for e in group.column(c).encodings} for c in range(metadata.num_columns)]


def test_keys_without_a_dictionary_are_read_as_they_are_and_held_to_the_same_limits() -> None:
    keys = [f"{i:06d}" for i in range(5000)]
    for given in ({"use_dictionary": False}, {}, {"use_dictionary": False, "row_group_size": 70}):
        content = written(pa.table({"key": keys}), **given)
        assert read_table(io.BytesIO(content), "table", 5000, KEYS)["key"].to_pylist() == keys
    refused(written(pa.table({"key": ["k" * 5000]}), use_dictionary=False), "a text of 5000 bytes", 1)


def test_a_dictionary_in_one_row_group_alone_is_seen() -> None:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, KEYS, use_dictionary=True, dictionary_pagesize_limit=1000, compression="none") as writer:
        writer.write_table(pa.table({"key": pa.array([f"{i:06d}" for i in range(5000)])}))
        writer.write_table(pa.table({"key": pa.array(["k"])}))
    assert check_table(sink, 5001, 1 << 20) == [False]


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
    plain = check_table(file, rows_here, stated)
    others = {"PLAIN_DICTIONARY", "RLE_DICTIONARY"}
    assert plain[:2] + plain[3:] == [not (used & others) for c, used in enumerate(encodings_of(metadata)) if c != 2]
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
