"""Held groups: row groups of tables that a process keeps in memory, limited by their bytes and not by their number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import pyarrow as pa


class HeldGroups:
    """The groups that were used last, up to a number of bytes.

    It holds at most `limit` bytes, or one group if that group alone is larger. Old groups are dropped before a new one is read,
    so that both are not in memory together. Only one thread reads at a time, so that the limit is kept for the whole process.

    Args:
        limit: Most bytes that are held.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0
        self._held: OrderedDict[Hashable, pa.Array] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, size: Callable[[], int], read: Callable[[], pa.Array]) -> pa.Array:
        """A group: from memory, or read now.

        Args:
            key: Identifies the group.
            size: Returns the bytes of the group, as stated by its file.
            read: Reads the group.
        """
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
            self._make_room(size())
            found = read()
            self._make_room(found.nbytes)  # a file may state fewer bytes than the group has
            self._held[key] = found
            self.bytes += found.nbytes
            return found

    def clear(self) -> None:
        """Drop all groups."""
        with self._lock:
            self._make_room(self.limit)

    def _make_room(self, size: int) -> None:
        while self._held and self.bytes + size > self.limit:
            self.bytes -= self._held.popitem(last=False)[1].nbytes
