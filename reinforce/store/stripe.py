"""Stripe: a run of views of a block, whose params and records are in files of their own.

So one can download the first views of a data set without the others. Training reads these files directly, without zarr, as
FORMAT.md fixes their layout: a record is a slice of a memory map, one view's params are one chunk of a shard.
Source: FORMAT.md, "Blocks".
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from reinforce.errors import StoreError
from reinforce.store.zarr_layout import STRIPE_ARRAYS, check_layout, read_inner_chunk, stripe_array

_MAX_METADATA = 1 << 24


class Stripe:
    """Read access to one stripe of a committed block.

    Args:
        path: The block's directory.
        number: Number of the stripe.
        samples: S.
        views: Number of views of this stripe.
        columns: P.

    Raises:
        StoreError: missing, damaged, or of another shape or dtype.
    """

    def __init__(self, path: Path, number: int, samples: int, views: int, columns: int) -> None:
        self.path = path
        self.number = number
        self.shape = (samples, views, columns)
        for name, ndim in STRIPE_ARRAYS.items():
            length = open_array(path, self.name(name), name, ndim, samples, views, columns)
            if name == "records":
                self._size = length
        self.offsets = self._raw_offsets(samples)
        if os.path.getsize(self._file("records", "0")) != self._size:
            raise damaged(path, f"{self.name('records')}/c/0 is not a file of {self._size} bytes")
        if self.offsets[0] != 0 or np.any(np.diff(self.offsets) < 0) or self.offsets[-1] > self._size:
            raise damaged(path, "record offsets are out of order or past the end")

    def name(self, array: str) -> str:
        """The name of one of its arrays."""
        return stripe_array(array, self.number)

    def _file(self, array: str, chunk: str) -> str:
        return os.path.join(self.path, self.name(array), "c", chunk)

    def _raw_offsets(self, samples: int) -> np.ndarray:
        found = np.fromfile(self._file("offsets", "0"), "<u8")
        if len(found) != samples + 1 or (len(found) and found.max() >= 1 << 62):
            raise damaged(self.path, f"{self.name('offsets')}/c/0 does not hold {samples + 1} offsets")
        return found.astype(np.int64)

    @cached_property
    def _records(self) -> memoryview:
        # torch's memory map keeps no file open; a data set may have more blocks than a process may have open files.
        return torch.from_file(self._file("records", "0"), shared=False, size=self._size, dtype=torch.uint8).numpy().data

    @cached_property
    def witness(self) -> np.ndarray | None:
        """CRC-32C of the pixels of all its views, of each sample: uint32 `[S]`; None: the writer stored none.

        Raises:
            StoreError: damaged.
        """
        samples, views, columns = self.shape
        name = self.name("witness")
        if not os.path.isdir(os.path.join(self.path, name)):
            return None
        open_array(self.path, name, "witness", 1, samples, views, columns)
        found = np.fromfile(self._file("witness", "0"), "<u4")
        if len(found) != samples:
            raise damaged(self.path, f"{name}/c/0 does not hold {samples} numbers")
        return found

    def record(self, row: int) -> memoryview:
        """The record of one sample; empty where the sample is not ok."""
        return self._records[self.offsets[row] : self.offsets[row + 1]]

    def params(self) -> np.ndarray:
        """Params of all its views of all samples: int32 `[S, v, P]`."""
        return np.stack([self.params_of_view(view) for view in range(self.shape[1])], axis=1)

    def params_of_view(self, view: int) -> np.ndarray:
        """Params of one of its views of all samples: int32 `[S, P]`."""
        samples, views, columns = self.shape
        try:
            chunk = read_inner_chunk(self._file("params", "0/0/0"), view, views, 4 * samples * columns)
        except (OSError, ValueError, RuntimeError) as error:
            raise damaged(self.path, f"{self.name('params')}: {type(error).__name__}: {error}") from None
        return np.frombuffer(chunk, "<i4").reshape(columns, samples).T


def open_array(path: Path, name: str, kind: str, ndim: int, samples: int, views: int, columns: int) -> int:
    """Check the metadata of an array, and that its one chunk exists; returns the length of its first axis.

    Raises:
        StoreError: missing, damaged, or of another shape or dtype.
    """
    try:
        length = check_layout(kind, read_metadata(path, f"{name}/zarr.json"), samples, views, columns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"{name}: {type(error).__name__}: {error}") from None
    # If a chunk is missing, zarr returns zeros without a warning.
    file = os.path.join(path, name, "c", *["0"] * ndim)
    if not os.path.isfile(file) or not os.path.getsize(file):
        raise damaged(path, f"{os.path.relpath(file, path)} is missing or empty")
    return length


def read_metadata(path: Path, name: str) -> bytes:
    """The content of a zarr.json of a block, at most 16 MiB."""
    with open(os.path.join(path, name), "rb") as file:
        return file.read(_MAX_METADATA)


def read_array(path: Path, name: str) -> np.ndarray:
    """A whole array of a block, through zarr."""
    try:
        array: Any = zarr.open_array(path / name, mode="r", zarr_format=3)
        return np.asarray(array[:])
    except Exception as error:  # noqa: BLE001 - zarr passes on the errors of its parsers, of any type
        raise damaged(path, f"{name}: {type(error).__name__}: {error}") from None


def damaged(path: Path, found: str) -> StoreError:
    """The error for a block that cannot be read."""
    return StoreError(
        f"Block {path.name} is damaged.",
        found=found,
        expected="a zarr v3 group as in FORMAT.md",
        cause="a broken copy, a failing disk, or a file changed by hand",
        fix=f"remove {path} and run the same `reinforce generate` again, or copy the block again",
    )
