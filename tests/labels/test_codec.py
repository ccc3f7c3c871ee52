"""Invariant 2 as a law: a decoded soft label is a distribution, whatever was encoded. Damage is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.errors import LabelError, StoreError, UsageError
from reinforce.labels.codecs import codec_from_dict, codec_name, parse_codec
from reinforce.labels.sparse import MAX_LEVEL, SparseLabel, SparseLabels, Tail, check_distributions, kl_divergence
from reinforce.labels.topk import TopK
from tests.labels.conftest import rows_like

pytestmark = pytest.mark.unit


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["one-hot", "uniform", "sharp", "soft"]),
    st.integers(1, 3),
    st.sampled_from([1, 2, 3, 10, 11, 1000, 65536, 65537]),
    st.sampled_from([1, 2, 10, 50]),
    st.integers(0, 2**32),
)
def test_decoded_labels_are_distributions(kind: str, views: int, classes: int, k: int, seed: int) -> None:
    probs, codec = rows_like(kind, views, classes, seed), TopK(k)
    record = codec.encode(probs)
    assert len(record) == views * min(k, classes) * (4 if classes <= 65536 else 6)
    rows = codec.decode_all(record, views, classes)
    for view, (ids, kept, remainder, _) in enumerate(rows):
        assert kept.min() >= 0
        assert remainder >= 0
        assert abs(kept.sum(dtype=np.float64) + remainder - 1) <= 1e-6
        assert len(set(ids.tolist())) == len(ids)
        assert int(ids[0]) == int(np.argmax(probs[view]))
        alone = codec.decode(record, view, views, classes)
        assert np.array_equal(alone[0], ids)
        assert np.array_equal(alone[1], kept)
        assert alone[2] == remainder
    dense = SparseLabels.stack(rows, classes).dense()
    assert dense.shape == (views, classes)
    assert dense.min() >= 0
    assert torch.allclose(dense.sum(dim=1, dtype=torch.float64), torch.ones(views, dtype=torch.float64), atol=1e-5)


def test_rows_whose_half_floats_sum_above_one_keep_a_remainder_of_at_least_zero() -> None:
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(12, 0.7), 3000).astype(np.float32)
    top = -np.sort(-probs, axis=1)[:, :11]
    nearest = top.astype(np.float16).sum(axis=1, dtype=np.float64)
    assert (nearest > 1).mean() > 0.01  # the trap is there
    rows = TopK(11).decode_all(TopK(11).encode(probs), len(probs), 12)
    assert min(remainder for _, _, remainder, _ in rows) >= 0


@pytest.mark.parametrize("row", [[0.5, 0.5, 2**-14, 0], [1, 2**-24, 0, 0]])
def test_a_row_over_one_within_the_tolerance_is_decoded_again(row: Any) -> None:
    _, kept, remainder, _ = TopK(3).decode(TopK(3).encode(np.array([row], np.float32)), 0, 1, 4)
    assert abs(kept.sum(dtype=np.float64) + remainder - 1) <= 1e-6


def test_the_top_class_is_unbiased() -> None:
    for kind in ("sharp", "soft"):
        probs = rows_like(kind, 2000, 100, 5)
        rows = TopK(10).decode_all(TopK(10).encode(probs), 2000, 100)
        bias = np.mean([kept[0] for _, kept, *_ in rows]) - probs.max(axis=1).mean()
        assert abs(bias) <= 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p * np.nan, "hold NaN or infinity"),
        (lambda p: p - 0.1, "are not distributions"),
        (lambda p: p * 1.01, "are not distributions"),
        (lambda p: p[0], "have the wrong shape"),
        (lambda p: np.log(p), "are not distributions"),
    ],
)
def test_what_is_no_distribution_is_refused_by_name(change: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        TopK(3).encode(change(rows_like("soft", 4, 20, 1)))
    check_distributions(rows_like("soft", 4, 20, 1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: r[:-1], "wrong length"),
        (lambda r: r + b"\0", "wrong length"),
        (lambda r: b"\xff\xff" + r[2:], "highest class id 65535"),
        (lambda r: r[:-2] + b"\x00\x7e", "does not decode to a distribution"),  # NaN
        (lambda r: r[:-2] + b"\x00\x7c", "does not decode to a distribution"),  # infinity
        (lambda r: r[:-2] + b"\x00\xb0", "does not decode to a distribution"),  # negative
        (lambda r: r[:-2] + b"\x00\x3c", "does not decode to a distribution"),  # 1.0, so the sum is above one
    ],
)
def test_damaged_records_are_refused(damage: Any, message: str) -> None:
    record = TopK(3).encode(rows_like("soft", 4, 20, 1))
    with pytest.raises(LabelError, match=message):
        TopK(3).decode(damage(record), 3 if damage(record)[:2] != b"\xff\xff" else 0, 4, 20)


def test_ragged_rows_are_padded_and_densify_as_a_loop_would() -> None:
    tail = Tail(np.array([0, 3]), np.array([1, 200], np.uint8), 0.125)
    rows = [
        SparseLabel(np.array([2, 0]), np.array([0.5, 0.25], np.float32), 0.25),
        SparseLabel(np.array([4]), np.array([1.0], np.float32), 0.0),
        SparseLabel(np.array([], np.int64), np.array([], np.float32), 1.0),
        SparseLabel(np.array([1, 0]), np.array([0.5, 0.25], np.float32), 0.25, tail),
        SparseLabel(np.array([], np.int64), np.array([], np.float32), 1.0, tail),
        SparseLabel(np.arange(5), np.full(5, 0.2, np.float32), 0.0, tail),
    ]
    labels = SparseLabels.stack(rows, 5)
    assert labels.class_ids[:3, :2].tolist() == [[2, 0], [4, 5], [5, 5]]
    expected = np.zeros((len(rows), 5))
    for i, (ids, probs, remainder, (tail_ids, levels, floor)) in enumerate(rows):
        weights = np.full(5, floor)
        for class_id, level in zip(tail_ids, levels, strict=True):
            weights[class_id] = 2.0 ** -min(int(level), MAX_LEVEL)
        weights[ids] = 0
        expected[i] = remainder * weights / max(weights.sum(), 1e-30)
        expected[i, ids] = probs
    assert np.allclose(expected.sum(axis=1), 1)
    assert np.allclose(labels.dense(), expected, atol=1e-7)
    assert torch.equal(labels.to("cpu").dense(), labels.dense())


def test_kl_divergence_is_that_of_the_textbook() -> None:
    p, q = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.5, 0.25]])
    assert float(kl_divergence(p, q)[0]) == pytest.approx(0.5 * np.log(2), abs=1e-12)
    assert float(kl_divergence(p, p)[0]) == 0


@pytest.mark.parametrize(
    "text",
    [
        "top",
        "topk:0",
        "topk:ten",
        "topk:1001",
        "topk:-1",
        "topk:" + "1" * 5000,
        "sqrt-huge",
        "sqrt:",
        "sqrt:x",
        "sqrt:nan",
        "sqrt:0",
        "sqrt:0.6",
        "sqrt:0.001",
    ],
)
def test_unknown_codecs_are_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError):
        parse_codec(text)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"name": "other", "k": 3},
        {"name": "topk"},
        {"name": "topk", "k": "5"},
        {"name": "topk", "k": 0},
        {"name": "topk", "k": True},
        {"name": "topk", "k": 3, "delta": 0.1},
        {"name": "sqrt"},
        {"name": "sqrt", "delta": 1},
        {"name": "sqrt", "delta": "0.1"},
        {"name": "sqrt", "delta": 0.0},
        {"name": "sqrt", "delta": float("nan")},
        {"name": "sqrt", "delta": 0.1, "rate": 0.06},
    ],
)
def test_a_manifest_with_an_unknown_codec_is_refused(config: Any) -> None:
    with pytest.raises(StoreError, match="codec is not one this version can read"):
        codec_from_dict(config)
    assert codec_from_dict(TopK(7).to_dict()) == TopK(7)


@pytest.mark.parametrize("text", ["topk:7", "sqrt-tiny", "sqrt", "sqrt-high", "sqrt-near", "sqrt:0.05"])
def test_a_codec_has_one_name_wherever_it_is_said(text: str) -> None:
    config = parse_codec(text).to_dict()
    assert codec_name(config) == text
    assert codec_from_dict(json.loads(json.dumps(config))) == parse_codec(text)
    assert parse_codec("sqrt:0.1") == parse_codec("sqrt")
