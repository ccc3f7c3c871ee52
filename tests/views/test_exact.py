"""The fast ops equal the plain ones bit for bit: any image, any size, any parameter that a policy draws or damage can make."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reinforce.views import kernels
from reinforce.views import ops as fast_ops
from reinforce.views import warp as fast_warp
from reinforce.views.mix import Mixing, mix
from reinforce.views.params import MAX_BLUR, Q16, Interpolation
from tests.views import plain
from tests.views.plain import OnPixels

pytestmark = pytest.mark.unit

ops, warp = OnPixels(fast_ops), OnPixels(fast_warp)
FILL = (124, 16, 204)
BUILT = kernels.compiled is not None
KINDS = [Interpolation.NEAREST, Interpolation.BILINEAR, Interpolation.BICUBIC]
sizes = st.integers(1, 40)
seeds = st.integers(0, 1000)
limits = [each * sign for each in (126 * Q16 + Q16 // 2 - 1, 126 * Q16 + Q16 // 2, 127 * Q16, 1 << 23) for sign in (1, -1)]
factors = st.integers(-2 * Q16, 2 * Q16) | st.integers(-(1 << 23), 1 << 23) | st.sampled_from(limits)


@pytest.fixture(scope="module", params=["numpy", "compiled"], autouse=True)
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds for the numpy code and for the kernels."""
    before = kernels.compiled
    if request.param == "compiled" and before is None:
        pytest.skip("nothing was compiled here")
    kernels.compiled = before if request.param == "compiled" else None
    yield
    kernels.compiled = before


def an_image(seed: int, height: int, width: int) -> np.ndarray:
    """Noise, a step or a constant: extremes, which overflow first, are common."""
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        return rng.integers(0, 256, (height, width, 3), np.uint8)
    if seed % 3 == 1:
        return rng.choice(np.array([0, 255], np.uint8), (height, width, 3))
    return np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)


@settings(max_examples=80)
@given(seed=seeds, height=sizes, width=sizes, value=st.integers(-10, 300))
@pytest.mark.parametrize("name", ["invert", "auto_contrast", "equalize", "posterize", "solarize", "solarize_add"])
def test_point_ops(name: str, seed: int, height: int, width: int, value: int) -> None:
    image = an_image(seed, height, width)
    arguments = (value,) if name in ("posterize", "solarize", "solarize_add") else ()
    assert np.array_equal(getattr(ops, name)(image, *arguments), getattr(plain, name)(image, *arguments))


@settings(max_examples=120)
@given(seed=seeds, height=sizes, width=sizes, factor=factors)
@pytest.mark.parametrize("name", ["brightness", "contrast", "color", "sharpness"])
def test_blending_ops(name: str, seed: int, height: int, width: int, factor: int) -> None:
    image = an_image(seed, height, width)
    assert np.array_equal(getattr(ops, name)(image, factor), getattr(plain, name)(image, factor))


@settings(max_examples=60, deadline=None)
@given(seed=seeds, height=sizes, width=sizes, radius=st.integers(0, MAX_BLUR))
@example(seed=1, height=40, width=40, radius=MAX_BLUR)
def test_blur(seed: int, height: int, width: int, radius: int) -> None:
    image = an_image(seed, height, width)
    assert np.array_equal(ops.gaussian_blur(image, radius), plain.gaussian_blur(image, radius))


@settings(max_examples=150)
@given(seed=seeds, height=sizes, width=sizes, amount=st.integers(-(2**31), 2**31 - 1) | st.integers(-Q16, Q16))
@pytest.mark.parametrize("interpolation", KINDS)
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x", "translate_y"])
def test_shears_and_translations(
    name: str, interpolation: Interpolation, seed: int, height: int, width: int, amount: int
) -> None:
    image = an_image(seed, height, width)
    fast, slow = (getattr(module, name)(image, interpolation, amount, FILL) for module in (warp, plain))
    assert np.array_equal(fast, slow)


@settings(max_examples=150)
@given(seed=seeds, height=sizes, width=sizes, angle=st.floats(-math.pi, math.pi))
@pytest.mark.parametrize("interpolation", KINDS)
def test_rotations(interpolation: Interpolation, seed: int, height: int, width: int, angle: float) -> None:
    image = an_image(seed, height, width)
    cos, sin = round(Q16 * math.cos(angle)), round(Q16 * math.sin(angle))
    assert np.array_equal(warp.rotate(image, interpolation, cos, sin, FILL), plain.rotate(image, interpolation, cos, sin, FILL))


