"""Params at another size: boxes stay, what is in pixels of the view is scaled, and whatever comes out can be applied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.policy import MixOptions
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.epoch_views import ReplayedViews
from reinforce.replay.loader import batch_plan, batches
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.teacher import Teacher
from reinforce.views.apply import apply
from reinforce.views.blur import blur_sigma, box_radius
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import draw_mixing
from reinforce.views.params import MAX_BLUR, OP_SLOT_BASE, Q16, Field, Interpolation, Op
from reinforce.views.policy_text import parse_policy
from reinforce.views.rescale import rescale, rescale_boxes
from reinforce.views.seeds import view_rng
from tests.conftest import make_settings, picture

pytestmark = pytest.mark.unit


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["none", "rrc-ra", "tinyvit:reprob=1", "three-augment", "whole"]),
    st.integers(8, 64),
    st.integers(8, 64),
    st.integers(0, 999),
)
def test_rescaled_params_give_a_view_of_the_other_size(text: str, old: int, new: int, seed: int) -> None:
    policy, image = parse_policy(text), np.array(picture(1, 50, 41))
    spec = pixel_spec(policy, old)
    params = draw(view_rng(seed, 0, 0), policy, old, 50, 41)
    assert apply(image, rescale(params, spec, new), replace(spec, size=new)).shape == (3, new, new)
    assert rescale(params, spec, old) is params


def test_the_crop_is_the_same_and_pixels_of_the_view_are_scaled() -> None:
    policy = parse_policy("tinyvit:reprob=1")
    spec = pixel_spec(policy, 32)
    params = draw(view_rng(3, 0, 0), policy, 32, 50, 41)
    twice = rescale(params, spec, 64)
    for field in (Field.ERASE_TOP, Field.ERASE_LEFT, Field.ERASE_HEIGHT, Field.ERASE_WIDTH):
        assert twice[spec.column(field)] == 2 * params[spec.column(field)]
    scaled = [spec.column(f) for f in range(Field.ERASE_TOP, Field.ERASE_SEED)]
    rest = [i for i in range(len(params)) if i not in scaled]
    assert np.array_equal(twice[rest], params[rest])


BLURRING = pixel_spec(parse_policy("three-augment"), 64)
BLUR = BLURRING.fields.index(OP_SLOT_BASE)


def blurred(radius: int) -> np.ndarray:
    params = np.zeros(len(BLURRING.fields), np.int32)
    params[BLUR], params[BLUR + 2] = Op.GAUSSIAN_BLUR, radius
    params[BLURRING.column(Field.INTERPOLATION)] = Interpolation.BILINEAR
    return params


@settings(max_examples=150, deadline=None)
@given(st.integers(0, MAX_BLUR), st.integers(8, 512))
def test_a_blur_is_as_wide_in_proportion_up_to_the_widest(radius: int, size: int) -> None:
    params = blurred(radius)
    scaled = rescale(params, BLURRING, size)
    wanted, found = blur_sigma(radius / Q16) * size / 64, blur_sigma(int(scaled[BLUR + 2]) / Q16)
    assert found == pytest.approx(min(wanted, blur_sigma(MAX_BLUR / Q16)), abs=0.007)  # near nothing, a 65536th of a radius
    scaled[BLUR + 2] = radius
    assert np.array_equal(scaled, params)


@given(st.floats(0, 10))
def test_the_width_of_a_blur_is_known_from_its_box(sigma: float) -> None:
    assert blur_sigma(box_radius(sigma)) == pytest.approx(sigma, abs=1e-6)


def test_a_blurred_view_of_twice_the_size_is_as_blurred() -> None:
    # A step from black to white: the spread of its differences is the standard deviation of the blur.
    def spread(size: int, params: np.ndarray) -> float:
        step = np.zeros((size, size, 3), np.uint8)
        step[:, size // 2 :] = 255
        row = params.copy()
        row[[BLURRING.column(f) for f in (Field.CROP_HEIGHT, Field.CROP_WIDTH)]] = size
        change = np.diff(apply(step, row, replace(BLURRING, size=size))[0, 0].numpy().astype(float)) / 255
        place = np.arange(len(change))
        return float(np.sqrt(change @ (place - change @ place) ** 2))

    params = blurred(round(box_radius(1.5) * Q16))
    assert spread(128, rescale(params, BLURRING, 128)) / spread(64, params) == pytest.approx(2, rel=0.05)


def test_other_ops_and_damaged_radii_stay_as_they_are() -> None:
    rows = np.stack([blurred(-5), blurred(MAX_BLUR + 1), blurred(7)])
    rows[2, BLUR] = Op.SOLARIZE
    assert np.array_equal(rescale(rows, BLURRING, 224), rows)


@pytest.mark.parametrize("new", [17, 31, 48, 224])
def test_boxes_of_a_pair_stay_those_of_a_pair(new: int) -> None:
    mixing = draw_mixing(np.random.default_rng(0), np.random.default_rng(1), 200, MixOptions(0.8, 1.0), 32)
    scaled = mixing._replace(boxes=rescale_boxes(mixing.boxes, 32, new))
    assert scaled.fault(new) is None
    cut = mixing.boxes[:, 2] > 0
    assert np.abs(scaled.share(new)[cut] - mixing.share(32)[cut]).max() < 0.08


def test_mixed_views_are_replayed_at_another_size_in_batches_as_one_by_one(
    images: Path, teacher: Teacher, tmp_path: Path
) -> None:
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher, policy=parse_policy("usi")), tmp_path / "out", Execution(16, 0))
    dataset = ReinforcedDataset(tmp_path / "out", images, size=24)
    views = ReplayedViews(dataset)
    views.set_epoch(2)
    plan = batch_plan(0, 2, 24, 12, views.mixing[0].partner)
    for samples, (pixels, _) in zip(plan, batches(views, plan, workers=0), strict=True):
        assert torch.equal(pixels, torch.stack([dataset.replay(int(i), dataset.view_of(int(i))) for i in samples]))
