"""Apply: the pixel contract, held by golden checksums."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reinforce.errors import StoreError
from reinforce.views import apply as apply_module
from reinforce.views import kernels, ops, warp
from reinforce.views.apply import apply
from reinforce.views.operations import OPERATIONS
from reinforce.views.params import OP_SLOT_BASE, Field, Op, PixelSpec

pytestmark = pytest.mark.unit

GOLDEN = Path(__file__).parents[1] / "golden" / "views.json"
SLOTS = tuple(range(OP_SLOT_BASE, OP_SLOT_BASE + 8))
SPEC = PixelSpec(48, (1, 2, 3, 4, int(Field.INTERPOLATION), int(Field.HFLIP), *SLOTS))
ARGUMENTS = {
    Op.ROTATE: (60547, -25080),
    Op.POSTERIZE: (3, 0),
    Op.SOLARIZE: (100, 0),
    Op.SOLARIZE_ADD: (77, 0),
    **dict.fromkeys((Op.COLOR, Op.CONTRAST, Op.BRIGHTNESS, Op.SHARPNESS), (84000, 0)),
    **dict.fromkeys((Op.SHEAR_X, Op.SHEAR_Y), (-13000, 0)),
    **dict.fromkeys((Op.TRANSLATE_X, Op.TRANSLATE_Y), (20000, 0)),
    Op.GAUSSIAN_BLUR: (88000, 0),
}


def golden_image(height: int = 90, width: int = 120) -> np.ndarray:
    """A picture from whole numbers alone, so that it is the same everywhere."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([(x * x // 7 + 3 * y) % 256, (x * y // 5 + 11 * x) % 256, (255 - y * y // 9 + x // 2) % 256], axis=-1)
    image[20:50, 30:80] = [250, 16, 90]
    return image.astype(np.uint8)


def golden_cases() -> dict[str, list[int]]:
    cases = {}
    for op in Op:
        for interpolation in (1, 2):
            a, b = ARGUMENTS.get(op, (0, 0))
            row = [7, 11, 70, 93, interpolation, interpolation - 1, int(op), interpolation, a, b, 0, 0, 0, 0]
            cases[f"{op.name.lower()}-{interpolation}"] = row
    for each in OPERATIONS.values():
        if each.geometric:
            cases[f"{each.name.lower()}-3"] = [7, 11, 70, 93, 1, 0, each.id, 3, *ARGUMENTS[Op(each.id)], 0, 0, 0, 0]
    cases["two ops"] = [0, 0, 90, 120, 2, 0, int(Op.SHEAR_X), 2, 9000, 0, int(Op.EQUALIZE), 0, 0, 0]
    return cases


def crc(row: list[int], image: np.ndarray | None = None) -> int:
    view = apply(golden_image() if image is None else image, np.array(row, np.int32), SPEC)
    assert view.shape == (3, 48, 48)
    assert view.dtype == torch.uint8
    assert view.is_contiguous()
    return zlib.crc32(view.numpy().tobytes())


def test_views_have_their_golden_bytes() -> None:
    found = {name: f"{crc(row):08x}" for name, row in golden_cases().items()}
    if os.environ.get("REINFORCE_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    # A difference here means that no stored data set replays any more: give the changed op a new id instead.
    assert found == json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_memory_layout_do_not_matter(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        golden = json.loads(GOLDEN.read_text())
        wide = np.zeros((90, 240, 3), np.uint8)
        wide[:, ::2] = golden_image()
        for image in (golden_image(), np.asfortranarray(golden_image()), wide[:, ::2]):
            for name, row in golden_cases().items():
                assert f"{crc(row, image):08x}" == golden[name]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("module", "name", "value", "case"),
    [
        (ops, "_LEVELS", np.minimum(np.arange(256) + 1, 255), "brightness-1"),
        (warp, "_WEIGHT_BITS", 12, "rotate-2"),
        (warp, "_HALF_STEP", 1 << 12, "shear_x-1"),
        (apply_module, "_RESIZE_MODES", {1: "bicubic", 2: "bilinear"}, "none-1"),
    ],
)
def test_a_changed_constant_changes_golden_bytes(
    module: Any, name: str, value: Any, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(kernels, "compiled", None)  # whose constants are their own
    assert f"{crc(golden_cases()[case]):08x}" != json.loads(GOLDEN.read_text())[case]


def test_the_window_and_the_flip_are_cut_and_mirrored() -> None:
    fields = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    spec = PixelSpec(30, fields)
    whole = apply(golden_image(), np.array([0, 0, 90, 120, 90, 120, 20, 41, 1, 0], np.int32), spec)
    assert np.array_equal(whole.permute(1, 2, 0).numpy(), golden_image()[20:50, 41:71])
    mirrored = apply(golden_image(), np.array([0, 0, 90, 120, 90, 120, 20, 41, 1, 1], np.int32), spec)
    assert torch.equal(mirrored, whole.flip(2))


@pytest.mark.parametrize(
    ("column", "value"), [(0, -1), (0, 30), (1, 40), (2, 0), (2, 91), (3, -5), (4, 0), (4, 3), (2, 2**31 - 1)]
)
def test_params_outside_of_the_image_are_refused(column: int, value: Any) -> None:
    row = golden_cases()["none-1"]
    row[column] = value
    with pytest.raises(StoreError, match="a view that this image cannot give") as error:
        crc(row)
    assert "for an image of 120x90" in str(error.value)


def test_an_unknown_op_is_refused() -> None:
    row = golden_cases()["none-1"]
    row[6] = 99
    with pytest.raises(StoreError, match="op 99, which this version does not know"):
        crc(row)


@pytest.mark.parametrize("fields", [(1, 2, 3), (1, 2, 3, 4, 11), (1, 2, 3, 4, 32, 33), (1, 2, 3, 4, 4), (1, 2, 3, 4, 9999)])
def test_an_unknown_layout_is_refused(fields: Any) -> None:
    with pytest.raises(StoreError, match="params layout is not one this version can read"):
        PixelSpec(32, fields)
