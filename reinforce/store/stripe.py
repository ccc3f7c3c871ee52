"""Stripe: a run of views of a block, whose params and records are in files of their own.

So one can download the first views of a data set without the others. Training reads these files directly, without zarr, as
FORMAT.md fixes their layout: a record is a slice of a memory map, one view's params are one chunk of a shard.
Source: FORMAT.md, "Blocks".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from reinforce.errors import StoreError
from reinforce.files import read_at_most
from reinforce.store.zarr_layout import (
    ARRAYS,
    STRIPE_ARRAYS,
    ArrayLayout,
    check_layout,
    read_inner_chunks,
    read_one_chunk,
    stripe_array,
)

_MAX_METADATA = 1 << 24
_MAX_ARRAY_METADATA = 1 << 16


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
            layout = open_array(path, self.name(name), name, ndim, samples, views, columns)
            if name == "records":
                self._size = layout.shape[0]
        self.offsets = self._offsets()
        if os.path.getsize(self._file("records", "0")) != self._size:
            raise damaged(path, f"{self.name('records')}/c/0 is not a file of {self._size} bytes")
        if self.offsets[0] != 0 or np.any(np.diff(self.offsets) < 0) or self.offsets[-1] > self._size:
            raise damaged(path, "record offsets are out of order or past the end")

    def name(self, array: str) -> str:
        """The name of one of its arrays."""
        return stripe_array(array, self.number)

    def _file(self, array: str, chunk: str) -> str:
        return os.path.join(self.path, self.name(array), "c", chunk)

    def _offsets(self) -> np.ndarray:
        found = read_array(self.path, self.name("offsets"), "offsets", *self.shape)
        if found.max() >= 1 << 62:
            raise damaged(self.path, f"{self.name('offsets')} has an offset of {found.max()}")
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
        name = self.name("witness")
        if not os.path.isdir(os.path.join(self.path, name)):
            return None
        return read_array(self.path, name, "witness", *self.shape)

    def record(self, row: int) -> memoryview:
        """The record of one sample; empty where the sample is not ok."""
        return self._records[self.offsets[row] : self.offsets[row + 1]]

    def params(self) -> np.ndarray:
        """Params of all its views of all samples: int32 `[S, v, P]`."""
        params = np.empty(self.shape, np.int32)
        for view, chunk in enumerate(self._params(range(self.shape[1]))):
            params[:, view] = chunk
        return params

    def params_of_view(self, view: int) -> np.ndarray:
        """Params of one of its views of all samples: int32 `[S, P]`."""
        return next(self._params([view]))

    def _params(self, chosen: Iterable[int]) -> Iterator[np.ndarray]:
        samples, views, columns = self.shape
        try:
            for chunk in read_inner_chunks(self._file("params", "0/0/0"), chosen, views, 4 * samples * columns):
                yield np.frombuffer(chunk, "<i4").reshape(columns, samples).T
        except (OSError, ValueError, RuntimeError) as error:
            raise damaged(self.path, f"{self.name('params')}: {type(error).__name__}: {error}") from None


def open_array(path: Path, name: str, kind: str, ndim: int, samples: int, views: int, columns: int) -> ArrayLayout:
    """Check the metadata of an array, and that its one chunk exists.

    Raises:
        StoreError: missing, damaged, or of another shape or dtype.
    """
    try:
        layout = check_layout(kind, read_metadata(path, f"{name}/zarr.json"), samples, views, columns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(path, f"{name}: {type(error).__name__}: {error}") from None
    file = os.path.join(path, name, "c", *["0"] * ndim)
    if not os.path.isfile(file) or not os.path.getsize(file):
        raise damaged(path, f"{os.path.relpath(file, path)} is missing or empty")
    return layout


def read_metadata(path: Path, name: str) -> bytes:
    """The content of a zarr.json of a block: of the group, which has the reasons, at most 16 MiB, of an array at most 64 KiB.

    Raises:
        OSError: it cannot be read.
        ValueError: it is longer.
    """
    limit = _MAX_METADATA if name == "zarr.json" else _MAX_ARRAY_METADATA
    content = read_at_most(os.path.join(path, name), limit)
    if len(content) > limit:
        raise ValueError(f"{name} has more than {limit} bytes")
    return content


def read_array(path: Path, name: str, kind: str, samples: int, views: int, columns: int) -> np.ndarray:
    """A whole array of a block, but `params` and `records`; `kind` is its name in FORMAT.md.

    Raises:
        StoreError: missing, damaged, or of another shape, dtype or codec.
    """
    ndim = (ARRAYS | STRIPE_ARRAYS).get(kind, 1)
    layout = open_array(path, name, kind, ndim, samples, views, columns)
    try:
        return read_one_chunk(os.path.join(path, name, "c", *["0"] * ndim), kind, layout)
    except (OSError, ValueError) as error:
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
