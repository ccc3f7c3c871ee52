"""Kept samples: the table of samples of a large data set, read and checked once, then shared by all processes of a machine."""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa

from reinforce.files import file_sha256
from reinforce.sources.kept_table import kept_table
from reinforce.store.samples import Samples

_KEPT = pa.schema(
    [
        pa.field("key", pa.string()),
        pa.field("label", pa.int64()),
        pa.field("sha256", pa.binary(32)),
        pa.field("crc32c", pa.int64()),
        pa.field("width_height", pa.binary(8)),
        pa.field("status", pa.uint8()),
        pa.field("reason", pa.string()),
        pa.field("block", pa.int64()),
        pa.field("row", pa.int64()),
    ]
)
"""The columns of `Samples` as they are in memory."""


def open_samples(content: Path | BytesIO, num_samples: int, block_size: int, any_order: bool) -> Samples:
    """Like `Samples.from_parquet`, but from the cache where the same table was read before.

    Raises:
        StoreError: missing, damaged, or not the table the manifest describes.
    """
    shape = (num_samples, block_size, any_order)
    try:
        found = hashlib.sha256(content.getbuffer()).hexdigest() if isinstance(content, BytesIO) else file_sha256(content)
    except OSError:
        return Samples.from_parquet(content, *shape)  # which says what is wrong
    return _opened(kept_table(f"samples-1 {found} {shape}", _KEPT, lambda: _table(Samples.from_parquet(content, *shape))))


def _table(samples: Samples) -> pa.RecordBatch:
    why = np.full(len(samples), -1)
    why[list(samples.reasons)] = np.arange(len(samples.reasons))
    columns = [
        samples.key_column,
        pa.array(samples.labels),
        _bytes(samples.sha256),
        pa.array(samples.crc32c),
        _bytes(samples.width_height.view(np.uint8)),
        pa.array(samples.status),
        pa.array(list(samples.reasons.values()), pa.string()).take(pa.array(why, mask=why < 0)),
        pa.array(samples.block),
        pa.array(samples.row),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_KEPT)


def _bytes(values: np.ndarray) -> pa.Array:
    """uint8 `[N, n]` as a column."""
    kind = pa.binary(values.shape[1])
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def _opened(table: pa.RecordBatch) -> Samples:
    reasons = table["reason"]
    failed = np.flatnonzero(reasons.is_valid().to_numpy(zero_copy_only=False)).tolist()

    def rows(name: str, kind: type, width: int) -> np.ndarray:
        flat: np.ndarray = np.frombuffer(table[name].buffers()[1], kind)
        return flat[: len(table) * width].reshape(-1, width)

    return Samples(
        key_column=table["key"],
        labels=table["label"].to_numpy(),
        sha256=rows("sha256", np.uint8, 32),
        crc32c=table["crc32c"].to_numpy(),
        width_height=rows("width_height", np.uint32, 2),
        status=table["status"].to_numpy(),
        reasons={n: reasons[n].as_py() for n in failed},
        block=table["block"].to_numpy(),
        row=table["row"].to_numpy(),
    )
