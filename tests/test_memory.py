"""Memory: what the C library answers is heeded; a refusal leaves no half of the settings, and nothing crashes."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from reinforce.errors import OutOfMemoryError
from reinforce.memory import out_of_memory, set_thresholds
from reinforce.views.decode import decode

pytestmark = pytest.mark.unit

MMAP, TRIM = -3, -1


class Library:
    """A C library that takes some options up to some value, as glibc's of several years do."""

    def __init__(self, **limits: int) -> None:
        self.limits = {MMAP: limits.get("mmap", 0), TRIM: limits.get("trim", 0)}
        self.set: dict[int, int] = {}

    def mallopt(self, option: int, value: int) -> int:
        if value > self.limits[option]:
            return 0
        self.set[option] = value
        return 1


@pytest.mark.parametrize(
    ("limits", "kept", "settings"),
    [
        ({"mmap": 1 << 40, "trim": 1}, 1 << 30, {MMAP: 1 << 30, TRIM: -1}),
        ({"mmap": 1 << 25, "trim": 1}, 1 << 25, {MMAP: 1 << 25, TRIM: -1}),  # an older glibc
        ({"mmap": 1 << 40, "trim": -2}, 0, {MMAP: 1 << 30}),
        ({"mmap": 0, "trim": 1}, 0, {}),  # the trim threshold alone would make larger blocks slower than before
    ],
)
def test_a_threshold_that_is_refused_is_noticed(limits: Any, kept: Any, settings: Any) -> None:
    library = Library(**limits)
    assert set_thresholds(library.mallopt, 1 << 30) == kept
    assert library.set == settings


@pytest.mark.process
def test_this_machines_library_answers_and_a_library_without_mallopt_is_left_alone() -> None:
    # In a process of its own: it holds for all of it.
    code = "import ctypes; from reinforce.memory import keep_freed_memory as keep; found = keep(1 << 24);"
    code += "assert found == (1 << 24 if hasattr(ctypes.CDLL(None), 'mallopt') else 0);"
    code += "ctypes.CDLL = lambda name: object(); assert keep() == 0"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_lack_of_memory_is_told_with_its_size() -> None:
    with pytest.raises(MemoryError) as of_numpy:
        np.ones(1 << 52, np.uint8)
    assert "Unable to allocate 4.00 PiB" in str(out_of_memory(of_numpy.value))
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(1 << 52, dtype=torch.uint8)
    assert str(1 << 52) in str(out_of_memory(of_torch.value))
    assert "in test_a_lack_of_memory_is_told_with_its_size of test_memory.py" in str(out_of_memory(of_torch.value))
    assert out_of_memory(RuntimeError("another")) is None


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_without_room_for_it_is_not_a_corrupt_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError

    sink = io.BytesIO()
    Image.new("RGB", (1000, 500)).save(sink, kind)
    monkeypatch.setattr("reinforce.views.decode.simplejpeg.decode_jpeg", full)
    monkeypatch.setattr("reinforce.views.decode._to_rgb", full)
    with pytest.raises(OutOfMemoryError, match="an image of 1000x500 pixels needs 2 MB"):
        decode(sink.getvalue())
