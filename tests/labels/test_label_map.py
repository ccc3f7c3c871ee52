"""Label maps: records of scores, and labels of crops pooled as torchvision pools them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.ops import roi_align

from reinforce.errors import LabelError
from reinforce.labels.box import WHOLE, Box, box_of
from reinforce.labels.label_map import MapCodec, mixed_label
from reinforce.views.apply import apply
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import fresh_view_rng
from tests.labels.conftest import dense

pytestmark = pytest.mark.unit


def random_map(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    return rng.normal(0, 3, (1, *shape)).astype(np.float32)


def softmax(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()


def by_torchvision(scores: np.ndarray, box: Box) -> np.ndarray:
    """Softmax of torchvision's pooling of scores `[h, w, C]`."""
    height, width, _ = scores.shape
    corners = [box.left * width - 0.5, box.top * height - 0.5, box.right * width - 0.5, box.bottom * height - 0.5]
    grid = torch.from_numpy(scores).double().permute(2, 0, 1)[None]
    pooled = roi_align(grid, [torch.tensor([corners], dtype=torch.float64)], output_size=(1, 1), aligned=False)
    return softmax(pooled[0, :, 0, 0].numpy())


@pytest.mark.parametrize("shape", [(1, 1, 4), (7, 7, 20), (3, 11, 6), (15, 15, 50)])
def test_a_crops_label_is_torchvisions_pooling_of_the_scores(shape: Any) -> None:
    rng = np.random.default_rng(sum(shape))
    scores = random_map(rng, shape)
    label_map = MapCodec(shape[2]).read(MapCodec(shape[2]).encode(scores), shape[2])
    stored = np.zeros(shape, np.float64)
    np.put_along_axis(stored, label_map.class_ids, label_map.scores.astype(np.float64), axis=-1)
    boxes = [WHOLE, Box(0, 0, 0.01, 0.01), Box(0.99, 0.99, 1, 1), Box(0.5, 0, 1, 0.5)]
    for _ in range(200):
        (top, bottom), (left, right) = np.sort(rng.random(2)), np.sort(rng.random(2))
        boxes.append(Box(top, left, bottom, right))
    for box in boxes:
        assert np.allclose(dense(label_map.pool(box), shape[2]), by_torchvision(stored, box), atol=1e-6), box


@pytest.mark.parametrize("number", [0.0, 40.0, -7.0])
def test_where_all_classes_are_listed_the_whole_images_label_is_the_teachers(number: float) -> None:
    scores = random_map(np.random.default_rng(1), (4, 5, 9)) + np.float32(number)
    codec = MapCodec(9)
    found = dense(codec.decode(codec.encode(scores), 0, 1, 9), 9)
    assert np.allclose(found, softmax(scores.mean(axis=(0, 1, 2), dtype=np.float64)), atol=2e-3)
    assert np.allclose(codec.probabilities(scores)[0], softmax(scores.mean(axis=(0, 1, 2), dtype=np.float64)), atol=1e-6)


@pytest.mark.parametrize("number", [0.0, -7.0, 300.0])
def test_what_every_logit_has_more_or_less_changes_no_label(number: float) -> None:
    # Teachers trained with binary cross-entropy have logits far below zero: a class not listed must not stand at zero there.
    scores = random_map(np.random.default_rng(2), (3, 3, 40)) + np.linspace(-2, 2, 40, dtype=np.float32)
    codec = MapCodec(10)
    plain, raised = (codec.read(codec.encode(s), 40).pool() for s in (scores, scores + np.float32(number)))
    assert np.allclose(dense(plain, 40), dense(raised, 40), atol=2e-3)
    true = codec.probabilities(scores)[0]
    assert (true * np.log(true / dense(plain, 40))).sum() < 0.5


@settings(max_examples=60)
@given(
    height=st.integers(1, 6), width=st.integers(1, 6), classes=st.integers(1, 30), k=st.integers(1, 40), data=st.data(),
)  # fmt: skip
def test_labels_of_crops_are_distributions(height: int, width: int, classes: int, k: int, data: st.DataObject) -> None:
    scores = data.draw(arrays(np.float32, (1, height, width, classes), elements=st.floats(-1e5, 1e5, width=32)))
    corners = data.draw(st.lists(st.floats(0, 1), min_size=4, max_size=4))
    box = Box(min(corners[0], corners[1]), min(corners[2], corners[3]), max(corners[:2]), max(corners[2:]))
    codec = MapCodec(k)
    label = codec.read(codec.encode(scores), classes).pool(box)
    assert len(set(label.class_ids.tolist())) == len(label.class_ids)
    assert label.probs.min(initial=0) >= 0
    assert label.remainder >= 0
    assert abs(label.probs.sum(dtype=np.float64) + label.remainder - 1) < 1e-6
    assert abs(dense(label, classes).sum() - 1) < 1e-5


