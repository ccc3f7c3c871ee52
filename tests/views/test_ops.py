"""Ops against timm's, which are Pillow's: never more than one level apart. What does nothing changes nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment as timm_ops

from reinforce.views import ops as fast_ops
from reinforce.views import warp as fast_warp
from reinforce.views.params import Q16, Interpolation
from tests.conftest import picture
from tests.views.plain import OnPixels

pytestmark = pytest.mark.unit

ops, warp = OnPixels(fast_ops), OnPixels(fast_warp)
FILL = (124, 116, 104)
IMAGES = [np.array(picture(i, w, h)) for i, (w, h) in enumerate([(64, 64), (53, 37), (96, 80), (5, 2), (3, 3)])]
RESAMPLE = {Interpolation.BILINEAR: Image.Resampling.BILINEAR, Interpolation.BICUBIC: Image.Resampling.BICUBIC}


def furthest(ours: Any, theirs: Any) -> int:
    """Largest difference from timm's op over all images, in levels."""
    pairs = [(ours(image), np.asarray(theirs(Image.fromarray(image)))) for image in IMAGES]
    assert all(a.dtype == np.uint8 and a.shape == b.shape for a, b in pairs)
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs)


@pytest.mark.parametrize("factor", [0.1, 0.37, 0.999, 1.0, 1.21, 1.63, 1.9])
@pytest.mark.parametrize("name", ["color", "contrast", "brightness", "sharpness"])
def test_enhancing_ops_are_timms_within_one_level(name: str, factor: float) -> None:
    ours, theirs = getattr(ops, name), getattr(timm_ops, name)
    assert furthest(lambda i: ours(i, round(factor * Q16)), lambda i: theirs(i, factor)) <= 1


def test_auto_contrast_is_timms_within_one_level() -> None:
    assert furthest(ops.auto_contrast, timm_ops.auto_contrast) <= 1


@pytest.mark.parametrize("value", [1, 2, 4, 8])
def test_posterize_equals_timms(value: int) -> None:
    assert furthest(lambda i: ops.posterize(i, value), lambda i: timm_ops.posterize(i, value)) == 0


@pytest.mark.parametrize("value", [0, 1, 77, 128, 255, 256])
def test_solarizing_equals_timms(value: int) -> None:
    assert furthest(lambda i: ops.solarize(i, value), lambda i: timm_ops.solarize(i, value)) == 0
    addend = min(value, 128)
    assert furthest(lambda i: ops.solarize_add(i, addend), lambda i: timm_ops.solarize_add(i, addend)) == 0


def test_equalize_and_invert_equal_timms() -> None:
    assert furthest(ops.equalize, timm_ops.equalize) == 0
    assert furthest(ops.invert, timm_ops.invert) == 0


def test_posterize_to_no_bits_is_black_where_pillow_refuses() -> None:
    assert not ops.posterize(IMAGES[0], 0).any()


def at_the_border(position: np.ndarray, length: int) -> np.ndarray:
    """Source positions so near to an edge that rounding to 1/2^17 pixel can put them on its other side."""
    return (np.abs(position) < 1e-3) | (np.abs(position - length) < 1e-3)


@pytest.mark.parametrize("interpolation", [Interpolation.BILINEAR, Interpolation.BICUBIC])
@pytest.mark.parametrize("amount", [-0.45, -0.21, 0.003, 0.1, 0.3])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [("shear_x", "shear_x"), ("shear_y", "shear_y"), ("translate_x", "translate_x_rel"), ("translate_y", "translate_y_rel")],
)
def test_shears_and_translations_are_timms_within_one_level(
    name: str, theirs: str, amount: float, interpolation: Interpolation
) -> None:
    keywords = {"resample": RESAMPLE[interpolation], "fillcolor": FILL}
    for image in IMAGES:
        ours = getattr(warp, name)(image, interpolation, round(amount * Q16), FILL).astype(int)
        # timm gets the amount as it is stored, so that both speak of the same positions
        reference = getattr(timm_ops, theirs)(Image.fromarray(image), round(amount * Q16) / Q16, **keywords)
        assert np.abs(ours - np.asarray(reference)).max() <= 1


@pytest.mark.parametrize("interpolation", [Interpolation.BILINEAR, Interpolation.BICUBIC])
@pytest.mark.parametrize("degrees", [-30.0, -13.0, -0.4, 2.0, 21.3, 30.0])
def test_rotations_are_timms_within_one_level(degrees: float, interpolation: Interpolation) -> None:
    angle = -math.radians(degrees)
    cos, sin = math.cos(angle), math.sin(angle)
    for image in IMAGES:
        height, width = image.shape[:2]
        ours = warp.rotate(image, interpolation, round(cos * Q16), round(sin * Q16), FILL).astype(int)
        reference = timm_ops.rotate(Image.fromarray(image), degrees, resample=RESAMPLE[interpolation], fillcolor=FILL)
        x, y = np.arange(width)[None] + 0.5 - width / 2, np.arange(height)[:, None] + 0.5 - height / 2
        border = at_the_border(cos * x + sin * y + width / 2, width) | at_the_border(-sin * x + cos * y + height / 2, height)
        assert border.mean() < 0.01 or min(width, height) < 8
        assert np.abs(ours - np.asarray(reference)).max(axis=2)[~border].max(initial=0) <= 1


@pytest.mark.parametrize("interpolation", [Interpolation.BILINEAR, Interpolation.BICUBIC])
def test_parameters_that_mean_nothing_change_nothing(interpolation: Interpolation) -> None:
    for image in IMAGES:
        for name in ("shear_x", "shear_y", "translate_x", "translate_y"):
            assert np.array_equal(getattr(warp, name)(image, interpolation, 0, FILL), image)
        assert np.array_equal(warp.rotate(image, interpolation, Q16, 0, FILL), image)
        for name in ("color", "contrast", "brightness", "sharpness"):
            assert np.array_equal(getattr(ops, name)(image, Q16), image)
        assert np.array_equal(ops.posterize(image, 8), image)
        assert np.array_equal(ops.solarize(image, 256), image)
        assert np.array_equal(ops.solarize_add(image, 0), image)


def test_uncovered_pixels_take_the_fill() -> None:
    moved = warp.translate_x(IMAGES[0], Interpolation.BILINEAR, Q16 // 4, FILL)
    assert (moved[:, 48:] == FILL).all()
    assert np.array_equal(moved[:, :48], IMAGES[0][:, 16:])


def test_weights_of_an_axis_sum_to_one() -> None:
    for table in fast_warp._TABLES.values():
        assert (table.sum(axis=0) == 2048).all()
        assert table[:, 0].max() == 2048
