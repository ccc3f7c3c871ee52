"""Checkpoints: any nested state comes back as it was, or the old file stays."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reinforce.errors import DataError
from reinforce.train.checkpoint import load_checkpoint, save_checkpoint, save_weights

pytestmark = pytest.mark.unit


def same(a: Any, b: Any) -> bool:
    """Equal in structure, types and bits."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def round_trip(path: Path, state: dict[Any, Any]) -> dict[str, Any]:
    save_checkpoint(path / "a.safetensors", state)
    return load_checkpoint(path / "a.safetensors")


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"a": {}, "b": [], "c": [{}, [[]]]},
        {"none": None, "yes": True, "no": False, "int": -3, "big": 2**80, "float": 0.1, "text": "ä\n\0/"},
        {"tiny": 5e-324, "zero": -0.0, "inf": math.inf},
        {0: "a", 1: {2: [None, 3]}, "1": "text key beside a number"},
        {"value": 1, "tensor": "x", "dict": {"list": []}},
        {"lines": [{"epoch": 0, "loss": 0.25}, {"epoch": 1, "loss": 1e-9}]},
        {"tuple": (1, (2.5, None))},
    ],
)
def test_plain_values_come_back(tmp_path: Path, state: Any) -> None:
    loaded = round_trip(tmp_path, state)
    assert same(state, loaded)
    assert math.copysign(1, loaded.get("zero", -0.0)) == -1


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]
)
def test_tensors_of_every_kind_come_back(tmp_path: Path, dtype: Any) -> None:
    values = torch.arange(24).remainder(7).reshape(2, 3, 4).to(dtype)
    state = {
        "whole": values,
        "scalar": values[0, 0, 3],
        "empty": values[:0],
        "transposed": values.permute(2, 0, 1),
        "part": values[:, 1:, ::2],
        "nested": [{"deep": {7: values + values}}],
    }
    assert same(state, round_trip(tmp_path, state))


def test_channels_last_and_gradients_do_not_matter(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    state = {"a": weight, "b": torch.nn.Parameter(weight)}
    loaded = round_trip(tmp_path, state)
    assert torch.equal(loaded["a"], weight)
    assert torch.equal(loaded["b"], weight)
    assert not loaded["b"].requires_grad


def test_tensors_that_share_memory_are_stored_apart(tmp_path: Path) -> None:
    weight = torch.randn(3, 3)
    state = {"a": weight, "b": weight, "row": weight[1], "list": [weight, weight.T]}
    loaded = round_trip(tmp_path, state)
    assert same(state, loaded)
    loaded["a"].zero_()
    assert torch.equal(loaded["b"], weight)
    save_weights(tmp_path / "w.safetensors", {"a": weight, "b": weight}, {})
    assert same(load_file(tmp_path / "w.safetensors"), {"a": weight, "b": weight})


def test_keys_that_look_alike_are_kept_apart(tmp_path: Path) -> None:
    one, two, three = torch.tensor(1), torch.tensor(2), torch.tensor(3)
    assert same(round_trip(tmp_path, {1: one, "1": two}), {1: one, "1": two})
    state = {"a/b": one, "a": {"b": two}, "": {"a": [three]}}
    assert same(round_trip(tmp_path, state), state)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
        lambda p: torch.optim.AdamW([{"params": p[:1], "lr": 0.1}, {"params": p[1:]}], lr=0.01, amsgrad=True),
    ],
)
def test_an_optimizer_continues_to_the_bit(tmp_path: Path, make: Any) -> None:
    def parameters() -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [torch.randn(5, generator=generator).requires_grad_() for _ in range(3)]

    def step(optimizer: torch.optim.Optimizer, values: list[torch.Tensor], number: int) -> None:
        for i, value in enumerate(values):
            value.grad = torch.sin(value.detach() * (number + i + 1))
        optimizer.step()

    undisturbed = parameters()
    reference = make(undisturbed)
    for number in range(4):
        step(reference, undisturbed, number)

    first = parameters()
    optimizer = make(first)
    for number in range(2):
        step(optimizer, first, number)
    state = optimizer.state_dict()
    loaded = round_trip(tmp_path, {"optimizer": state, "values": first})
    assert same(state, loaded["optimizer"])
    second = [v.clone().requires_grad_() for v in loaded["values"]]
    continued = make(second)
    continued.load_state_dict(loaded["optimizer"])
    for number in range(2, 4):
        step(continued, second, number)
    assert all(map(torch.equal, undisturbed, second))


