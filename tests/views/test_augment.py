"""Augmentations against those who define them: the same ops, as often, as strong; and the same pixels within a bound."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import stats
from timm.data import auto_augment
from timm.data.random_erasing import RandomErasing
from torchvision import transforms
from torchvision.transforms import functional as F

from reinforce.errors import StoreError
from reinforce.views import ops as fast_ops
from reinforce.views import warp as fast_warp
from reinforce.views.apply import apply
from reinforce.views.blur import box_radius
from reinforce.views.draw import draw
from reinforce.views.erase import noise
from reinforce.views.layout import pixel_spec
from reinforce.views.operations import OPERATIONS
from reinforce.views.params import Q16, Field, Interpolation, Op
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import view_rng
from tests.conftest import picture
from tests.views.plain import OnPixels

pytestmark = pytest.mark.unit

ops, warp = OnPixels(fast_ops), OnPixels(fast_warp)
SIZE = 224
IMAGES = [np.array(picture(i, w, h)) for i, (w, h) in enumerate([(64, 64), (53, 37), (96, 80), (5, 2)])]
NAMES = {
    "Identity": Op.NONE, "ShearX": Op.SHEAR_X, "ShearY": Op.SHEAR_Y, "TranslateX": Op.TRANSLATE_X, "TranslateY": Op.TRANSLATE_Y,
    "Rotate": Op.ROTATE, "Brightness": Op.BRIGHTNESS, "Color": Op.COLOR, "Contrast": Op.CONTRAST, "Sharpness": Op.SHARPNESS,
    "Posterize": Op.POSTERIZE, "Solarize": Op.SOLARIZE, "AutoContrast": Op.AUTO_CONTRAST, "Equalize": Op.EQUALIZE,
    "PosterizeOriginal": Op.POSTERIZE, "Invert": Op.INVERT,
}  # fmt: skip


def slots(text: str, count: int, size: int = SIZE) -> list[list[tuple[int, int, int, int]]]:
    policy = parse_policy(text)
    spec = pixel_spec(policy, size)
    return [spec.ops(draw(view_rng(2, i, 0), policy, size, 300, 200)) for i in range(count)]


def expected_arguments(space: dict[str, tuple[torch.Tensor, bool]], bins: range, size: int) -> dict[Op, set[tuple[int, int]]]:
    """What torchvision's table of magnitudes means in stored integers."""
    found: dict[Op, set[tuple[int, int]]] = {}
    for name, (magnitudes, signed) in space.items():
        values = [float(magnitudes[b]) for b in bins] if magnitudes.ndim else [0.0]
        values = [s * v for v in values for s in ((1, -1) if signed else (1,))]
        op = NAMES[name]
        if op in (Op.BRIGHTNESS, Op.COLOR, Op.CONTRAST, Op.SHARPNESS):
            found[op] = {(round((1 + v) * Q16), 0) for v in values}
        elif op in (Op.TRANSLATE_X, Op.TRANSLATE_Y):
            # 16 pixels are 15.999999 in their float32 table, and so become 15 there
            found[op] = {(round(int(v + math.copysign(1e-5, v)) / size * Q16), 0) for v in values}
        elif op in (Op.SHEAR_X, Op.SHEAR_Y):
            found[op] = {(round(v * Q16), 0) for v in values}
        elif op == Op.ROTATE:
            found[op] = {(round(math.cos(math.radians(v)) * Q16), -round(math.sin(math.radians(v)) * Q16)) for v in values}
        else:
            found[op] = {(math.ceil(v), 0) for v in values}
    return found


@pytest.mark.parametrize(("text", "reference", "bins"), [
    ("imagenet-plus-ra-re", transforms.RandAugment(2, 9)._augmentation_space(31, (SIZE, SIZE)), range(9, 10)),
    ("imagenet-plus-ra-re:m=30", transforms.RandAugment(2, 30)._augmentation_space(31, (SIZE, SIZE)), range(30, 31)),
    ("trivial", transforms.TrivialAugmentWide()._augmentation_space(31), range(31)),
])  # fmt: skip
def test_torchvisions_ops_come_with_torchvisions_magnitudes_and_equal_chances(text: str, reference: Any, bins: Any) -> None:
    count = 12_000
    drawn = [slot for view in slots(text, count) for slot in view]
    allowed = expected_arguments(reference, bins, SIZE)
    near: dict[Op, set[tuple[int, int]]] = {}
    for op, interpolation, a, b in drawn:
        assert interpolation == (Interpolation.NEAREST if OPERATIONS[op].geometric else Interpolation.NONE)
        near.setdefault(Op(op), set()).add((a, b))
    assert near.keys() == allowed.keys()
    for op, found in near.items():
        # float32 tables and half units may round to the neighbour
        assert all(min(max(abs(a - c), abs(b - d)) for c, d in allowed[op]) <= 1 for a, b in found), op
        assert all(min(max(abs(a - c), abs(b - d)) for c, d in found) <= 1 for a, b in allowed[op]), op
    counts = Counter(op for op, *_ in drawn)
    assert stats.chisquare(list(counts.values())).pvalue > 0.001


