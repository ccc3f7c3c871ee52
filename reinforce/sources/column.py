"""Column: a sequence that behaves like a tuple of texts or of whole numbers, and takes the memory of its bytes alone.

A tuple of a million keys is a million Python objects: 80 bytes each beside the text, and a forked worker that only looks at
them gets copies of their pages. A column is one run of bytes, which processes share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

T = TypeVar("T", str, int)
_AT_ONCE = 1 << 14  # items that are Python objects at a time while one goes through all


class Column(Sequence[T]):
    """Items of one kind, none of them missing.

    Attributes:
        array: Them, `pa.string()` or `pa.int64()`.
    """

    __slots__ = ("array",)

    def __init__(self, array: pa.Array) -> None:
        self.array = array

    @classmethod
    def of(cls, items: Sequence[T] | pa.Array | pa.ChunkedArray | np.ndarray, kind: pa.DataType) -> Column[T]:
        """Items as a column, a column as it is.

        Raises:
            UnicodeEncodeError: a text that is no Unicode, such as a file name in another encoding.
        """
        if isinstance(items, Column):
            return items
        if isinstance(items, pa.ChunkedArray):
            items = items.combine_chunks()
        return cls(items if isinstance(items, pa.Array) and items.type == kind else pa.array(items, kind))

    def take(self, rows: np.ndarray) -> Column[T]:
        """The items at `rows`, int64 `[n]`, in that order."""
        return Column(self.array.take(pa.array(rows)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.array.to_numpy(zero_copy_only=False), dtype)

    def __arrow_array__(self, type: pa.DataType | None = None) -> pa.Array:
        return self.array if type is None or type == self.array.type else self.array.cast(type)

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, place: int) -> T: ...
    @overload
    def __getitem__(self, place: slice) -> Column[T]: ...
    def __getitem__(self, place: int | slice) -> T | Column[T]:
        if isinstance(place, slice):
            start, stop, step = place.indices(len(self))
            places = range(start, stop, step)
            return Column(self.array[start:stop]) if step == 1 else self.take(np.fromiter(places, np.int64, len(places)))
        item: T = self.array[int(place)].as_py()  # an IndexError, as of a tuple, where there is none
        return item

    def __iter__(self) -> Iterator[T]:
        for first in range(0, len(self), _AT_ONCE):
            yield from self.array[first : first + _AT_ONCE].to_pylist()

    def __contains__(self, item: object) -> bool:
        return self._find(item) >= 0

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        """The first place of an item.

        Raises:
            ValueError: it is not there.
        """
        if start or stop is not None:
            return tuple(self).index(value, start, len(self) if stop is None else stop)
        found = self._find(value)
        if found < 0:
            raise ValueError(f"{value!r} is not there")
        return found

    def _find(self, item: object) -> int:
        try:
            return int(pc.index(self.array, pa.scalar(item, self.array.type)).as_py())
        except (pa.ArrowException, TypeError, ValueError, OverflowError):  # of another kind than the items
            return -1

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Column):
            return bool(self.array.equals(other.array))
        return isinstance(other, tuple) and tuple(self) == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


def texts(items: Sequence[str] | pa.Array | pa.ChunkedArray) -> Column[str]:
    """Texts as a column."""
    return Column.of(items, pa.string())


def numbers(items: Sequence[int] | np.ndarray | pa.Array | pa.ChunkedArray) -> Column[int]:
    """Whole numbers of 64 bits as a column."""
    return Column.of(items, pa.int64())


def all_differ(items: pa.Array) -> bool:
    """Whether no text is missing or occurs twice; fast if they are sorted, as those of a folder are."""
    if items.null_count:
        return False
    if pc.all(pc.less(items[:-1], items[1:])).as_py() is not False:
        return True
    hashes = np.sort(_hashes(items))  # Arrow's own count takes 300 bytes for each text
    return not (hashes[1:] == hashes[:-1]).any() or bool(pc.count_distinct(items).as_py() == len(items))


def find(wanted: pa.Array, items: pa.Array) -> np.ndarray:
    """The place of each wanted text among `items`, which all differ: int64 `[n]`; -1: it is not there."""
    if wanted.equals(items):
        return np.arange(len(items))
    if not len(items):
        return np.full(len(wanted), -1)
    hashes, of_wanted = _hashes(items), _hashes(wanted)
    order, asked = np.argsort(hashes), np.argsort(of_wanted)
    places = np.empty(len(wanted), np.int64)
    # Both in rising order: a search for each at a random place waits for the memory each time.
    places[asked] = order[np.minimum(np.searchsorted(hashes[order], of_wanted[asked]), len(items) - 1)]
    there = hashes[places] == of_wanted
    same = pc.equal(items.take(pa.array(places[there])), wanted.filter(pa.array(there)))
    if pc.all(same).as_py() is False:  # two texts with one hash
        found: np.ndarray = pc.index_in(wanted, value_set=items).fill_null(-1).to_numpy().astype(np.int64)
        return found
    return np.where(there, places, -1)


def _hashes(items: pa.Array) -> np.ndarray:
    return np.fromiter(map(hash, Column(items)), np.int64, len(items))


def give_back() -> None:
    """Give memory that Arrow has freed back to the system: it keeps hundreds of megabytes after a large table was read."""
    pa.default_memory_pool().release_unused()
