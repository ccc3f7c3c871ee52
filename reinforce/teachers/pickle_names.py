"""Pickle names: the few names that a pickle may mention, and what we make of each; none is imported.

What a name makes here is data: a dict for an OrderedDict or a Namespace, text for a path or a device. Sources: torch/_utils.py,
torch/serialization.py, numpy's and Python's own pickles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from reinforce.errors import StoreError, shown

_NUMPY_KINDS = "fiub"
_MOST_DIMENSIONS = 8
_MOST_PARTS, _LONGEST_PATH = 64, 4096


class Name(NamedTuple):
    """A name that the file mentions."""

    module: str
    name: str


class Tensors(Protocol):
    """Makes tensors of what is outside of the pickle."""

    def storage(self, kind: str, key: str, count: int) -> Any:
        """The numbers of one storage, a sequence of length `count`.

        Args:
            kind: Its class, such as FloatStorage.
            key: Where it is.
            count: How many.
        """

    def tensor(self, storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], dtype: str | None) -> Any:
        """A tensor that lies within a storage; `dtype`: where the storage is of plain bytes."""


class Dtype:
    """A dtype of numpy's, of plain numbers."""

    def __init__(self, text: object) -> None:
        self.dtype = np.dtype(text) if isinstance(text, str) and len(text) <= 3 else np.dtype(object)
        if self.dtype.kind not in _NUMPY_KINDS or self.dtype.itemsize > 8:  # a long double is another number elsewhere
            raise refused(f"a dtype {shown(text)}")


class Array:
    """An array of numpy's, between its creation and its state."""

    value: np.ndarray | None = None


class Fields(dict[str, Any]):
    """An object's attributes, where these are all of it."""


def refused(found: str) -> StoreError:
    """The error for a pickle with more in it than data."""
    return StoreError(
        "A pickle is refused.",
        found=found,
        expected="numbers, text, lists, tuples, dicts, numpy scalars and arrays, tensors",
        cause="another kind of file, a damaged one, or one that was made to do harm",
        fix="nothing in it was run; get the files from their authors again",
    )


def _tensor(
    tensors: Tensors | None,
    storage: Any,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    gradient: object = None,
    hooks: object = None,
    bits: object = None,
) -> Any:
    _without_bits(bits)
    return _checked_tensor(tensors, storage, offset, size, stride, None)


def _without_bits(bits: object) -> None:
    if bits:  # numbers that torch would still conjugate or negate
        raise refused(f"a tensor that stands for others: {shown(bits)}")


def _tensor_of_bytes(
    tensors: Tensors | None,
    storage: Any,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    gradient: object,
    hooks: object,
    dtype: object,
    bits: object = None,
) -> Any:
    _without_bits(bits)
    if not isinstance(dtype, Name) or dtype.module != "torch":
        raise refused(f"a tensor of {shown(dtype)}")
    return _checked_tensor(tensors, storage, offset, size, stride, dtype.name)


def _checked_tensor(
    tensors: Tensors | None, storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], dtype: str | None
) -> Any:
    if tensors is None or not hasattr(storage, "__len__") or isinstance(storage, (str, bytes, list, tuple, dict)):
        raise refused("a tensor of something else")
    whole = all(type(part) is tuple and len(part) <= _MOST_DIMENSIONS for part in (size, stride)) and len(size) == len(stride)
    if not whole or not all(type(n) is int and 0 <= n < 1 << 62 for n in (offset, *size, *stride)):
        raise refused("a tensor of something else")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) if all(size) else offset
    if last >= max(len(storage), 1) or math.prod(size) > len(storage):
        raise refused(f"a tensor {list(size)} past the end of its {len(storage)} numbers")
    return tensors.tensor(storage, offset, size, stride, dtype)


def _scalar(tensors: Tensors | None, dtype: Dtype, content: bytes) -> int | float | bool:
    value: int | float | bool = np.frombuffer(content, dtype.dtype, 1)[0].item()
    return value


def _encode(tensors: Tensors | None, text: str, encoding: str = "latin1") -> bytes:
    if not isinstance(text, str) or not isinstance(encoding, str) or encoding not in ("latin1", "latin-1"):
        raise refused(f"an encoding {shown(encoding)} of {shown(text)}")
    return text.encode("latin1")


def _array(tensors: Tensors | None, kind: Name, shape: object, code: object) -> Array:
    if not isinstance(kind, Name) or kind != Name("numpy", "ndarray"):
        raise refused(f"an array {shown(kind)}")
    return Array()


def _path(tensors: Tensors | None, *parts: str) -> str:
    if not all(isinstance(part, str) for part in parts) or sum(map(len, parts)) > _LONGEST_PATH:
        raise refused(f"a path {shown(parts)}")
    return "/".join(parts)


def _size(tensors: Tensors | None, sizes: object) -> tuple[int, ...]:
    if not isinstance(sizes, (list, tuple)) or len(sizes) > _MOST_PARTS or not all(type(n) is int for n in sizes):
        raise refused(f"a size {shown(sizes)}")
    return tuple(sizes)


def _device(tensors: Tensors | None, kind: object, index: object = None) -> str:
    if not isinstance(kind, str) or len(kind) > _MOST_PARTS or not (index is None or type(index) is int):
        raise refused(f"a device {shown(kind)}")
    return kind if index is None else f"{kind}:{index}"


def called(name: object, tensors: Tensors | None, arguments: object) -> Any:
    """What a call of a name makes of its arguments.

    Raises:
        StoreError: the name or what it is called with is refused.
    """
    if not isinstance(name, Name) or name not in CALLS or type(arguments) is not tuple or len(arguments) > _MOST_PARTS:
        of = f"{name.module}.{name.name}" if isinstance(name, Name) else type(name).__name__
        raise refused(f"a call of {of}")
    return CALLS[name](tensors, *arguments)


CALLS: dict[Name, Callable[..., Any]] = {
    Name("torch._utils", "_rebuild_tensor"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Name("torch._utils", "_rebuild_tensor_v3"): _tensor_of_bytes,
    Name("torch._utils", "_rebuild_parameter"): lambda tensors, data, *rest: data,
    Name("torch._utils", "_rebuild_parameter_with_state"): lambda tensors, data, *rest: data,
    Name("torch", "Size"): _size,
    Name("torch", "device"): _device,
    Name("collections", "OrderedDict"): lambda tensors: {},
    Name("argparse", "Namespace"): lambda tensors: Fields(),
    Name("pathlib", "PosixPath"): _path,
    Name("pathlib", "WindowsPath"): _path,
    Name("pathlib._local", "PosixPath"): _path,  # the same classes as Python 3.13 names them
    Name("pathlib._local", "WindowsPath"): _path,
    Name("_codecs", "encode"): _encode,
    Name("numpy", "dtype"): lambda tensors, text, *rest: Dtype(text),
}
"""What a call of a name makes: of the tensors' maker, and of its arguments."""
for _package in ("numpy.core.multiarray", "numpy._core.multiarray"):
    CALLS[Name(_package, "scalar")] = _scalar
    CALLS[Name(_package, "_reconstruct")] = _array

DTYPES = (
    "float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool",
    "uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "complex64", "complex128",
)  # fmt: skip
STORAGES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128", "UntypedStorage": "uint8",
}  # fmt: skip
"""Dtype of each class of storages."""
KNOWN = {
    *CALLS,
    Name("numpy", "ndarray"),
    Name("torch.storage", "UntypedStorage"),
    *(Name("torch", name) for name in (*STORAGES, *DTYPES)),
}
