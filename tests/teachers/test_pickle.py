"""Pickles: plain data is read as torch reads it; nothing in a file is run, and damage is refused."""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.errors import StoreError
from reinforce.teachers.pickle_reader import read_pickle
from reinforce.teachers.torch_file import read_torch
from tests.conftest import Cli
from tests.peers.label_files import saved

pytestmark = pytest.mark.unit


class Evil:
    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("call", [os.system, eval, exec, open, __import__, getattr, bytearray, print])
def test_a_call_in_a_file_is_refused_and_not_made(call: Any, protocol: int, images: Path, tmp_path: Path, cli: Cli) -> None:
    witness = tmp_path / "witness"
    argument = {os.system: f"touch {witness}", eval: f"open({str(witness)!r}, 'w')", exec: f"open({str(witness)!r}, 'w')"}
    content = saved((0, Evil(call, argument.get(call, str(witness)))), pickle_protocol=protocol)
    with pytest.raises(StoreError, match="A pickle is refused"):
        read_torch(content)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "0.pth.tar").write_bytes(content)
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")
    code, _, err = cli("import", "imagenet-plus", tmp_path / "files", *options)
    assert code == 1
    assert "nothing in it was run" in err
    assert not witness.exists()
    assert not (tmp_path / "out").exists()


def test_plain_data_is_read_as_torch_reads_it() -> None:
    rng = np.random.default_rng(0)
    value = (5, [{"params": [[(1, 2), True], None, -1.5, 2**40, "text", b"bytes"], "prob": ([0.5] * 3, [1, 2, 3])}] * 3)
    for protocol in (2, 4):
        assert read_torch(saved(value, pickle_protocol=protocol)) == value
    tensors = [
        torch.rand(3, 4),
        torch.rand(6)[::2],
        torch.arange(5),
        torch.rand(2, 3).half().T,
        torch.tensor(True),
        torch.empty(0, 3),
    ]
    for tensor, found in zip(tensors, read_torch(saved(tensors)), strict=True):
        assert torch.equal(found, tensor)
        assert found.dtype == tensor.dtype
    scalars = [np.float64(0.25), np.int64(7), np.float32(1.5)]
    assert read_torch(saved(scalars)) == [0.25, 7, 1.5]
    array = rng.random((3, 2))
    assert np.array_equal(read_torch(saved({"a": array}))["a"], array)


def test_a_tensor_that_unfolds_is_refused() -> None:
    for tensor in (torch.zeros(1).expand(1 << 40), torch.zeros(2).expand(1 << 20, 2)):
        with pytest.raises(StoreError, match="past the end"):
            read_torch(saved(tensor))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_damaged_pickle_is_refused_or_is_data(data: st.DataObject) -> None:
    content = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(StoreError):
        read_pickle(bytes(content))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_no_pickle(content: bytes) -> None:
    with contextlib.suppress(StoreError):
        read_pickle(content)


with zipfile.ZipFile(io.BytesIO(saved((3, [{"a": [1.5, "b", (1, 2)], "c": np.float64(1)}]), pickle_protocol=4))) as _archive:
    SAMPLE = _archive.read(next(n for n in _archive.namelist() if n.endswith("data.pkl")))


def test_a_memo_of_gigabytes_costs_nothing() -> None:
    """The library's own unpickler would make room for two thousand million entries here."""
    assert read_pickle(b"\x80\x02K\x01r\xff\xff\xff\x7f.") == 1


def test_files_that_unfold_or_are_of_another_kind_are_refused() -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50 << 20))
    of_torch = "no file that torch.save wrote"
    for content, match in ((sink.getvalue(), "is compressed"), (b"\x80\x02}.", of_torch), (b"", of_torch), (b"PK", of_torch)):
        with pytest.raises(StoreError, match=match):
            read_torch(content)


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # the latter as Python 3.13 writes it
def test_a_path_is_read_as_its_text(module: str) -> None:
    content = b"\x80\x02c" + module.encode() + b"\nPosixPath\nX\x03\x00\x00\x00a/bK\x01\x86R."
    with pytest.raises(StoreError, match="A pickle is refused"):
        read_pickle(content)
    assert read_pickle(content.replace(b"K\x01\x86", b"\x85")) == "a/b"
