"""Pickle reader: reads plain data from a pickle of unknown origin without unpickling it, which could run code.

It interprets the opcodes of numbers, text, containers and a handful of numpy's and torch's constructors. A name in the file is
looked up in a fixed table (`pickle_names.py`) and never imported, so nothing in the file can run. Everything else is refused by
its name. Source: pickletools in Python's library.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from reinforce.errors import StoreError, first_line, shown
from reinforce.teachers.pickle_bounds import check_bounds, most_bytes
from reinforce.teachers.pickle_names import KNOWN, STORAGES, Array, Dtype, Fields, Name, Tensors, called, refused

MAX_OPCODES = 2_000_000
_MARK = object()
_KEYS = (str, bytes, int, float)  # and None


def read_pickle(content: bytes, tensors: Tensors | None = None, most: int | None = None) -> Any:
    """The data of a pickle: numbers, text, bytes, lists, tuples, dicts, numpy arrays, and tensors.

    Args:
        content: The pickle, protocol 2 to 5.
        tensors: Makes tensors; None: a pickle with tensors is refused.
        most: Most bytes of text and numbers, each counted as often as it is named; None: what suits the pickle's length.

    Raises:
        StoreError: the pickle is damaged, has anything else in it, or holds more than `pickle_bounds.py` allows.
    """
    return read_first_pickle(content, 0, tensors, most)[0]


def read_first_pickle(content: bytes, at: int, tensors: Tensors | None = None, most: int | None = None) -> tuple[Any, int]:
    """The data of the pickle that begins at byte `at`, and where it ends; other pickles may follow it.

    Raises:
        StoreError: the pickle is damaged, has anything else in it, or holds more than `pickle_bounds.py` allows.
    """
    machine = _Machine(content, at, tensors)
    try:
        value = machine.run()
        check_bounds(value, most_bytes(len(content)) if most is None else most)
        return value, machine.at
    except StoreError:
        raise
    except (
        IndexError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        struct.error,
        UnicodeDecodeError,
        OverflowError,
        RuntimeError,  # torch's
    ) as error:
        raise refused(first_line(error)) from None


class _Machine:
    def __init__(self, content: bytes, at: int, tensors: Tensors | None) -> None:
        self.content, self.at, self.tensors = content, at, tensors
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0  # bytes and entries that calls made of what was named to them

    def run(self) -> Any:
        steps, table, content = 0, _OPCODES, self.content
        while True:
            opcode = content[self.at]
            self.at += 1
            if opcode == 0x2E:  # STOP
                if len(self.stack) != 1:
                    raise refused("a stack that is not empty at its end")
                return _finished(self.stack[0])
            action = table.get(opcode)
            steps += 1
            if action is None or steps > MAX_OPCODES:
                raise refused(f"opcode {opcode:#04x} at byte {self.at - 1}")
            action(self)

    def take(self, length: int) -> bytes:
        if length < 0 or self.at + length > len(self.content):
            raise refused("it ends in the middle")
        self.at += length
        return self.content[self.at - length : self.at]

    def number(self, layout: struct.Struct) -> Any:
        value = layout.unpack_from(self.content, self.at)[0]
        self.at += layout.size
        return value

    def items(self) -> list[Any]:
        """Pop the values above the last mark, and the mark."""
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise refused("no mark")
        found = self.stack[at + 1 :]
        del self.stack[at:]
        return found

    def append(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise refused("an append to what is no list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict or len(values) % 2:
            raise refused("an entry of what is no dict")
        keys = values[::2]
        if not all(key is None or isinstance(key, _KEYS) for key in keys):  # to hash a tuple goes through all that it holds
            raise refused(f"a key {shown(next(k for k in keys if not (k is None or isinstance(k, _KEYS))))}")
        target.update(zip(keys, values[1::2], strict=True))

    def reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        made = called(name, self.tensors, arguments)
        if isinstance(made, bytes):
            self.copy(len(made))
        self.stack.append(made)

    def copy(self, length: int) -> None:
        self.copied += length
        if self.copied > len(self.content):
            raise refused("copies of more than the pickle holds")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Dtype):
            plain = type(state) is tuple and len(state) > 4 and isinstance(state[1], str) and state[1] in ("<", "|")
            if not plain or any(part is not None for part in state[2:5]):
                raise refused(f"a dtype in state {shown(state)}")
        elif isinstance(target, Array):
            _, shape, dtype, fortran, content = _of_length(state, 5)
            if not isinstance(dtype, Dtype) or not isinstance(content, bytes) or fortran:
                raise refused("an array that is not of plain numbers")
            if type(shape) is not tuple or len(shape) > 8 or not all(type(n) is int and 0 <= n < 1 << 62 for n in shape):
                raise refused(f"an array of shape {shown(shape)}")
            target.value = np.frombuffer(content, dtype.dtype).reshape(shape)
        elif isinstance(target, Fields) and type(state) is dict:
            self.copy(len(state))
            target.update(state)
        elif type(target) is not dict or type(state) is not dict:  # else attributes of an OrderedDict: torch's _metadata
            raise refused(f"a state for {type(target).__name__}")

    def persistent(self) -> None:
        kind, name, key, _, count, *view = _of_length(self.stack.pop(), 5, 6)
        if not isinstance(kind, str) or kind != "storage" or not isinstance(key, (str, int)) or self.tensors is None:
            raise refused("a persistent id that is no tensor's")
        if not isinstance(name, Name) or name.name not in STORAGES:
            raise refused("a storage of an unknown class")
        if type(count) is not int or not 0 <= count < 1 << 40:
            raise refused(f"a storage of {shown(count)} numbers")
        storage = self.tensors.storage(name.name, str(key), count)
        if any(view):  # torch 0.x: this storage is a part of another one
            _, first, length = _of_length(view[0], 3)
            if type(first) is not int or type(length) is not int or not 0 <= first <= first + length <= count:
                raise refused(f"numbers {shown(first)} to {shown(first)} + {shown(length)} of {count}")
            storage = storage[first : first + length]
        self.stack.append(storage)


def _of_length(value: object, *lengths: int) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) not in lengths:
        raise refused(f"a state {shown(value)}")
    return value


def _name(machine: _Machine, module: object, name: object) -> None:
    if not isinstance(module, str) or not isinstance(name, str):
        raise refused(f"the name {shown(name)}")
    found = Name(module, name)
    if found not in KNOWN:
        raise refused(f"the name {module[:50]}.{name[:50]}")
    machine.stack.append(found)


def _global(machine: _Machine) -> None:
    lines = []
    for _ in range(2):
        end = machine.content.index(b"\n", machine.at)
        lines.append(machine.take(end - machine.at).decode())
        machine.at += 1
    _name(machine, *lines)


def _stack_global(machine: _Machine) -> None:
    name, module = machine.stack.pop(), machine.stack.pop()
    _name(machine, module, name)


def _finished(value: Any) -> Any:
    return value.value if isinstance(value, Array) and value.value is not None else value


def _number(layout: str) -> Callable[[_Machine], None]:
    parsed = struct.Struct(layout)
    return lambda m: m.stack.append(m.number(parsed))


def _bytes(layout: str, decode: bool) -> Callable[[_Machine], None]:
    parsed = struct.Struct(layout)

    def action(machine: _Machine) -> None:
        content = machine.take(machine.number(parsed))
        machine.stack.append(content.decode("utf-8", "surrogatepass") if decode else content)

    return action


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda m: m.stack.append(value)


def _tuple(count: int) -> Callable[[_Machine], None]:
    def action(machine: _Machine) -> None:
        if len(machine.stack) < count:
            raise refused("a tuple of what is not there")
        machine.stack[-count:] = [tuple(map(_finished, machine.stack[-count:]))]

    return action


def _skip(length: int) -> Callable[[_Machine], Any]:
    return lambda m: m.take(length)


def _memoize(layout: str | None) -> Callable[[_Machine], None]:
    parsed = struct.Struct(layout) if layout else None

    def action(machine: _Machine) -> None:
        machine.memo[len(machine.memo) if parsed is None else machine.number(parsed)] = machine.stack[-1]

    return action


def _recall(layout: str) -> Callable[[_Machine], None]:
    parsed = struct.Struct(layout)
    return lambda m: m.stack.append(m.memo[m.number(parsed)])


_OPCODES: dict[int, Callable[[_Machine], Any]] = {
    0x80: _skip(1), 0x95: _skip(8),  # PROTO, FRAME
    0x4E: _constant(None), 0x88: _constant(True), 0x89: _constant(False),
    0x4A: _number("<i"), 0x4B: _number("<B"), 0x4D: _number("<H"), 0x47: _number(">d"),
    0x8A: lambda m: m.stack.append(int.from_bytes(m.take(m.take(1)[0]), "little", signed=True)),  # LONG1
    0x8C: _bytes("<B", True), 0x58: _bytes("<I", True), 0x8D: _bytes("<Q", True),
    0x43: _bytes("<B", False), 0x42: _bytes("<I", False), 0x8E: _bytes("<Q", False),
    0x5D: lambda m: m.stack.append([]), 0x7D: lambda m: m.stack.append({}), 0x29: _constant(()),
    0x28: _constant(_MARK),
    0x74: lambda m: m.stack.append(tuple(map(_finished, m.items()))), 0x85: _tuple(1), 0x86: _tuple(2), 0x87: _tuple(3),
    0x61: lambda m: m.append([_finished(m.stack.pop())]), 0x65: lambda m: m.append(list(map(_finished, m.items()))),
    0x73: lambda m: m.set_items([_finished(v) for v in (m.stack.pop(-2), m.stack.pop())]),
    0x75: lambda m: m.set_items(list(map(_finished, m.items()))),
    0x94: _memoize(None), 0x71: _memoize("<B"), 0x72: _memoize("<I"), 0x68: _recall("<B"), 0x6A: _recall("<I"),
    0x63: _global, 0x93: _stack_global,
    0x55: _bytes("<B", True), 0x54: _bytes("<i", True),  # text of Python 2
    0x52: _Machine.reduce, 0x81: _Machine.reduce, 0x62: _Machine.build, 0x51: _Machine.persistent,
    0x30: lambda m: m.stack.pop(),
}  # fmt: skip