def test_autoaugment_is_timms_original() -> None:
    random.seed(0)
    found: list[tuple[Op, float]] = []
    policies = auto_augment.auto_augment_policy_original({"img_mean": (124, 116, 104)})
    for chosen in policies:
        for op in chosen:

            def noting(image: Image.Image, *a: float, name: Op = NAMES[op.name], **_: Any) -> Image.Image:
                found.append((name, a[0] if a else 0.0))
                return image

            op.aug_fn = noting
    transform = auto_augment.AutoAugment(policies)
    image, theirs = Image.new("RGB", (8, 8)), []
    for _ in range(15_000):
        found = []
        transform(image)
        theirs.append(tuple((op, round(abs(value), 4)) for op, value in found))
    ours = []
    for view in slots("autoaugment", 15_000):
        row = []
        for op, _, a, b in view:
            if op == Op.ROTATE:
                row.append((op, round(abs(math.degrees(math.atan2(b, a))), 2)))
            elif op != Op.NONE:
                row.append((op, round(abs(a) / Q16, 4) if op in (Op.COLOR, Op.CONTRAST, Op.SHARPNESS, Op.SHEAR_X) else a))
        ours.append(tuple(row))
    rounded = [tuple((op, round(v, 2) if op == Op.ROTATE else v) for op, v in row) for row in theirs]
    mine, others = Counter(ours), Counter(rounded)
    near = {k: sum(v for q, v in others.items() if [o for o, _ in q] == [o for o, _ in k] and np.allclose(
        [v for _, v in q], [v for _, v in k], atol=0.011)) for k in mine}  # fmt: skip
    assert sum(near.values()) == len(theirs)  # every combination of theirs is one of ours
    assert stats.chi2_contingency(np.array([[mine[k], near[k]] for k in mine]).T).pvalue > 0.001


def test_three_augment_is_one_of_three_and_then_colour_jitter() -> None:
    drawn = slots("three-augment", 6000)
    assert all(len(view) == 4 for view in drawn)
    first = Counter((op, a if op != Op.GAUSSIAN_BLUR else None) for (op, _, a, _), *_ in drawn)
    assert first.keys() == {(Op.COLOR, 0), (Op.SOLARIZE, 128), (Op.GAUSSIAN_BLUR, None)}
    assert stats.chisquare(list(first.values())).pvalue > 0.001
    orders = Counter(tuple(op for op, *_ in view[1:]) for view in drawn)
    assert len(orders) == 6
    assert stats.chisquare(list(orders.values())).pvalue > 0.001
    factors = np.array([a / Q16 for view in drawn for _, _, a, _ in view[1:]])
    torch.manual_seed(0)
    theirs = [transforms.ColorJitter.get_params((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), None)[1:4] for _ in range(6000)]
    assert stats.ks_2samp(factors, np.array(theirs).ravel()).pvalue > 0.001
    radii = np.array([a / Q16 for (op, _, a, _), *_ in drawn if op == Op.GAUSSIAN_BLUR])
    sigmas = np.random.default_rng(0).uniform(0.1, 2.0, 6000)
    assert stats.ks_2samp(radii, [box_radius(s) for s in sigmas]).pvalue > 0.001


