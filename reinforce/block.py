"""Block: a fixed run of samples as one zarr group; the unit of work, commit, resume and checksum.

A block is written into a directory with a leading dot, every file is synced, and one rename makes it visible: a reader
sees a whole block or none (invariant 3). Source: FORMAT.md, "Blocks".
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import BloscCodec

from reinforce.errors import StoreError
from reinforce.shard import ARRAYS, check_layout, read_inner_chunk

_BLOSC = {"cname": "zstd", "clevel": 9, "shuffle": "shuffle"}
_MAX_METADATA = 1 << 24


class Status(IntEnum):
    """What became of a sample at generation."""

    OK = 0
    MISSING = 1
    CORRUPT = 2


@dataclass
class BlockData:
    """The content of one block in memory, for S samples, V views, P params columns.

    Samples that are not ok have an empty record and zeros elsewhere.
    """

    params: np.ndarray  # int32 [S, V, P]
    probes: np.ndarray  # uint32 [S]: CRC-32 of the pixels of view (row % V)
    sha256: np.ndarray  # uint8 [S, 32], of the encoded bytes
    width_height: np.ndarray  # uint32 [S, 2], of the decoded image
    status: np.ndarray  # uint8 [S]
    label_error: np.ndarray  # float32 [S, 3]: mean KL, mean top-1 bias, image bias of the codec; NaN: not measured
    records: list[bytes] = field(default_factory=list)  # S of them
    reasons: dict[int, str] = field(default_factory=dict)  # row -> why it is not ok

    @classmethod
    def empty(cls, samples: int, views: int, columns: int) -> BlockData:
        """A block in which nothing has been filled in yet."""
        return cls(
            params=np.zeros((samples, views, columns), np.int32),
            probes=np.zeros(samples, np.uint32),
            sha256=np.zeros((samples, 32), np.uint8),
            width_height=np.zeros((samples, 2), np.uint32),
            status=np.zeros(samples, np.uint8),
            label_error=np.full((samples, 3), np.nan, np.float32),
            records=[b""] * samples,
        )


def block_path(root: Path, block: int) -> Path:
    """Where a block lies."""
    return root / "blocks" / f"{block:06d}.zarr"


def committed_blocks(root: Path) -> set[int]:
    """Numbers of the blocks that are whole."""
    folder = root / "blocks"
    names = os.listdir(folder) if folder.is_dir() else []
    return {int(n[:6]) for n in names if len(n) == 11 and n[:6].isdecimal() and n.endswith(".zarr")}


def remove_staging(root: Path) -> None:
    """Remove what killed writers left half-written. Only for the holder of the lock."""
    folder = root / "blocks"
    for name in os.listdir(folder) if folder.is_dir() else []:
        if name.startswith("."):
            shutil.rmtree(folder / name, ignore_errors=True)


def write_block(root: Path, block: int, data: BlockData) -> None:
    """Write and commit a block.

    Raises:
        OSError: the disk is full or failing. Before the rename nothing of the block is visible, after it all of it is.
    """
    final = block_path(root, block)
    staging = final.with_name("." + final.name)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _write_group(staging, data)
        _sync_tree(staging)
        os.rename(staging, final)
        sync_folder(final.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def _write_group(path: Path, data: BlockData) -> None:
    samples, views, columns = data.params.shape
    reasons = {str(row): reason for row, reason in sorted(data.reasons.items())}
    group = zarr.create_group(path, zarr_format=3, attributes={"reinforce": {"reasons": reasons}})
    offsets = np.zeros(samples + 1, np.uint64)
    offsets[1:] = np.cumsum([len(r) for r in data.records])
    raw = np.frombuffer(b"".join(data.records) or b"\0", np.uint8)
    plain: dict[str, Any] = {"compressors": None, "filters": None, "config": {"write_empty_chunks": True}}
    # One chunk without compression: the file is the records themselves, and a record is a slice of its memory map.
    group.create_array("records", data=raw, chunks=raw.shape, **plain)
    group.create_array("offsets", data=offsets, chunks=offsets.shape, **plain)
    group.create_array("probes", data=data.probes, chunks=data.probes.shape, **plain)
    group.create_array("sha256", data=data.sha256, chunks=data.sha256.shape, **plain)
    group.create_array("width_height", data=data.width_height, chunks=data.width_height.shape, **plain)
    group.create_array("status", data=data.status, chunks=data.status.shape, **plain)
    group.create_array("label_error", data=data.label_error, chunks=data.label_error.shape, config={"write_empty_chunks": True})
    # One file, in which one view's columns can be read alone; values of one column stand together for the compressor.
    group.create_array(
        "params",
        data=data.params,
        chunks=(samples, 1, columns),
        shards=(samples, views, columns),
        filters=[zarr.codecs.TransposeCodec(order=(1, 2, 0))],
        compressors=[BloscCodec(typesize=4, **_BLOSC)],  # type: ignore[arg-type]
        config={"write_empty_chunks": True},
    )


class Block:
    """Read access to a committed block.

    What training reads, records and one view's params, is read from the files themselves, whose layout FORMAT.md fixes: a slice
    of a memory map, and one chunk of a shard. The rest goes through zarr.

    Args:
        path: The block's directory.
        samples: S, views: V, columns: P, as the manifest says; a block of another shape is refused.

    Raises:
        StoreError: missing, damaged, or of another shape or dtype.
    """

    def __init__(self, path: Path, samples: int, views: int, columns: int) -> None:
        self.path = path
        self.shape = (samples, views, columns)
        if not path.is_dir():
            raise StoreError(
                f"Block {path.name} is missing.", expected=str(path), cause="an incomplete copy", fix="copy it again"
            )
        try:
            group = json.loads(self._text("zarr.json"))
            lengths = {n: check_layout(n, self._text(f"{n}/zarr.json"), samples, views, columns) for n in ARRAYS}
            about = group["attributes"].get("reinforce")
            reasons = about.get("reasons") if isinstance(about, dict) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise _damaged(path, f"{type(error).__name__}: {error}") from None
        for name, ndim in ARRAYS.items():
            # zarr reads a chunk that is not there as zeros, without a word.
            file = os.path.join(path, name, "c", *["0"] * ndim)
            if not os.path.isfile(file) or not os.path.getsize(file):
                raise _damaged(path, f"{os.path.relpath(file, path)} is missing or empty")
        self.offsets = self._raw_offsets(samples)
        self._size = lengths["records"]
        if os.path.getsize(self._file("records", "0")) != self._size:
            raise _damaged(path, f"records/c/0 is not a file of {self._size} bytes")
        if self.offsets[0] != 0 or np.any(np.diff(self.offsets) < 0) or self.offsets[-1] > self._size:
            raise _damaged(path, "record offsets are out of order or past the end")
        if not isinstance(reasons, dict) or not all(r.isdecimal() and int(r) < samples for r in reasons):
            raise _damaged(path, "the reasons of missing and corrupt samples cannot be read")
        self.reasons = {int(row): str(reason) for row, reason in reasons.items()}

    def _file(self, name: str, chunk: str) -> str:
        return os.path.join(self.path, name, "c", chunk)

    def _text(self, name: str) -> bytes:
        with open(os.path.join(self.path, name), "rb") as file:
            return file.read(_MAX_METADATA)

    def _raw_offsets(self, samples: int) -> np.ndarray:
        found = np.fromfile(self._file("offsets", "0"), "<u8")
        if len(found) != samples + 1 or (len(found) and found.max() >= 1 << 62):
            raise _damaged(self.path, f"offsets/c/0 does not hold {samples + 1} offsets")
        return found.astype(np.int64)

    @cached_property
    def _records(self) -> memoryview:
        # torch's map keeps no file open: a data set has more blocks than a process may have files.
        return torch.from_file(self._file("records", "0"), shared=False, size=self._size, dtype=torch.uint8).numpy().data

    def _read(self, name: str, selection: Any = slice(None)) -> np.ndarray:
        try:
            array: Any = zarr.open_array(self.path / name, mode="r", zarr_format=3)
            return np.asarray(array[selection])
        except Exception as error:  # zarr raises whatever its parsers raise
            raise _damaged(self.path, f"{name}: {type(error).__name__}: {error}") from None

    def params_of_view(self, view: int) -> np.ndarray:
        """Params of one view of all samples: int32 `[S, P]`."""
        samples, views, columns = self.shape
        try:
            chunk = read_inner_chunk(self._file("params", "0/0/0"), view, views, 4 * samples * columns)
        except (OSError, ValueError, RuntimeError) as error:
            raise _damaged(self.path, f"params: {type(error).__name__}: {error}") from None
        return np.frombuffer(chunk, "<i4").reshape(columns, samples).T

    def params(self) -> np.ndarray:
        """Params of all views of all samples: int32 `[S, V, P]`."""
        return self._read("params")

    def record(self, row: int) -> memoryview:
        """The record of one sample; empty where the sample is not ok."""
        return self._records[self.offsets[row] : self.offsets[row + 1]]

    def probes(self) -> np.ndarray:
        """CRC-32 of view (row % V) of each sample: uint32 `[S]`."""
        return self._read("probes")

    def label_error(self) -> np.ndarray:
        """Mean KL, mean top-1 bias and image bias of the codec on each sample: float32 `[S, 3]`, NaN where not measured."""
        return self._read("label_error")

    def sample_columns(self) -> dict[str, np.ndarray]:
        """What is known of the samples: `sha256 [S, 32]`, `width_height [S, 2]`, `status [S]`."""
        return {name: self._read(name) for name in ("sha256", "width_height", "status")}


def _damaged(path: Path, found: str) -> StoreError:
    return StoreError(
        f"Block {path.name} is damaged.",
        found=found,
        expected="a zarr v3 group as in FORMAT.md",
        cause="a broken copy, a failing disk, or a file changed by hand",
        fix=f"remove {path} and run the same `reinforce generate` again, or copy the block again",
    )


def sync_folder(path: Path) -> None:
    """Make renames inside of a folder durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_tree(path: Path) -> None:
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            with open(os.path.join(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))