def test_the_state_of_a_generator_continues_to_the_bit(tmp_path: Path) -> None:
    torch.manual_seed(3)
    torch.rand(5)
    loaded = round_trip(tmp_path, {"rng": torch.get_rng_state()})
    expected = torch.randn(7)
    torch.set_rng_state(loaded["rng"])
    assert torch.equal(torch.randn(7), expected)


def test_a_loaded_state_does_not_depend_on_the_file_any_more(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, {"weight": torch.arange(1, 5001)})
    loaded = load_checkpoint(path)
    with open(path, "r+b") as file:  # in place: another checkpoint copied over this one
        file.write(bytes(path.stat().st_size))
    assert torch.equal(loaded["weight"], torch.arange(1, 5001))


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, {"x": torch.arange(5), "y": [1, None, {"z": torch.ones(2)}]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def written(path: Path) -> Path:
    save_checkpoint(path, {"model": {"weight": torch.arange(1000)}, "step": 3})
    return path


def test_a_file_that_is_not_there_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no checkpoint of a training run") as error:
        load_checkpoint(tmp_path / "nothing.safetensors")
    assert "FileNotFoundError" in str(error.value)
    assert "a file that `reinforce train` wrote" in str(error.value)
    with pytest.raises(DataError, match="is no checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("length", [0, 1, 8, 20, 200, -1, -4000])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, length: int) -> None:
    path = written(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match="is no checkpoint"):
        load_checkpoint(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_text("lr = 0.1")
    with pytest.raises(DataError, match="is no checkpoint"):
        load_checkpoint(path)
    torch.save({"step": 3}, path)
    with pytest.raises(DataError, match="is no checkpoint"):
        load_checkpoint(path)
    save_file({"weight": torch.ones(3)}, path)  # weights from elsewhere
    with pytest.raises(DataError, match="is no checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("about", [{"student": "test_vit", "epoch": 3}, {"value": 1}, {"tensor": "weight"}, {"list": []}])
def test_weights_for_inference_are_no_checkpoint(tmp_path: Path, about: Any) -> None:
    save_weights(tmp_path / "best.safetensors", {"weight": torch.ones(3)}, about)
    with pytest.raises(DataError, match="is no checkpoint"):
        load_checkpoint(tmp_path / "best.safetensors")


@pytest.mark.parametrize(
    "tree",
    ["", "{", "3", "null", "[]", "{}", '{"dict": 3}', '{"dict": [[1]]}', '{"dict": [["a", {"tensor": "gone"}]]}', '{"a": {}}'],
)
def test_a_checkpoint_with_a_damaged_tree_is_refused(tmp_path: Path, tree: str) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"weight": torch.ones(3)}, path, metadata={"reinforce": tree})
    with pytest.raises(DataError, match="is no checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = written(tmp_path / "a.safetensors")
    before = path.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"step": 4})
    with pytest.raises(OSError, match="No space left"):
        save_weights(path, {"a": torch.ones(2)}, {})
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert load_checkpoint(path)["step"] == 3


def test_what_cannot_be_stored_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    with pytest.raises(TypeError):
        save_checkpoint(path, {"step": object()})
    assert load_checkpoint(path)["step"] == 3


def test_a_leftover_of_a_killed_write_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    (tmp_path / ".a.safetensors.partial").write_bytes(b"half")
    written(path)
    assert load_checkpoint(path)["step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