def test_many_classes_take_wider_ids() -> None:
    scores = np.zeros((1, 1, 2, 70_000), np.float32)
    scores[..., 69_999] = 9
    record = MapCodec(3).encode(scores)
    assert len(record) == 2 + 2 * 3 * (4 + 2)
    assert MapCodec(3).read(record, 70_000).class_ids[0, 0].tolist() == [69_999, 0, 1]


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (np.zeros((1, 3, 4), np.float32), "wrong shape"),
        (np.zeros((2, 3, 3, 4), np.float32), "wrong shape"),
        (np.zeros((1, 256, 3, 4), np.float32), "wrong shape"),
        (np.full((1, 3, 3, 4), np.nan, np.float32), "NaN or infinity"),
        (np.full((1, 3, 3, 4), np.inf, np.float32), "NaN or infinity"),
    ],
)
def test_what_is_no_map_is_refused(answers: Any, text: str) -> None:
    with pytest.raises(LabelError, match=text):
        MapCodec(2).encode(answers)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r[:-1], "wrong length"),
        (lambda r: r + b"\0", "wrong length"),
        (lambda r: b"", "wrong length"),
        (lambda r: b"\x02", "wrong length"),
        (lambda r: b"\0\0" + r[2:], "wrong length"),
        (lambda r: b"\xff\xff" + r[2:], "wrong length"),
        (lambda r: r[:2] + b"\x09\x00" + r[4:], "is not valid"),
        (lambda r: r[:2] + r[4:6] + r[4:], "class twice"),
        (lambda r: r[:-2] + b"\x00\x7c", "is not valid"),
        (lambda r: r[:-2] + b"\x01\x7e", "is not valid"),
    ],
)
def test_a_damaged_record_is_refused(change: Any, text: str) -> None:
    record = MapCodec(2).encode(random_map(np.random.default_rng(3), (2, 2, 5)))
    with pytest.raises(LabelError, match=text):
        MapCodec(2).decode(change(record), 0, 1, 5)


def test_a_mixed_label_is_the_sum_of_its_parts() -> None:
    rng = np.random.default_rng(4)
    one, two = (MapCodec(3).read(MapCodec(3).encode(random_map(rng, (2, 2, 12))), 12).pool() for _ in range(2))
    for share in (0.0, 0.3, 1.0):
        mixed = mixed_label(one, two, share, 12)
        assert np.allclose(dense(mixed, 12), share * dense(one, 12) + (1 - share) * dense(two, 12), atol=1e-7)
        assert abs(mixed.probs.sum(dtype=np.float64) + mixed.remainder - 1) < 1e-6


@pytest.mark.parametrize(("text", "expected"), [
    ("whole", WHOLE),
    ("none:crop_pct=1.0", Box(0, 0.3, 1, 0.7)),
    ("none:crop_pct=0.5", Box(0.25, 0.4, 0.75, 0.6)),
])  # fmt: skip
def test_the_box_of_a_view_is_what_it_shows(text: str, expected: Any) -> None:
    policy = parse_policy(text)
    params = draw(fresh_view_rng(0, 0, 0), policy, 32, 100, 40)
    assert np.allclose(box_of(params, pixel_spec(policy, 32), 100, 40), expected, atol=0.02)


def test_the_box_of_a_random_crop_is_where_its_pixels_come_from() -> None:
    policy, (width, height) = parse_policy("rrc-ra:hflip=0,p=0"), (200, 120)
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)
    for i in range(20):
        params = draw(fresh_view_rng(0, i, 0), policy, 32, width, height)
        top, left, bottom, right = box_of(params, pixel_spec(policy, 32), width, height)
        pixels = apply(image, params, pixel_spec(policy, 32)).float()
        assert abs(float(pixels[0].mean()) - ((left + right) / 2 * width - 0.5)) < 1
        assert abs(float(pixels[1].mean()) - ((top + bottom) / 2 * height - 0.5)) < 1