@settings(max_examples=60)
@given(seed=seeds, height=sizes, width=sizes, cos=st.integers(-(2**31), 2**31 - 1), sin=st.integers(-(2**31), 2**31 - 1))
@pytest.mark.parametrize("interpolation", KINDS)
def test_rotations_of_damaged_params(
    interpolation: Interpolation, seed: int, height: int, width: int, cos: int, sin: int
) -> None:
    image = an_image(seed, height, width)
    assert np.array_equal(warp.rotate(image, interpolation, cos, sin, FILL), plain.rotate(image, interpolation, cos, sin, FILL))


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", KINDS)
@pytest.mark.parametrize("size", [224, 1000])
def test_views_of_real_sizes(interpolation: Interpolation, size: int) -> None:
    for seed in range(3):
        image = an_image(seed, size, size)
        cos, sin = round(Q16 * math.cos(0.4)), round(Q16 * math.sin(0.4))
        assert np.array_equal(
            warp.rotate(image, interpolation, cos, sin, FILL), plain.rotate(image, interpolation, cos, sin, FILL)
        )
        assert np.array_equal(warp.shear_y(image, interpolation, 17000, FILL), plain.shear_y(image, interpolation, 17000, FILL))


@settings(max_examples=60)
@given(seed=seeds, size=sizes, lam=st.integers(0, 254))
def test_mixtures(seed: int, size: int, lam: int) -> None:
    images = np.stack([an_image(seed + i, size, size).transpose(2, 0, 1) for i in range(2)])
    mixing = Mixing(np.array([1, 0]), np.array([lam, 255 - lam]), np.zeros((2, 4), np.int64))
    wide = images.astype(np.int64)
    wanted = [(wide[i] * mixing.lam[i] + wide[1 - i] * (255 - mixing.lam[i]) + 127) // 255 for i in range(2)]
    assert np.array_equal(mix(images, mixing), np.stack(wanted))


def test_kernels_refuse_arrays_of_other_sizes() -> None:
    if kernels.compiled is None:
        return
    image, odd = np.zeros((3, 4, 5), np.uint8), np.zeros((3, 4, 4), np.uint8)
    table, fill = np.zeros((2, 256), np.int16), np.zeros(3, np.uint8)
    calls: dict[str, list[tuple[object, ...]]] = {
        "rotate": [
            (image, image.copy(), np.zeros((8, 256), np.int16), fill, 4, 5, 8, 0, 0),
            (image, odd, table, fill, 4, 5, 2, 0, 0),
            (image, image.copy(), table, fill, 4, 5, 4, 0, 0),
            (b"", bytearray(), table, fill, 0, 5, 2, 0, 0),
        ],
        "shift_rows": [
            (image, image.copy(), table, np.zeros(3, np.int64), 4, 5, 2, 3, 0),
            (image, image.copy(), table, np.zeros(3, np.int64), 4, 5, 2, 4, 0),
            (b"", bytearray(), table, np.zeros(1, np.int64), 0, 0, 2, 1, 0),
        ],
        "shift_columns": [
            (image, odd, table, fill, 4, 5, 2, 0),
            (image, image.copy(), table, fill, 4, 5, 4, 0),
            (image, image.copy(), table, fill, 5, 5, 2, 0),
            (b"", bytearray(), table, fill, 0, 0, 2, 0),
        ],
        "transpose": [(image, odd, 4, 5), (image, image.copy(), -4, -5), (b"", bytearray(), 1 << 32, 1 << 32)],
        "blend_grey": [(image, image.copy(), 20, 1 << 40)],
        "blur": [
            (image, image.copy(), 4, 5, -1 << 15),
            (image, odd, 4, 5, Q16),
            (image, image.copy(), 4, 6, Q16),
            (image, image.copy(), 4, 5),
        ],
        "sharpen": [(odd, image, 4, 5, 0)],
        "mix": [(image, odd, image, 60, 1)],
        "histograms": [(image, np.zeros(3, np.int64), 20)],
    }
    for name, each in calls.items():
        for given_ in each:
            with pytest.raises((ValueError, TypeError), match="another"):
                getattr(kernels.compiled, name)(*given_)
    with pytest.raises((BufferError, ValueError), match="read-only"):
        kernels.compiled.blur(image, np.frombuffer(bytes(60), np.uint8), 4, 5, Q16)
    with pytest.raises(TypeError):
        kernels.compiled.blur("image", image, 4, 5, Q16)


@pytest.mark.process
@pytest.mark.parametrize("value", ["numpy", *[""] * BUILT])
def test_the_environment_may_leave_kernels_out(value: str) -> None:
    code = "from reinforce.views import kernels; print(kernels.compiled is None)"
    env = {**os.environ, "REINFORCE_KERNELS": value}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(value == "numpy"), done.stderr


def test_every_partial_sum_is_a_whole_number_that_float32_and_a_lane_hold() -> None:
    for table in fast_warp._TABLES.values():
        assert 255 * np.abs(table).sum(axis=0).max() < 1 << 20  # and than 2^24
        assert (table.sum(axis=0) == 1 << 11).all()
    # ... and every sum of products over both axes is one that int32 holds.
    cubic = fast_warp._TABLES[Interpolation.BICUBIC]
    up, down = np.where(cubic > 0, cubic, 0).sum(axis=0).max(), -np.where(cubic < 0, cubic, 0).sum(axis=0).min()
    assert 255 * (up * up + down * down) < 1 << 31