@pytest.mark.parametrize(("text", "reference"), [
    ("tinyvit", "timm"), ("rrc:reprob=0.25,re_scale=0.02-0.33,re_ratio=0.3-3.3", "torchvision"),
])  # fmt: skip
def test_erased_rectangles_are_distributed_as_theirs(text: str, reference: str) -> None:
    policy, count = parse_policy(text), 8000
    columns = [
        pixel_spec(policy, 64).column(f) for f in (Field.ERASE_TOP, Field.ERASE_LEFT, Field.ERASE_HEIGHT, Field.ERASE_WIDTH)
    ]
    ours = np.array([draw(view_rng(5, i, 0), policy, 64, 90, 70)[columns] for i in range(count)])
    random.seed(3)
    torch.manual_seed(3)
    theirs = []
    if reference == "timm":
        erase = RandomErasing(probability=0.25, mode="const", device="cpu")
        for _ in range(count):
            image = torch.ones(1, 64, 64)
            erase._erase(image, 1, 64, 64, image.dtype)
            where = torch.nonzero(image[0] == 0)
            rectangle = [0] * 4
            if len(where):
                (top, left), (bottom, right) = where.min(0).values.tolist(), where.max(0).values.tolist()
                rectangle = [top, left, bottom - top + 1, right - left + 1]
            theirs.append(rectangle)
    else:
        for _ in range(count):
            image = torch.ones(3, 64, 64)
            top, left, height, width, _ = transforms.RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])
            erased = random.random() < 0.25 and (height, width) != (64, 64)
            theirs.append([top, left, height, width] if erased else [0] * 4)
    other = np.array(theirs)
    assert abs((ours[:, 2] > 0).mean() - (other[:, 2] > 0).mean()) < 0.025
    ours, other = ours[ours[:, 2] > 0], other[other[:, 2] > 0]
    for a, b in ((ours, other), (ours[:, 2:3] * ours[:, 3:], other[:, 2:3] * other[:, 3:])):
        for column in range(a.shape[1]):
            assert stats.ks_2samp(a[:, column], b[:, column]).pvalue > 0.001


# Pixels


def pillow(image: np.ndarray, call: Any) -> np.ndarray:
    return np.asarray(call(Image.fromarray(image))).astype(int)


@pytest.mark.parametrize("degrees", [-135.0, -27.5, -3.0, 9.0, 30.0, 90.0])
def test_nearest_rotations_are_torchvisions_but_for_pixels_on_a_boundary(degrees: float) -> None:
    angle = -math.radians(degrees)
    for image in IMAGES:
        ours = warp.rotate(image, Interpolation.NEAREST, round(math.cos(angle) * Q16), round(math.sin(angle) * Q16), (0, 0, 0))
        theirs = pillow(image, lambda i: F.rotate(i, degrees))
        height, width = image.shape[:2]
        x, y = np.arange(width)[None] + 0.5 - width / 2, np.arange(height)[:, None] + 0.5 - height / 2
        source_x = math.cos(angle) * x + math.sin(angle) * y + width / 2
        source_y = -math.sin(angle) * x + math.cos(angle) * y + height / 2
        boundary = np.minimum(abs(source_x - np.rint(source_x)), abs(source_y - np.rint(source_y))) < 2e-3
        assert np.array_equal(ours[~boundary], theirs[~boundary])


@pytest.mark.parametrize("amount", [-0.99, -0.3, -0.05, 0.2, 0.66])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_nearest_shears_are_torchvisions_but_for_pixels_on_a_boundary(amount: float, axis: str) -> None:
    degrees = math.degrees(math.atan(amount))
    shear = [degrees, 0.0] if axis == "x" else [0.0, degrees]
    for image in IMAGES:
        ours = getattr(warp, f"shear_{axis}")(image, Interpolation.NEAREST, round(amount * Q16), (0, 0, 0))
        theirs = pillow(image, lambda i: F.affine(i, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0]))
        y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
        source = x + amount * y if axis == "x" else y + amount * x
        boundary = abs(source - np.rint(source)) < 2e-3
        assert np.array_equal(ours[~boundary], theirs[~boundary])


@pytest.mark.parametrize("pixels", [-32, -7, 0, 1, 30])
def test_nearest_translations_are_torchvisions(pixels: int) -> None:
    for image in IMAGES:
        height, width = image.shape[:2]
        for name, length, shift in (("x", width, [pixels, 0]), ("y", height, [0, pixels])):
            move = getattr(warp, f"translate_{name}")
            ours = move(image, Interpolation.NEAREST, -round(pixels / length * Q16), (0, 0, 0))
            theirs = pillow(image, lambda i, t=shift: F.affine(i, angle=0.0, translate=t, scale=1.0, shear=[0.0, 0.0]))
            assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 0.8, 1.3, 2.0])
