"""Pickle reader: reads the plain data that a pickle of someone else's holds, without unpickling it.

The opcodes of numbers, text, containers and a handful of numpy's and torch's constructors are interpreted here; a name in the
file is looked up in a table of ours and never imported, so nothing in the file can run. Everything else is refused by its name.
Sources: pickletools in Python's library (opcodes), torch/serialization.py (persistent ids).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from reinforce.errors import StoreError

MAX_OPCODES = 20_000_000
_TORCH_DTYPES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1",
}  # fmt: skip
_NUMPY_KINDS = "fiub"
Storage = Callable[[str, int], bytes]
"""Name of a storage and its length in bytes, to its content."""


class Name(NamedTuple):
    """A name that the file mentions."""

    module: str
    name: str


class _Dtype:
    def __init__(self, text: object) -> None:
        self.dtype = np.dtype(text) if isinstance(text, str) and len(text) <= 3 else np.dtype(object)
        if self.dtype.kind not in _NUMPY_KINDS:
            raise refused(f"a dtype {text!r}")


class _Array:
    """An array of numpy's, between its creation and its state."""

    value: np.ndarray | None = None


_MARK = object()


def read_pickle(content: bytes, storage: Storage | None = None) -> Any:
    """The data of a pickle: numbers, text, bytes, lists, tuples, dicts, and numpy arrays for arrays and tensors.

    Args:
        content: The pickle, protocol 2 to 5.
        storage: Gives the bytes of tensors; default: there are none.

    Raises:
        StoreError: damaged, or it holds anything else.
    """
    try:
        return _Machine(content, storage).run()
    except StoreError:
        raise
    except (IndexError, KeyError, ValueError, TypeError, struct.error, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise refused(f"{type(error).__name__}: {error}") from None


class _Machine:
    def __init__(self, content: bytes, storage: Storage | None) -> None:
        self.content, self.at, self.storage = content, 0, storage
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

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
        """What stands above the last mark."""
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
        target.update(zip(values[::2], values[1::2], strict=True))

    def reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, Name) or name not in _CALLS or type(arguments) is not tuple:
            shown = f"{name.module}.{name.name}" if isinstance(name, Name) else type(name).__name__
            raise refused(f"a call of {shown}")
        self.stack.append(_CALLS[name](self, *arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype):
            if not isinstance(state, tuple) or state[1] not in ("<", "|") or any(part is not None for part in state[2:5]):
                raise refused(f"a dtype in state {state!r}"[:80])
        elif isinstance(target, _Array):
            _, shape, dtype, fortran, content = state
            if not isinstance(dtype, _Dtype) or not isinstance(content, bytes) or fortran:
                raise refused("an array that is not of plain numbers")
            target.value = np.frombuffer(content, dtype.dtype).reshape(shape)
        else:
            raise refused(f"a state for {type(target).__name__}")

    def persistent(self) -> None:
        kind, name, key, _, count = self.stack.pop()
        if kind != "storage" or not isinstance(name, Name) or name.module != "torch" or self.storage is None:
            raise refused("a persistent id that is no tensor's")
        dtype = np.dtype(_TORCH_DTYPES[name.name])
        if type(count) is not int or not 0 <= count < 1 << 40:
            raise refused(f"a storage of {count} numbers")
        self.stack.append(np.frombuffer(self.storage(str(key), count * dtype.itemsize), dtype))


def _tensor(
    machine: _Machine, storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: object
) -> np.ndarray:
    if not isinstance(storage, np.ndarray) or not all(type(n) is int and n >= 0 for n in (offset, *size, *stride)):
        raise refused("a tensor of something else")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else offset
    if len(size) > 8 or last >= max(len(storage), 1) or math.prod(size) > len(storage):
        raise refused(f"a tensor {list(size)} past the end of its {len(storage)} numbers")
    steps = tuple(s * storage.itemsize for s in stride)
    return np.array(np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False), order="C")


def _scalar(machine: _Machine, dtype: _Dtype, content: bytes) -> int | float | bool:
    value: int | float | bool = np.frombuffer(content, dtype.dtype, 1)[0].item()
    return value


def _encode(machine: _Machine, text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise refused(f"an encoding {encoding!r}")
    return text.encode("latin1")


def _array(machine: _Machine, kind: Name, shape: object, code: object) -> _Array:
    if kind != Name("numpy", "ndarray"):
        raise refused(f"an array {kind}")
    return _Array()


_CALLS: dict[Name, Callable[..., Any]] = {
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("collections", "OrderedDict"): lambda machine: {},
    Name("_codecs", "encode"): _encode,
    Name("numpy", "dtype"): lambda machine, text, *rest: _Dtype(text),
}
for _package in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _CALLS[Name(_package, "scalar")] = _scalar
    _CALLS[Name(_package, "_reconstruct")] = _array
_KNOWN = {*_CALLS, Name("numpy", "ndarray"), *(Name("torch", n) for n in _TORCH_DTYPES)}


def _name(machine: _Machine, module: object, name: object) -> None:
    found = Name(str(module), str(name))
    if found not in _KNOWN:
        raise refused(f"the name {found.module}.{found.name}"[:100])
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
    return value.value if isinstance(value, _Array) and value.value is not None else value


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
    0x52: _Machine.reduce, 0x62: _Machine.build, 0x51: _Machine.persistent,
    0x30: lambda m: m.stack.pop(),
}  # fmt: skip


def refused(found: str) -> StoreError:
    """The error for a pickle with more in it than data."""
    return StoreError(
        "A pickle is refused.",
        found=found,
        expected="numbers, text, lists, tuples, dicts, numpy scalars and arrays, tensors",
        cause="another kind of file, a damaged one, or one that was made to do harm",
        fix="nothing in it was run; get the files from their authors again",
    )
