"""The `sqrt` codec: invariant 2 whatever is encoded, what it keeps, and the gates on a real teacher."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.bench.codec_bench import bench, load_probs
from reinforce.errors import LabelError
from reinforce.labels.codecs import NAMED_CODECS
from reinforce.labels.fidelity import measure
from reinforce.labels.sparse import EVEN, SparseLabels
from reinforce.labels.sqrt import MAX_DELTA, MIN_DELTA, Sqrt
from reinforce.labels.sqrt_selection import choose
from tests.conftest import REAL_DATA
from tests.labels.conftest import rows_like

pytestmark = pytest.mark.unit

LOGITS = REAL_DATA / "logits" / "mobilenetv2_100_views.npz"
KINDS = ("one-hot", "uniform", "one class for all", "sharp", "soft", "views of an image")


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 6),
    st.sampled_from([1, 2, 3, 10, 129, 256, 1000, 21841]),
    st.sampled_from([MIN_DELTA, 0.04, 0.1, 0.18, MAX_DELTA]),
    st.integers(0, 2**32),
)
def test_decoded_labels_are_distributions(kind: str, views: int, classes: int, delta: float, seed: int) -> None:
    probs, codec = rows_like(kind, views, classes, seed), Sqrt(delta)
    record = codec.encode(probs)
    labels = codec.decode_all(memoryview(record), views, classes)
    assert len(labels) == views
    for view, label in enumerate(labels):
        assert label.probs.dtype == np.float32
        assert label.probs.min(initial=1) > 0
        assert 0 <= label.remainder <= 1
        assert abs(label.probs.sum(dtype=np.float64) + label.remainder - 1) <= 1e-6
        assert len(set(label.class_ids.tolist())) == len(label.class_ids)
        assert (np.diff(label.tail.class_ids) > 0).all()
        alone = codec.decode(record, view, views, classes)
        assert alone.class_ids.tolist() == label.class_ids.tolist()
        assert alone.probs.tolist() == label.probs.tolist()
        assert alone.remainder == label.remainder
    dense = SparseLabels.stack(labels, classes).dense()
    assert dense.shape == (views, classes)
    assert dense.min() >= 0
    assert (dense.sum(dim=1, dtype=torch.float64) - 1).abs().max() <= 1e-6
    assert np.isfinite(measure(codec, record, probs).kl).all()


@pytest.mark.parametrize("classes", [65536, 65537])
def test_class_ids_take_four_bytes_where_two_do_not_hold_them(classes: int) -> None:
    probs = np.zeros((2, classes), np.float32)
    probs[:, [0, 300, classes - 1]] = [[0.5, 0.25, 0.25], [0.0, 0.1, 0.9]]
    first, second = Sqrt(0.1).decode_all(Sqrt(0.1).encode(probs), 2, classes)
    assert sorted(first.class_ids.tolist()) == [0, 300, classes - 1]
    assert sorted(second.class_ids.tolist()) == [300, classes - 1]
    assert max(zip(second.probs.tolist(), second.class_ids.tolist(), strict=True))[1] == classes - 1


@pytest.mark.parametrize("tier", NAMED_CODECS)
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_one_hot_and_uniform_rows_come_back(tier: str, classes: int) -> None:
    codec = NAMED_CODECS[tier]
    assert isinstance(codec, Sqrt)
    for kind in ("one-hot", "uniform"):
        probs = rows_like(kind, 5, classes, 1)
        lost = measure(codec, codec.encode(probs), probs)
        assert lost.kl.max() < codec.delta**2 / 6  # the error of a step in the middle of its range
        assert lost.total_variation.max() < codec.delta / 10


@pytest.mark.parametrize("tier", NAMED_CODECS)
def test_the_top_class_is_unbiased(tier: str) -> None:
    bias = []
    for seed in range(40):
        probs = rows_like("views of an image", 16, 300, seed)
        bias.append(measure(NAMED_CODECS[tier], NAMED_CODECS[tier].encode(probs), probs).top1_bias)
    assert abs(np.mean(bias)) <= 1e-3


def test_a_higher_tier_costs_more_and_loses_less() -> None:
    probs = [rows_like("views of an image", 32, 500, seed) for seed in range(8)]
    sizes = [sum(len(codec.encode(p)) for p in probs) for codec in NAMED_CODECS.values()]
    losses = [np.mean([measure(codec, codec.encode(p), p).kl for p in probs]) for codec in NAMED_CODECS.values()]
    assert sizes == sorted(sizes)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 2 * losses[-1]


def test_the_tail_says_more_than_an_even_one() -> None:
    probs, codec = rows_like("views of an image", 32, 500, 3), NAMED_CODECS["sqrt"]
    labels = codec.decode_all(codec.encode(probs), 32, 500)
    even = [label._replace(tail=EVEN) for label in labels]
    p = torch.from_numpy(probs).double()
    shared, flat = (
        float(torch.xlogy(p, p / SparseLabels.stack(rows, 500).dense()).sum(dim=1).mean()) for rows in (labels, even)
    )
    assert shared < 0.8 * flat


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p * np.nan, "hold NaN or infinity"),
        (lambda p: p / 0, "hold NaN or infinity"),
        (lambda p: p - 0.1, "are not distributions"),
        (lambda p: p * 1.01, "are not distributions"),
        (lambda p: p[0], "have the wrong shape"),
        (lambda p: np.log(p), "are not distributions"),
    ],
)
def test_what_is_no_distribution_is_refused_by_name(change: Any, message: str) -> None:
    probs = rows_like("soft", 4, 20, 1)
    with pytest.raises(LabelError, match=message), np.errstate(divide="ignore"):
        Sqrt(0.1).encode(change(probs))


def test_records_are_decoded_in_many_threads_at_once() -> None:
    codec = NAMED_CODECS["sqrt"]
    failed: list[int] = []
    probs = [rows_like("views of an image", 8, 100, seed) for seed in range(4)]
    records = [codec.encode(p) for p in probs]
    expected = [[label.probs.tolist() for label in codec.decode_all(r, 8, 100)] for r in records]

    def work(number: int) -> None:
        rounds = ([label.probs.tolist() for label in codec.decode_all(records[number], 8, 100)] for _ in range(200))
        failed.extend(number for found in rounds if found != expected[number])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_the_same_labels_have_the_same_bytes() -> None:
    probs = rows_like("views of an image", 8, 100, 1)
    assert Sqrt(0.1).encode(probs) == Sqrt(0.1).encode(probs.copy())


# What is kept


def test_what_is_kept_is_worth_its_bits_and_the_tail_is_the_mean_of_what_is_left() -> None:
    probs = rows_like("views of an image", 32, 200, 5).astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    delta = 0.1
    kept = choose(probs, delta)
    assert (np.diff(kept.class_ids) > 0).all()
    listed = probs[:, kept.class_ids]
    where = kept.symbols > 0
    assert (listed[where] >= delta**2 / 4).all()
    assert np.array_equal(kept.symbols[where], np.maximum(np.rint(np.sqrt(listed[where]) / delta), 1))
    left = (~where).sum(axis=0)
    mean = np.where(where, 0, listed).sum(axis=0)[left > 0] / left[left > 0]
    assert np.allclose(kept.weights[left > 0], np.maximum(mean, 1e-15))
    assert kept.floor == pytest.approx(np.delete(probs, kept.class_ids, axis=1).mean())
    never = ~where.any(axis=0)
    assert (kept.weights[never] > kept.floor).all()


# The gates, on a real teacher


real = pytest.mark.skipif(not LOGITS.is_file(), reason="no real logits beside the project")


@real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("tier", "most_bytes", "most_kl"), [("sqrt-tiny", 9, 0.23), ("sqrt", 16, 0.13), ("sqrt-high", 26, 0.10)]
)
def test_a_tier_keeps_its_promise_on_a_soft_teacher(tier: str, most_bytes: int, most_kl: float) -> None:
    probs, about = load_probs(LOGITS)
    assert about["views"] == 64
    (row,) = bench(tier, probs)
    assert row["bytes_per_view"] <= most_bytes
    assert row["kl"] <= most_kl
    assert abs(row["top1_bias"]) <= 1e-3


@real
@pytest.mark.slow
def test_every_label_of_a_real_teacher_is_a_distribution() -> None:
    probs, _ = load_probs(LOGITS)
    for codec in NAMED_CODECS.values():
        for image in probs[::10]:
            dense = SparseLabels.stack(codec.decode_all(codec.encode(image), 64, 1000), 1000).dense()
            assert dense.min() > 0
            assert (dense.sum(dim=1, dtype=torch.float64) - 1).abs().max() <= 1e-6


@real
@pytest.mark.slow
def test_a_sharper_teacher_costs_less_and_loses_less() -> None:
    probs, about = load_probs(LOGITS, top1=0.82)
    assert about["mean_top1"] == pytest.approx(0.82, abs=1e-3)
    (row,) = bench("sqrt", probs)
    assert row["bytes_per_view"] <= 8
    assert row["kl"] <= 0.03
    assert abs(row["top1_bias"]) <= 1e-3