def test_blur_is_pillows_within_one_level(sigma: float) -> None:
    for image in IMAGES[:3]:
        ours = ops.gaussian_blur(image, round(box_radius(sigma) * Q16)).astype(int)
        theirs = pillow(image, lambda i: i.filter(ImageFilter.GaussianBlur(sigma)))
        assert np.abs(ours - theirs).max() <= 1
    assert np.array_equal(ops.gaussian_blur(IMAGES[0], 0), IMAGES[0])


@pytest.mark.parametrize("amount", [0.7, 0.95, 1.0, 1.3])
def test_colour_jitter_is_torchvisions_within_one_level(amount: float) -> None:
    pairs = ((ops.brightness, F.adjust_brightness), (ops.contrast, F.adjust_contrast), (ops.color, F.adjust_saturation))
    for image in IMAGES:
        for ours, theirs in pairs:
            assert np.abs(ours(image, round(amount * Q16)) - pillow(image, lambda i, f=theirs: f(i, amount))).max() <= 1
        grey = pillow(image, lambda i: transforms.Grayscale(3)(i))
        assert np.array_equal(ops.color(image, 0), grey)


# Erasing


def test_noise_is_timms_normal_seen_in_uint8_and_a_function_of_its_seed() -> None:
    made = noise(12345, 200, 220)
    assert made.shape == (200, 220, 3)
    assert np.array_equal(made, noise(12345, 200, 220))
    assert np.array_equal(noise(7, 3, 5).ravel(), noise(7, 5, 3).ravel())  # numbered, whatever the shape
    assert not np.array_equal(made, noise(12346, 200, 220))
    mean, std = np.array([0.485, 0.456, 0.406]) * 255, np.array([0.229, 0.224, 0.225]) * 255
    normal = np.random.default_rng(0).normal(mean, std, (200_000, 3))
    theirs = np.clip(np.rint(normal), 0, 255)
    for channel in range(3):
        ours = made[..., channel].ravel()
        assert stats.ks_2samp(ours, theirs[:, channel]).statistic < 0.012  # eight bytes are not quite a normal
        assert abs(ours.mean() - theirs[:, channel].mean()) < 1
        assert abs(ours.std() - theirs[:, channel].std()) < 1
    flat = made.reshape(-1, 3).astype(float)
    assert abs(np.corrcoef(flat[:-1, 0], flat[1:, 0])[0, 1]) < 0.02
    assert abs(np.corrcoef(flat[:, 0], flat[:, 1])[0, 1]) < 0.02


@pytest.mark.parametrize("mode", ["const", "pixel"])
def test_erasing_fills_the_rectangle_after_all_ops_and_nothing_else(mode: str) -> None:
    policy = parse_policy(f"rrc-ra:reprob=1,remode={mode}" + (",re_fill=1-2-3" if mode == "const" else ""))
    spec, image = pixel_spec(policy, 48), IMAGES[2]
    params = draw(view_rng(1, 2, 3), policy, 48, image.shape[1], image.shape[0])
    top, left, height, width = (spec.read(params, f, 0) for f in range(Field.ERASE_TOP, Field.ERASE_SEED))
    assert height * width > 0
    erased = apply(image, params, spec).numpy()
    without = params.copy()
    without[spec.column(Field.ERASE_HEIGHT)] = 0
    expected = apply(image, without, spec).numpy().copy()
    inside = np.array([1, 2, 3], np.uint8) if mode == "const" else noise(spec.read(params, Field.ERASE_SEED, 0), height, width)
    expected[:, top : top + height, left : left + width] = np.broadcast_to(inside, (height, width, 3)).transpose(2, 0, 1)
    assert np.array_equal(erased, expected)


@pytest.mark.parametrize(("field", "value"), [
    (Field.ERASE_TOP, -1), (Field.ERASE_LEFT, 48), (Field.ERASE_HEIGHT, 10**6), (Field.ERASE_WIDTH, -5), (Field.ERASE_SEED, -1),
])  # fmt: skip
def test_a_rectangle_that_is_no_part_of_the_view_is_refused(field: Field, value: int) -> None:
    policy, image = parse_policy("tinyvit:reprob=1"), IMAGES[2]
    params = draw(view_rng(1, 2, 3), policy, 48, *image.shape[1::-1])
    params[(spec := pixel_spec(policy, 48)).column(field)] = value
    with pytest.raises(StoreError, match="erase what is no part of the view"):
        apply(image, params, spec)
