"""Epoch files: the records of one epoch in TinyViT's format, and where the records of the same image are in other epochs.

In a folder, `rank{r}-keys.txt` has a line per record of `rank{r}-values.bin`. The images of an epoch stand in the order in
which they were drawn, another one each epoch, and there may be ninety epochs of fourteen million. So keys are held as arrays of
bytes, of the first epoch and one other at a time; of each epoch only the numbers of its rows are kept, in a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from reinforce.files import read_small
from reinforce.peers.reader import bad_labels

_KEYS = re.compile(r"rank(\d{1,6})-keys\.txt")
_MAX_KEYS = 2 << 30  # bytes of a file of keys
_MAX_KEY = 4096
_ROWS_AT_ONCE = 1 << 16


class EpochFiles:
    """The records of one epoch, all ranks one after the other.

    Raises:
        StoreError: a file of keys without its values, or one that is too large.
    """

    def __init__(self, folder: Path, record: int) -> None:
        self.folder, self.record = folder, record
        with _readable(folder):
            found = sorted((int(m[1]), p) for p in folder.iterdir() if (m := _KEYS.fullmatch(p.name)))
        self.pairs = [(p, p.with_name(p.name.replace("-keys.txt", "-values.bin"))) for _, p in found]
        for keys, values in self.pairs:
            if not (keys.is_file() and values.is_file()) or keys.stat().st_size > _MAX_KEYS:
                raise bad_labels(f"{keys} without its values, or of more than {_MAX_KEYS} bytes, or no plain file")
        self.counts = [values.stat().st_size // record for _, values in self.pairs]

    def keys(self) -> np.ndarray:
        """The key of each record, bytes `[n]`.

        Raises:
            StoreError: other values than these keys have.
        """
        found = []
        for keys, values in self.pairs:
            names = _lines(keys)
            if values.stat().st_size != len(names) * self.record:
                raise bad_labels(f"{values}: {values.stat().st_size} bytes for {len(names)} records of {self.record}")
            found.append(names)
        return np.concatenate(found) if found else np.zeros(0, "S1")

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The records of these rows: uint8 `[len(rows), record]`."""
        out = np.empty((len(rows), self.record), np.uint8)
        first = 0
        for (_, values), count in zip(self.pairs, self.counts, strict=True):
            here = np.flatnonzero((rows >= first) & (rows < first + count))
            if len(here):
                here = here[np.argsort(rows[here])]  # forwards through the file
                with _readable(values):
                    out[here] = np.memmap(values, np.uint8, "r").reshape(count, self.record)[rows[here] - first]
            first += count
        return out


class Rows:
    """Where the records of each image are in every epoch, for the images that are in all of them.

    Args:
        epochs: Files of all epochs.
        file: A temporary file, which gets four bytes per image and epoch.

    Attributes:
        names: The key of each image, bytes `[N]`, in the order of the first epoch.
        whole: bool `[N]`: it is in all epochs.
    """

    def __init__(self, epochs: list[EpochFiles], file: IO[bytes]) -> None:
        self.file = file
        first, rows = _unique(epochs[0].keys())  # sorted by key
        order = np.argsort(rows, kind="stable")  # in the order of the file
        self.names, self.whole = first[order], np.ones(len(first), bool)
        self._add(rows[order])
        for epoch in epochs[1:]:
            keys, rows = _unique(epoch.keys())
            at = np.minimum(np.searchsorted(keys, first), len(keys) - 1)
            there = (keys[at] == first) if len(keys) else np.zeros(len(first), bool)
            found = np.where(there, rows[at], -1) if len(keys) else np.full(len(first), -1, np.int32)
            self.whole &= there[order]
            self._add(found[order])

    def of(self, epoch: int, begin: int, end: int) -> np.ndarray:
        """Rows in an epoch of the images `begin` to `end`, int32; -1: it is not in that epoch."""
        self.file.seek(4 * (epoch * len(self.names) + begin))
        return np.frombuffer(self.file.read(4 * (end - begin)), "<i4")

    def _add(self, rows: np.ndarray) -> None:
        self.file.write(memoryview(rows.astype("<i4")))  # type: ignore[arg-type]


def _unique(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys, each once, and the first row of each; a sampler that pads its ranks draws some images twice."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.ones(len(keys), bool)
    first[1:] = keys[1:] != keys[:-1]
    return keys[first], order[first].astype(np.int32)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise bad_labels(f"{path} cannot be read: {error.strerror or error}") from None


def _lines(path: Path) -> np.ndarray:
    """The lines of a file, bytes `[n]`, without a Python object for each."""
    with _readable(path):
        content = np.frombuffer(read_small(path, _MAX_KEYS), np.uint8)
    ends = np.flatnonzero(content == ord("\n"))
    if len(content) and content[-1] != ord("\n"):
        ends = np.append(ends, len(content))
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts
    lengths -= (lengths > 0) & (content[np.maximum(ends, 1) - 1] == ord("\r")) if len(ends) else 0
    width = int(lengths.max(initial=1))
    if width > _MAX_KEY or width * len(ends) > 16 * len(content) + (1 << 26):
        raise bad_labels(f"{path}: a key of {width} bytes among {len(ends)}")
    out, column = np.zeros((len(ends), max(width, 1)), np.uint8), np.arange(max(width, 1))
    for begin in range(0, len(ends), _ROWS_AT_ONCE):
        part = slice(begin, begin + _ROWS_AT_ONCE)
        inside = column < lengths[part, None]
        out[part][inside] = content[(starts[part, None] + column)[inside]]
    return out.view(f"S{out.shape[1]}").ravel()
