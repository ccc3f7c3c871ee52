"""Samples: the table with a row per sample, `samples.parquet` (FORMAT.md, "Samples")."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reinforce.errors import StoreError, first_line
from reinforce.files import check_plain
from reinforce.sources.column import Column, all_differ, give_back, numbers, texts
from reinforce.sources.table_guard import read_table, repeated
from reinforce.views.decode import MAX_PIXELS
from reinforce.views.status import Status

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("sha256", pa.binary(32)),
        pa.field("crc32c", pa.uint32()),
        pa.field("width", pa.uint32()),
        pa.field("height", pa.uint32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
        pa.field("block", pa.int32(), nullable=False),
        pa.field("row", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Samples:
    """The table as columns; N samples in index order.

    Attributes:
        key_column: Key of each sample, string `[N]`.
        labels: int64 `[N]`, hard labels; -1: the sample has none.
        sha256: uint8 `[N, 32]`, of the encoded bytes; zeros where they could not be read.
        crc32c: int64 `[N]`, CRC-32C of the encoded bytes; -1: not known.
        width_height: uint32 `[N, 2]`, of the decoded image; zeros where it could not be decoded.
        status: uint8 `[N]`, see `Status`.
        reasons: Why a sample is not ok, by the sample's index.
        block: int64 `[N]`, number of the block that has the labels of each sample.
        row: int64 `[N]`, row of each sample in its block.
    """

    key_column: pa.StringArray
    labels: np.ndarray
    sha256: np.ndarray
    crc32c: np.ndarray
    width_height: np.ndarray
    status: np.ndarray
    reasons: dict[int, str]
    block: np.ndarray
    row: np.ndarray

    def __len__(self) -> int:
        return len(self.key_column)

    @property
    def keys(self) -> Column[str]:
        """Key of each sample."""
        return texts(self.key_column)

    def key(self, sample: int) -> str:
        """Key of one sample."""
        return str(self.key_column[sample].as_py())

    @classmethod
    def empty(cls, keys: Sequence[str], labels: Sequence[int | None] | None) -> Samples:
        """A table in which no block has been filled in yet; `labels` None: no sample has one."""
        n = len(keys)
        hard = np.full(n, -1, np.int64)
        if labels is not None:
            given = numbers(labels).array
            hard[:] = given.fill_null(-1).to_numpy()
        digests, sizes, status = np.zeros((n, 32), np.uint8), np.zeros((n, 2), np.uint32), np.zeros(n, np.uint8)
        crc, block, row = np.full(n, -1), np.zeros(n, np.int64), np.zeros(n, np.int64)
        return cls(texts(keys).array, hard, digests, crc, sizes, status, {}, block, row)

    def fill(self, number: int, samples: np.ndarray, columns: dict[str, np.ndarray], reasons: dict[int, str]) -> None:
        """Put the samples of block `number` into the table, at the indices `samples`, int64 `[S]`.

        Args:
            number: Of the block.
            samples: Their indices, row by row.
            columns: As of `Block.sample_columns`.
            reasons: Why a sample is not ok, by its row.
        """
        for name, values in columns.items():
            getattr(self, name)[samples] = values
        self.reasons.update({int(samples[row]): reason for row, reason in reasons.items()})
        self.block[samples], self.row[samples] = number, np.arange(len(samples))

    def to_parquet(self) -> bytes:
        """The file's bytes; with the same version of pyarrow, equal tables give equal bytes."""
        failed = self.status != Status.OK
        names = pa.array([name.name.lower() for name in Status], pa.string())
        why = np.full(len(self), -1)
        why[list(self.reasons)] = np.arange(len(self.reasons))
        columns = [
            self.key_column,
            pa.array(self.labels.astype(np.int32), mask=self.labels < 0),
            _digests(self.sha256),
            pa.array(self.crc32c.astype(np.uint32), mask=self.crc32c < 0),
            pa.array(self.width_height[:, 0], mask=failed),
            pa.array(self.width_height[:, 1], mask=failed),
            names.take(pa.array(np.searchsorted(list(Status), self.status))),
            pa.array(list(self.reasons.values()), pa.string()).take(pa.array(why, mask=why < 0)),
            pa.array(self.block.astype(np.int32)),
            pa.array(self.row.astype(np.int32)),
        ]
        sink = io.BytesIO()
        table = pa.Table.from_arrays(columns, schema=SCHEMA)
        pq.write_table(table, sink, compression="zstd", use_dictionary=repeated(SCHEMA))
        return sink.getvalue()

    @classmethod
    def from_parquet(cls, path: Path | BytesIO, num_samples: int, block_size: int, any_order: bool = False) -> Samples:
        """Read and check the file, or its content; `any_order`: samples may be in the blocks in any order.

        Raises:
            StoreError: missing, damaged, or not the table the manifest describes.
        """
        if isinstance(path, Path):
            try:
                check_plain(path)
            except OSError as error:
                raise _damaged(path, error.strerror) from None
        table = read_table(path, path.name if isinstance(path, Path) else "samples.parquet", num_samples, SCHEMA, "crc32c")
        try:
            table.validate(full=True)
            column = {}
            for name in table.column_names:  # copied and dropped one by one, so that the table is not in memory twice
                column[name] = table[name].combine_chunks()
                table = table.drop_columns([name])
        except (ValueError, pa.ArrowException) as error:
            raise _damaged(path, first_line(error)) from None
        keys, status = column["key"], np.full(num_samples, 255, np.uint8)
        for value in Status:
            equal = pc.equal(column["status"], value.name.lower()).fill_null(False)
            status[equal.to_numpy(zero_copy_only=False)] = value
        block, row = (column[c].fill_null(-1).to_numpy().astype(np.int64) for c in ("block", "row"))
        in_blocks = (row >= 0) & (row < block_size)
        if not in_blocks.all() or not np.array_equal(np.sort(block * block_size + row), np.arange(num_samples)):
            raise _damaged(path, "places (block and row) that are missing or occur twice")
        if not any_order and np.any(np.diff(block * block_size + row) != 1):
            raise _damaged(path, "samples are not in index order")
        if np.any(status == 255) or not all_differ(keys):
            raise _damaged(path, "an unknown status, or a key that is missing or occurs twice")
        filled = column["sha256"].fill_null(bytes(32))
        digests = np.frombuffer(filled.buffers()[1], np.uint8)[32 * filled.offset :][: 32 * num_samples]
        reasons = column["reason"]
        failed = np.flatnonzero(reasons.is_valid().to_numpy(zero_copy_only=False)).tolist()
        sides = [column[c].fill_null(0).to_numpy() for c in ("width", "height")]
        if num_samples and int((sides[0].astype(np.uint64) * sides[1]).max()) > MAX_PIXELS:
            raise _damaged(path, f"an image of more than {MAX_PIXELS} pixels")
        labels = column["label"].fill_null(-1).to_numpy().astype(np.int64)
        crc = column["crc32c"].cast(pa.int64()).fill_null(-1).to_numpy() if "crc32c" in column else np.full(num_samples, -1)
        why = {i: reasons[i].as_py() for i in failed}
        digests, sizes = digests.reshape(-1, 32).copy(), np.stack(sides, axis=1).astype(np.uint32)
        del column, filled, reasons, sides
        give_back()
        return cls(
            key_column=keys,
            labels=labels,
            sha256=digests,
            crc32c=crc,
            width_height=sizes,
            status=status,
            reasons=why,
            block=block,
            row=row,
        )


def _digests(sha256: np.ndarray) -> pa.Array:
    """uint8 `[N, 32]` as a column; null where all are zero."""
    known = pa.array(sha256.any(axis=1))
    missing = len(sha256) - int(pc.sum(known).as_py() or 0)
    buffers = [known.buffers()[1] if missing else None, pa.py_buffer(np.ascontiguousarray(sha256))]
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(sha256), buffers, missing)


def _damaged(path: Path | BytesIO, found: str | None) -> StoreError:
    return StoreError(
        f"{path.name if isinstance(path, Path) else 'samples.parquet'} is damaged.",
        found=found,
        expected="the table that FORMAT.md describes, a row per sample",
        cause="a broken copy, or a file changed by hand",
        fix="copy it again, or generate it again into another --out",
    )
