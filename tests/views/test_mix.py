"""MixUp and CutMix as laws: pairs, shares, boxes, integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from timm.data.mixup import rand_bbox

from reinforce.policy import MixOptions
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import WHOLE, Mixing, mix, mixing_columns, read_mixing
from reinforce.views.policy_text import parse_policy
from tests.conftest import SIZE
from tests.views.mixing import POLICY, USI, drawn

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("count", [0, 1, 2, 3, 64, 65])
@pytest.mark.parametrize("options", [USI, MixOptions(1.0, 1.0, 0.5, both=True), MixOptions(0.2), MixOptions(cutmix=1.0)])
def test_pairs_are_pairs_with_one_share_and_one_box(count: int, options: MixOptions) -> None:
    for seed in range(20):
        mixing = drawn(seed, count, options)
        assert mixing.fault(224) is None
        alone = mixing.partner == np.arange(count)
        assert (mixing.lam[alone] == WHOLE).all()
        assert (mixing.boxes[alone] == 0).all()
        assert ((mixing.lam[~alone] < WHOLE) | (mixing.boxes[~alone, 2] > 0)).all()


def test_everyone_meets_everyone_with_equal_chance() -> None:
    met = np.zeros((8, 8), int)
    for seed in range(3000):
        met[np.arange(8), drawn(seed, 8, MixOptions(mixup=1.0)).partner] += 1
    others = met[~np.eye(8, dtype=bool)]
    assert met.diagonal().sum() < 100  # a share that rounds to the whole
    assert stats.chisquare(others).pvalue > 0.001


def test_shares_are_betas_and_boxes_those_of_timm() -> None:
    mixing = drawn(0, 40_000)
    up = (mixing.boxes[:, 2] == 0) & (mixing.partner != np.arange(40_000))
    cut = mixing.boxes[:, 2] > 0
    assert abs(up.mean() - 0.5) < 0.01
    assert abs(cut.mean() - 0.5) < 0.02  # a box that was cut to nothing counts as no mixing
    firsts = up & (mixing.partner > np.arange(40_000))
    # Distances between the distributions, of which the rounding to 1/255 is one part.
    assert stats.kstest(mixing.lam[firsts] / WHOLE, stats.beta(0.8, 0.8).cdf).statistic < 0.02
    np.random.seed(0)
    boxes = [rand_bbox((3, 224, 224), lam) for lam in np.random.default_rng(1).beta(1.0, 1.0, 20_000)]
    theirs = np.array([(b - a) * (d - c) for a, b, c, d in boxes if (b - a) * (d - c)])
    ours = mixing.boxes[cut & (mixing.partner > np.arange(40_000)), 2:].prod(axis=1)
    assert stats.ks_2samp(ours, theirs).statistic < 0.02


@pytest.mark.parametrize(("options", "expected"), [
    (MixOptions(1.0, 1.0, 0.5, both=True), (0.25, 0.25, 0.25, 0.25)),
    (MixOptions(0.8, 1.0, 1.0, 0.5), (0.0, 0.5, 0.5, 0.0)),
    (MixOptions(0.8, 1.0, 0.6, 0.25), (0.4, 0.45, 0.15, 0.0)),
    (MixOptions(mixup=0.8, mixup_prob=0.3), (0.7, 0.3, 0.0, 0.0)),
])  # fmt: skip
def test_mixup_and_cutmix_happen_as_often_as_they_should(options: MixOptions, expected: Any) -> None:
    mixing = drawn(3, 40_000, options)
    up, cut = mixing.lam < WHOLE, mixing.boxes[:, 2] > 0
    found = [(~up & ~cut).mean(), (up & ~cut).mean(), (~up & cut).mean(), (up & cut).mean()]
    assert np.abs(np.array(found) - expected).max() < 0.02


# Pixels


def test_mixing_is_the_rounded_blend_and_the_partners_box() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)
    mixing = Mixing(
        np.array([2, 1, 0, 3]), np.array([100, 255, 100, 255]), np.array([[2, 3, 5, 6], [0] * 4, [2, 3, 5, 6], [0] * 4])
    )
    result = mix(images, mixing)
    exact = np.floor((100.0 * images[0] + 155.0 * images[2] + 127) / 255)
    exact[:, 2:7, 3:9] = images[2][:, 2:7, 3:9]
    assert np.array_equal(result[0], exact)
    assert np.array_equal(result[2][:, 2:7, 3:9], images[0][:, 2:7, 3:9])
    assert np.array_equal(result[[1, 3]], images[[1, 3]])
    assert mixing.share(16)[0] == np.float32(100 / 255 * (1 - 30 / 256))
    assert mixing.share(16)[1] == 1


def test_the_quotient_by_255_is_exact_everywhere() -> None:
    total = np.arange(255 * 255 + 128, dtype=np.int32)
    assert np.array_equal(total * np.int32(32897) >> 23, total // 255)


def test_columns_and_matching_are_one(images: Path) -> None:
    spec = pixel_spec(parse_policy(POLICY), SIZE)
    mixing = drawn(5, 9, size=SIZE)
    params = np.zeros((9, len(spec.fields)), np.int32)
    params[:, -6:] = mixing_columns(mixing)
    found = read_mixing(params, spec)
    assert found is not None
    assert all(np.array_equal(a, b) for a, b in zip(found, mixing, strict=True))
    assert read_mixing(params, pixel_spec(parse_policy("rrc"), SIZE)) is None


@pytest.mark.parametrize(("change", "text"), [
    (lambda m: m.partner.__setitem__(0, 9), "partner 9 among 6"),
    (lambda m: m.partner.__setitem__(0, -1), "among 6"),
    (lambda m: m.partner.__setitem__(0, 0), "not its partner's partner"),
    (lambda m: m.lam.__setitem__(0, 7), "mixed differently"),
    (lambda m: m.boxes.__setitem__((0, 3), 7), "mixed differently"),
    (lambda m: m.lam.__setitem__(slice(None), 256), "a share"),
    (lambda m: m.boxes.__setitem__((slice(None), 2), 40), "outside of the view"),
    (lambda m: m.boxes.__setitem__((slice(None), 0), -1), "outside of the view"),
])  # fmt: skip
def test_a_matching_that_cannot_be_is_described(change: Callable[[Mixing], None], text: str) -> None:
    mixing = drawn(1, 6, size=SIZE)
    change(mixing)
    assert text in (mixing.fault(SIZE) or "")
