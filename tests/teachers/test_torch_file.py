"""Torch files: whatever torch writes of weights is read as torch reads it, in both of its formats; damage is refused."""

from __future__ import annotations

import argparse
import contextlib
import io
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reinforce.errors import StoreError, TeacherError
from reinforce.teachers.models import create, read_state_dict
from reinforce.teachers.torch_file import read_torch
from tests.conftest import REAL_DATA
from tests.peers.label_files import add, saved, torch_reads

pytestmark = pytest.mark.unit

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])


def written(value: object, zipped: bool, **options: object) -> bytes:
    return saved(value, _use_new_zipfile_serialization=zipped, **options)


@FORMATS
def test_a_models_state_and_what_stands_beside_it_are_read(zipped: bool, tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    about = argparse.Namespace(lr=0.1, opt="sgd", where=Path("a/b"), sizes=(1, 2), nothing=None)
    checkpoint = {
        "epoch": 3, "arch": "test_resnet", "state_dict": model.state_dict(), "optimizer": optimizer.state_dict(), "args": about,
        "shape": torch.Size([1, 2]), "device": torch.device("cpu"), "dtype": "x", "metric": np.float64(0.5),
    }  # fmt: skip
    (tmp_path / "model.pth.tar").write_bytes(written(checkpoint, zipped))
    found = read_torch(tmp_path / "model.pth.tar")
    for name, tensor in model.state_dict().items():
        assert torch.equal(found["state_dict"][name], tensor), name
    assert found["args"] == {"lr": 0.1, "opt": "sgd", "where": "a/b", "sizes": (1, 2), "nothing": None}
    assert (found["epoch"], found["shape"], found["device"], found["metric"]) == (3, (1, 2), "cpu", 0.5)
    momentum = found["optimizer"]["state"][0]["momentum_buffer"]
    assert torch.equal(momentum, optimizer.state_dict()["state"][0]["momentum_buffer"])
    teacher = create("test_resnet", weights=tmp_path / "model.pth.tar", size=32, kwargs={}, pretrained=False)
    assert all(torch.equal(a, b) for a, b in zip(teacher.state_dict().values(), model.state_dict().values(), strict=True))


@FORMATS
def test_every_dtype_is_read_as_torch_reads_it(zipped: bool) -> None:
    names = ["float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool", "complex64"]
    names += ["complex128"]
    names += ["uint16", "uint32", "float8_e4m3fn", "float8_e5m2"] if zipped else []
    tensors = {name: (3 * torch.rand(2, 3)).to(getattr(torch, name)) for name in names}
    found = read_torch(written(tensors, zipped))
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].view(torch.uint8).equal(tensor.view(torch.uint8))


@FORMATS
def test_views_strides_and_shared_numbers_are_read(zipped: bool) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    value = OrderedDict(
        base=base, part=base[1:3, ::2], turned=base.T, empty=base[:0], weight=nn.Parameter(base[0]), scalar=base[0, 5]
    )
    found = read_torch(written(value, zipped))
    for name, tensor in value.items():
        assert found[name].equal(tensor), name
    found["base"][1, 0] = -1
    assert found["part"][0, 0] == -1, "they share their memory, as they did"


def test_a_storage_that_is_a_part_of_another_one_is_read() -> None:
    """As torch 0.x wrote parts: key, first number and count stand behind the count of the whole."""
    whole = torch.arange(8.0)
    content = written({"part": whole[2:5].clone(), "whole": whole}, False)
    three, eight = b"K\x03N", b"K\x08N"
    assert content.count(three) == content.count(eight) == 1
    parted = content.replace(three, b"K\x03X\x01\x00\x00\x00pK\x01K\x02\x87")
    with pytest.raises(StoreError, match="past the end of its 2 numbers"):
        read_torch(parted)
    found = read_torch(parted.replace(b"K\x00K\x03\x85", b"K\x00K\x02\x85"))
    assert found["part"].tolist() == [3.0, 4.0]
    assert found["whole"].equal(whole)
    for first, count in ((2, 2), (255, 1)):
        hostile = content.replace(three, b"K\x03X\x01\x00\x00\x00pK" + bytes([first]) + b"K" + bytes([count]) + b"\x87")
        with pytest.raises(StoreError, match=f"numbers {first} to {first} \\+ {count} of 3"):
            read_torch(hostile)


