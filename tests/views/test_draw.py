"""Draw against timm: the same ops, as often, at the same magnitudes; the same crops. And what is drawn can be applied."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import timm.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import auto_augment, transforms

from reinforce.views.apply import apply
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.params import OP_SLOT_BASE, Q16, Op
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import epoch_order, scheduled_views, torch_seed, view_rng

pytestmark = pytest.mark.unit

DRAWS = 6000
TIMM_NAMES = {
    "AutoContrast": Op.AUTO_CONTRAST, "Equalize": Op.EQUALIZE, "Invert": Op.INVERT, "Rotate": Op.ROTATE,
    "PosterizeIncreasing": Op.POSTERIZE, "Posterize": Op.POSTERIZE, "SolarizeIncreasing": Op.SOLARIZE,
    "Solarize": Op.SOLARIZE, "SolarizeAdd": Op.SOLARIZE_ADD, "ColorIncreasing": Op.COLOR, "Color": Op.COLOR,
    "ContrastIncreasing": Op.CONTRAST, "Contrast": Op.CONTRAST, "BrightnessIncreasing": Op.BRIGHTNESS,
    "Brightness": Op.BRIGHTNESS, "SharpnessIncreasing": Op.SHARPNESS, "Sharpness": Op.SHARPNESS, "ShearX": Op.SHEAR_X,
    "ShearY": Op.SHEAR_Y, "TranslateXRel": Op.TRANSLATE_X, "TranslateYRel": Op.TRANSLATE_Y,
}  # fmt: skip
RATIOS = {Op.COLOR, Op.CONTRAST, Op.BRIGHTNESS, Op.SHARPNESS, Op.SHEAR_X, Op.SHEAR_Y, Op.TRANSLATE_X, Op.TRANSLATE_Y}


def timm_arguments(text: str) -> dict[Op, list[float]]:
    """The argument that timm gives to each op it applies, over many draws."""
    found: dict[Op, list[float]] = {op: [] for op in TIMM_NAMES.values()}
    random.seed(0)
    np.random.seed(0)
    transform = auto_augment.rand_augment_transform(text, {"img_mean": (124, 116, 104)})
    for op in transform.ops:

        def noting(image: Image.Image, *args: float, op: Op = TIMM_NAMES[op.name], **_: Any) -> Image.Image:
            found[op].append(args[0] if args else 0.0)
            return image

        op.aug_fn = noting
    image = Image.new("RGB", (8, 8))
    for _ in range(DRAWS):
        transform(image)
    return found


def our_arguments(text: str) -> dict[Op, list[float]]:
    found: dict[Op, list[float]] = {op: [] for op in TIMM_NAMES.values()}
    policy = parse_policy(text)
    spec = pixel_spec(policy, 32)
    for i in range(DRAWS):
        for op, _, a, b in spec.ops(draw(view_rng(1, i, 0), policy, 32, 50, 40)):
            if op == Op.ROTATE:
                found[Op.ROTATE].append(-np.degrees(np.arctan2(b, a)))
            elif op != Op.NONE:
                found[Op(op)].append(a / Q16 if op in RATIOS else a)
    return found


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("rand-m7-mstd0.5-inc1", "rrc-ra"),
        ("rand-m9-n3-p0.8-mstd0.5", "rrc-ra:m=9,n=3,p=0.8,inc=0"),
        ("rand-m4-mstd0-inc1", "rrc-ra:m=4,mstd=0"),
    ],
)
def test_ops_come_as_often_and_as_strong_as_timms(theirs: str, ours: str) -> None:
    reference, found = timm_arguments(theirs), our_arguments(ours)
    total = sum(map(len, reference.values()))
    for op, values in reference.items():
        # standard error of a count of n is about sqrt(n); four of each side's
        assert abs(len(found[op]) - len(values)) < 6 * np.sqrt(len(values)), op
        a, b = np.array(found[op], float), np.array(values, float)
        for x, y in ((a, b), (np.abs(a), np.abs(b)), (a**2, b**2)):  # both signs alike, and as strong
            standard_error = np.sqrt(x.var() / len(x) + y.var() / len(y))
            assert abs(x.mean() - y.mean()) <= 5 * standard_error + 1e-3 * np.abs(y).max(), op
    assert abs(sum(map(len, found.values())) - total) < 0.03 * total


@pytest.mark.parametrize(("width", "height"), [(500, 375), (40, 300), (300, 40), (33, 33)])
def test_crops_are_distributed_as_timms(width: int, height: int) -> None:
    random.seed(1)
    image = Image.new("L", (width, height))
    theirs = np.array(
        [transforms.RandomResizedCropAndInterpolation.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(DRAWS)]
    )
    policy = parse_policy("rrc")
    ours = np.array([draw(view_rng(2, i, 0), policy, 32, width, height)[:4] for i in range(DRAWS)])
    for column, length in enumerate((height, width, height, width)):
        quantiles = [np.quantile(x[:, column], [0.05, 0.25, 0.5, 0.75, 0.95]) for x in (ours, theirs)]
        assert np.abs(quantiles[0] - quantiles[1]).max() <= max(1.0, 0.035 * length)


def test_flips_and_interpolations_come_as_often_as_asked() -> None:
    policy = parse_policy("rrc:hflip=0.2,interpolation=random")
    rows = np.array([draw(view_rng(3, i, 1), policy, 32, 64, 64) for i in range(DRAWS)])
    assert abs(rows[:, 5].mean() - 0.2) < 0.025
    counts = Counter(rows[:, 4].tolist())
    assert set(counts) == {1, 2}
    assert abs(counts[1] / DRAWS - 0.5) < 0.03


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (224, 224), (640, 33)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
def test_the_none_policy_has_timms_evaluation_geometry(width: int, height: int, crop_pct: float) -> None:
    transform = timm.data.create_transform(64, is_training=False, crop_pct=crop_pct, interpolation="bicubic")
    row = draw(view_rng(0, 0, 0), parse_policy(f"none:crop_pct={crop_pct}"), 64, width, height)
    # timm's own resize and crop, fed with an image whose values are its coordinates
    resized = transform.transforms[0](Image.new("RGB", (width, height)))
    assert (row[5], row[4]) == resized.size
    columns, rows = np.meshgrid(np.arange(resized.width) % 256, np.arange(resized.height) % 256)
    corner = [np.asarray(transform.transforms[1](Image.fromarray(c.astype(np.uint8))))[0, 0] for c in (rows, columns)]
    assert corner == [row[6] % 256, row[7] % 256]


def test_the_same_coordinates_give_the_same_params_and_others_others() -> None:
    policy = parse_policy("rrc-ra")
    one = draw(view_rng(0, 5, 2), policy, 32, 64, 64)
    assert np.array_equal(one, draw(view_rng(0, 5, 2), policy, 32, 64, 64))
    others = [draw(view_rng(*key), policy, 32, 64, 64) for key in ((1, 5, 2), (0, 6, 2), (0, 5, 3), (0, 2, 5))]
    assert not any(np.array_equal(one, other) for other in others)


TEXTS = [
    "none",
    "none:crop_pct=1",
    "rrc",
    "rrc:scale=0.01-0.02,ratio=0.1-10",
    "rrc-ra:m=10,mstd=5,n=4,p=1,interpolation=random",
    "whole",
    "tinyvit:reprob=1",
    "imagenet-plus-ra-re:reprob=1,m=30",
    "three-augment",
    "trivial",
    "autoaugment:interpolation=random",
]


@settings(max_examples=120, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(TEXTS), st.integers(0, 2**40), st.sampled_from([8, 31]))
def test_whatever_is_drawn_can_be_applied(width: int, height: int, text: str, seed: int, size: int) -> None:
    policy = parse_policy(text)
    params = draw(view_rng(seed, 0, 0), policy, size, width, height)
    spec = pixel_spec(policy, size)
    assert params.dtype == np.int32
    assert len(params) == len(spec.fields)
    image = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3).astype(np.uint8)
    view = apply(image, params, spec)
    assert view.shape == (3, size, size)
    assert view.dtype == torch.uint8


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 65535), st.integers(1, 65535), st.sampled_from(TEXTS[2:4]))
def test_crops_lie_inside_of_images_of_any_size(width: int, height: int, text: str) -> None:
    top, left, crop_height, crop_width = draw(view_rng(4, width, height), parse_policy(text), 32, width, height)[:4].tolist()
    assert 0 <= top <= top + crop_height <= height
    assert 0 <= left <= left + crop_width <= width
    assert crop_height >= 1 <= crop_width


def test_orders_and_schedules_are_permutations_that_differ() -> None:
    assert sorted(epoch_order(0, 3, 50)) == list(range(50))
    assert not np.array_equal(epoch_order(0, 3, 50), epoch_order(0, 4, 50))
    assert not np.array_equal(epoch_order(0, 1, 50), epoch_order(1, 0, 50))
    assert sorted(v for e in range(9, 18) for v in scheduled_views(0, 7, e, 9)) == list(range(9))
    assert len({torch_seed(0, e) for e in range(-1, 20)} | {torch_seed(1, e) for e in range(-1, 20)}) == 42


def test_slots_that_are_skipped_are_all_zero() -> None:
    policy = parse_policy("rrc-ra:p=0")
    row = draw(view_rng(0, 0, 0), policy, 32, 64, 64)
    assert not row[pixel_spec(policy, 32).column(OP_SLOT_BASE) :].any()
