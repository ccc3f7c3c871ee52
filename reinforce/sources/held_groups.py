"""Held groups: row groups of tables that a process keeps in memory, bounded by their bytes and not by their number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import pyarrow as pa


class HeldGroups:
    """What was read last, up to a number of bytes.

    At most `limit` bytes are held, or one group where that alone is larger. Room is made before a group is read, so that the
    old and the new are not in memory together; one thread reads at a time, so that the limit is one of the process.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._held: OrderedDict[Hashable, pa.Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, size: Callable[[], int], read: Callable[[], pa.Array]) -> pa.Array:
        """A group: held, or read now.

        Args:
            key: Which one.
            size: Tells its bytes, as its file says.
            read: Reads it.
        """
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            self._make_room(size())
            found = read()
            self._make_room(found.nbytes)  # a file may say less than there is
            self._held[key] = found
            self.bytes += found.nbytes
            return found

    def clear(self) -> None:
        """Hold none."""
        with self._lock:
            self._make_room(self.limit)

    def _make_room(self, size: int) -> None:
        while self._held and self.bytes + size > self.limit:
            self.bytes -= self._held.popitem(last=False)[1].nbytes