def test_a_count_beside_the_numbers_that_is_not_the_datas_is_refused() -> None:
    content = written(torch.arange(3.0), False)
    at = content.index(np.arange(3, dtype="<f4").tobytes()) - 8
    assert content[at : at + 8] == (3).to_bytes(8, "little")
    for count in (0, 2, 4, -1, 1 << 62):
        with pytest.raises(StoreError, match=f"storage .* of {count} numbers, and 3 in the data"):
            read_torch(content[:at] + count.to_bytes(8, "little", signed=True) + content[at + 8 :])


@FORMATS
def test_numbers_that_torch_would_still_change_are_refused(zipped: bool) -> None:
    turned = torch.tensor([1 + 2j, 3 - 1j]).conj()
    assert torch_reads(written(turned, zipped))[0].imag == -2
    for tensor in (turned, turned.imag):
        with pytest.raises(StoreError, match="stands for others"):
            read_torch(written(tensor, zipped))
    assert read_torch(written(turned.resolve_conj(), zipped))[0].imag == -2


def test_a_tar_is_refused_by_its_name() -> None:
    with tarfile.open(fileobj=(sink := io.BytesIO()), mode="w") as tar:
        add(tar, "storages", b"\x80\x02K\x00.")
    with pytest.raises(StoreError, match=r"a tar: the format of torch before 0\.2"):
        read_torch(sink.getvalue())


LEGACY = REAL_DATA / "peers" / "relabel"


@pytest.mark.skipif(not LEGACY.is_dir(), reason="no files of the peers beside the checkout")
def test_published_files_before_1_6_hold_the_same_as_the_zips() -> None:
    paths = sorted((LEGACY / "legacy").rglob("*.pt"))
    assert len(paths) == 12
    for path in paths:
        zipped = LEGACY / "relabel_imagenet" / path.relative_to(LEGACY / "legacy")
        assert path.read_bytes()[:2] != b"PK" == zipped.read_bytes()[:2]
        found = read_torch(path)
        assert found.equal(read_torch(zipped))
        assert found.equal(torch_reads(path.read_bytes()))


def test_a_file_of_python_2_is_read() -> None:
    state = written({"weight": torch.ones(3)}, False)
    old = state.replace(b"X\x06\x00\x00\x00weight", b"U\x06weight")
    assert len(old) == len(state) - 3
    assert torch.equal(read_torch(old)["weight"], torch.ones(3))


@FORMATS
def test_one_changed_byte_of_the_numbers_is_found_where_the_file_has_a_checksum(zipped: bool) -> None:
    content = bytearray(written({"weight": torch.full((1000,), 0.5)}, zipped))
    content[content.index(np.full(9, 0.5, "<f4").tobytes()) + 17] ^= 1
    if zipped:
        with pytest.raises(StoreError, match="storage 0 is damaged"):
            read_torch(bytes(content))
    else:
        assert not torch.equal(read_torch(bytes(content))["weight"], torch.full((1000,), 0.5))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans())
def test_a_damaged_file_is_refused_or_is_data(data: st.DataObject, zipped: bool) -> None:
    content = bytearray(SAMPLES[zipped])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(StoreError):
        read_torch(bytes(content[: data.draw(st.integers(0, len(content)))]))


SAMPLES = {zipped: written({"a": torch.rand(3), "b": [torch.rand(2, 2).T, 1.5]}, zipped) for zipped in (True, False)}


def test_storages_that_are_not_there_or_too_long_are_refused() -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(SAMPLES[True])) as whole, zipfile.ZipFile(sink, "w") as part:
        for member in whole.infolist():
            if not member.filename.endswith("data/0"):
                part.writestr(member.filename, whole.read(member))
    with pytest.raises(StoreError, match="no storage 0 of 12 bytes"):
        read_torch(sink.getvalue())
    with pytest.raises(StoreError, match=r"ends in the middle|past the end"):
        read_torch(SAMPLES[False][:-1])
    big = written(torch.zeros(1).expand(1), False).replace(b"K\x01", b"J\xff\xff\xff\x7f")
    with pytest.raises(StoreError, match=r"past the end|A pickle is refused"):
        read_torch(big)


def test_what_is_refused_in_weights_is_named(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2), "hook": nn.Linear(1, 1)}, tmp_path / "w.pt")
    with pytest.raises(TeacherError, match=r"found: +the name torch.nn.modules.linear.Linear"):
        read_state_dict(tmp_path / "w.pt")
