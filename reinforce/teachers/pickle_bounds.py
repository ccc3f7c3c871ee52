"""Pickle bounds: how much the data of a pickle may be. A few hundred bytes can name the same tuple or tensor again and again.

What is counted is what a reader meets who goes through the data, so that a value counts as often as it is named. The count
itself visits each value once: what a shared one holds is added, not walked through again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from reinforce.teachers.pickle_names import Fields, Name, refused

MAX_DEPTH = 64
"""Most lists, tuples and dicts inside of each other."""
MAX_VALUES = 2_000_000
"""Most values, each counted as often as it is named."""
_SPARE = 64 << 20
_TIMES = 4  # tied weights, and averages that share them: views of the same numbers, named a few times
_CONTAINERS = frozenset({list, tuple, dict, Fields})
_SCALARS = frozenset({type(None), bool, int, float})


def most_bytes(length: int) -> int:
    """Most bytes of text and numbers in a file of `length` bytes, each counted as often as it is named."""
    return _TIMES * length + _SPARE


def check_bounds(value: Any, most: int) -> None:
    """Refuse data that is nested too deeply, that holds itself, that is too much, or that has something else than data in it.

    Args:
        value: Read from a pickle.
        most: Most bytes of text and numbers.

    Raises:
        StoreError: it is refused.
    """
    known: dict[int, tuple[int, int, int]] = {}  # of each container: depth, values and bytes
    begun: set[int] = set()
    todo: list[Any] = [(value,)]
    while todo:
        each = todo[-1]
        if id(each) in known:
            todo.pop()
            continue
        waiting: list[Any] = []
        depth, values, nbytes = 0, 1, 0
        for part in [*each, *each.values()] if isinstance(each, dict) else each:
            kind = type(part)
            if kind in _SCALARS:
                values += 1
                nbytes += 8
            elif kind not in _CONTAINERS:
                values += 1
                nbytes += _length(part)
            elif (inside := known.get(id(part))) is not None:
                depth, values, nbytes = max(depth, inside[0]), values + inside[1], nbytes + inside[2]
            else:
                waiting.append(part)
        if not waiting:
            known[id(todo.pop())] = _checked(depth + 1, values, nbytes, most)
        elif id(each) in begun:  # and what it holds is not known yet
            raise refused("a list or dict that holds itself")
        else:
            begun.add(id(each))
            todo += waiting


def _length(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, Name):
        return 8
    if isinstance(value, np.ndarray) or hasattr(value, "untyped_storage"):  # a tensor; this module does without torch
        return int(value.nbytes)
    raise refused(f"a {type(value).__name__} in the data")


def _checked(depth: int, values: int, nbytes: int, most: int) -> tuple[int, int, int]:
    if depth > MAX_DEPTH + 1:  # one for the tuple around all
        raise refused(f"lists, tuples or dicts more than {MAX_DEPTH} deep")
    if values > MAX_VALUES:
        raise refused(f"more than {MAX_VALUES} values, each counted as often as it is named")
    if nbytes > most:
        raise refused(f"more than {most} bytes of text and numbers, each counted as often as it is named")
    return depth, values, nbytes
