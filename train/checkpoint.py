"""Checkpoint: writes a nested state to one safetensors file and reads it again.

Tensors are stored unchanged, all other values as JSON in the same file. Nothing is pickled, so it is safe to read a checkpoint
from a stranger.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from reinforce.errors import DataError, StoreError, first_line
from reinforce.files import check_plain, write_atomic
from reinforce.teachers.safetensors_header import check_header

_STATE_KEY, _WEIGHTS_KEY = "reinforce_checkpoint", "reinforce"
_DTYPES = {str(d): d for d in (torch.float32, torch.float64, torch.float16, torch.bfloat16)}


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a state (dicts, lists, tuples, scalars, tensors), completely or not at all. Tuples are read back as lists."""
    tensors: dict[str, torch.Tensor] = {}
    tree = _split(state, "", tensors)
    write_atomic(path, save(tensors, metadata={_STATE_KEY: json.dumps(tree)}))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote.

    Raises:
        DataError: the file is not a checkpoint, or damaged.
    """
    with fitting(path):
        check_plain(path)
        check_header(path)
        with safe_open(path, framework="pt") as file:
            tree = json.loads((file.metadata() or {})[_STATE_KEY])
            # Copies, because safetensors gives tensors in a memory map of the file, and the run will replace the file.
            state: dict[str, Any] = _join(tree, {name: file.get_tensor(name).clone() for name in file.keys()})  # noqa: SIM118
            return state


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """While a checkpoint is read, and what it holds is given to the objects of a run: other content is an error for the user.

    Raises:
        DataError: the file is not a checkpoint, is damaged, or is that of another kind of run.
    """
    try:
        yield
    except (StoreError, OSError, SafetensorError, LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(
            f"{path} is no checkpoint of a training run.",
            found=str(error).splitlines()[1].strip() if isinstance(error, StoreError) else first_line(error),
            expected="a file that `reinforce train` wrote",
            fix="train again into another --out",
        ) from None


def save_weights(path: Path, weights: dict[str, torch.Tensor], description: dict[str, Any]) -> None:
    """Write a flat state dict that timm and `--teacher-weights` can read; `description` goes into the file's metadata."""
    tensors = {name: _own(tensor) for name, tensor in weights.items()}
    write_atomic(path, save(tensors, metadata={_WEIGHTS_KEY: json.dumps(description)}))


def _own(tensor: torch.Tensor) -> torch.Tensor:
    # A copy, because safetensors refuses tensors that share memory, such as tied weights.
    return tensor.detach().cpu().contiguous().clone()


def _split(value: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = f"{len(tensors)}{path}"  # two keys such as 1 and "1" have the same path: the number makes names differ
        tensors[name] = _own(value)
        return {"tensor": name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value)}
    if isinstance(value, dict):
        # A list of pairs, because keys of an optimiser's state are numbers, and JSON allows only text as keys.
        return {"dict": [[k, _split(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_split(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
    return {"value": value}


def _join(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    (kind, value), *_ = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "dict":
        return {k: _join(v, tensors) for k, v in value}
    if kind == "list":
        return [_join(v, tensors) for v in value]
    if kind == "dtype":
        return _DTYPES[value]
    if kind != "value":
        raise ValueError(f"no kind of value: {kind}")
    return value
