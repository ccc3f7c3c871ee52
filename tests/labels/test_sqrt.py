"""The `sqrt` codec: invariant 2 whatever is encoded, the gates on a real teacher, and what hostile bytes can do (nothing)."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.bench.codec_bench import bench, load_probs
from reinforce.errors import LabelError
from reinforce.labels import sqrt
from reinforce.labels.codec_names import MAX_DELTA, MIN_DELTA, TIERS
from reinforce.labels.fidelity import measure
from reinforce.labels.sparse import EVEN, SparseLabels
from reinforce.labels.sqrt import Sqrt
from reinforce.labels.sqrt_selection import choose
from tests.conftest import REAL_DATA

LOGITS = REAL_DATA / "logits" / "mobilenetv2_100_views.npz"
KINDS = ("one-hot", "uniform", "one class for all", "sharp", "soft", "views of an image")


def rows_like(kind: str, views: int, classes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "one-hot":
        return np.eye(classes, dtype=np.float32)[rng.integers(0, classes, views)]
    if kind == "one class for all":
        return np.eye(classes, dtype=np.float32)[[int(rng.integers(0, classes))] * views]
    if kind == "uniform":
        return np.full((views, classes), 1 / classes, np.float32)
    if kind == "views of an image":  # as teachers have it: the views share a few likely classes and differ in which
        image, tail = rng.normal(0, 3, classes), rng.normal(0, 1, classes)
        logits = image + tail + rng.normal(0, 1.5, (views, classes))
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)
    concentration = {"sharp": 0.01, "soft": 1.0}[kind]
    return rng.dirichlet(np.full(classes, concentration), views).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 6),
    st.sampled_from([1, 2, 3, 10, 129, 256, 1000, 21841]),
    st.sampled_from([MIN_DELTA, 0.04, 0.1, 0.18, MAX_DELTA]),
    st.integers(0, 2**32),
)
def test_decoded_labels_are_distributions(kind, views, classes, delta, seed) -> None:
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
def test_class_ids_take_four_bytes_where_two_do_not_hold_them(classes) -> None:
    probs = np.zeros((2, classes), np.float32)
    probs[:, [0, 300, classes - 1]] = [[0.5, 0.25, 0.25], [0.0, 0.1, 0.9]]
    first, second = Sqrt(0.1).decode_all(Sqrt(0.1).encode(probs), 2, classes)
    assert sorted(first.class_ids.tolist()) == [0, 300, classes - 1]
    assert sorted(second.class_ids.tolist()) == [300, classes - 1]
    assert max(zip(second.probs.tolist(), second.class_ids.tolist(), strict=True))[1] == classes - 1


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_one_hot_and_uniform_rows_come_back(tier, classes) -> None:
    codec = TIERS[tier]
    for kind in ("one-hot", "uniform"):
        probs = rows_like(kind, 5, classes, 1)
        lost = measure(codec, codec.encode(probs), probs)
        assert lost.kl.max() < codec.delta**2 / 6  # the error of a step in the middle of its range
        assert lost.total_variation.max() < codec.delta / 10


@pytest.mark.parametrize("tier", TIERS)
def test_the_top_class_is_unbiased(tier) -> None:
    bias = []
    for seed in range(40):
        probs = rows_like("views of an image", 16, 300, seed)
        bias.append(measure(TIERS[tier], TIERS[tier].encode(probs), probs).top1_bias)
    assert abs(np.mean(bias)) <= 1e-3


def test_a_higher_tier_costs_more_and_loses_less() -> None:
    probs = [rows_like("views of an image", 32, 500, seed) for seed in range(8)]
    sizes = [sum(len(codec.encode(p)) for p in probs) for codec in TIERS.values()]
    losses = [np.mean([measure(codec, codec.encode(p), p).kl for p in probs]) for codec in TIERS.values()]
    assert sizes == sorted(sizes)
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > 2 * losses[-1]


def test_the_tail_says_more_than_an_even_one() -> None:
    probs, codec = rows_like("views of an image", 32, 500, 3), TIERS["sqrt"]
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
def test_what_is_no_distribution_is_refused_by_name(change, message) -> None:
    probs = rows_like("soft", 4, 20, 1)
    with pytest.raises(LabelError, match=message), np.errstate(divide="ignore"):
        Sqrt(0.1).encode(change(probs))


def test_records_are_decoded_in_many_threads_at_once() -> None:
    codec, failed = TIERS["sqrt"], []
    probs = [rows_like("views of an image", 8, 100, seed) for seed in range(4)]
    records = [codec.encode(p) for p in probs]
    expected = [[label.probs.tolist() for label in codec.decode_all(r, 8, 100)] for r in records]

    def work(number: int) -> None:
        for _ in range(200):
            if [label.probs.tolist() for label in codec.decode_all(records[number], 8, 100)] != expected[number]:
                failed.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# Damage


def body_of(record: bytes) -> bytes:
    return sqrt._CODER.decompressor.decompress(record)


def record_of(body: bytes) -> bytes:
    return sqrt._CODER.compressor.compress(body)


VIEWS, CLASSES = 6, 40


@pytest.fixture(scope="module")
def record() -> bytes:
    return Sqrt(0.1).encode(rows_like("views of an image", VIEWS, CLASSES, 2))


def assert_refused_or_a_distribution(record: bytes) -> bool:
    try:
        labels = Sqrt(0.1).decode_all(record, VIEWS, CLASSES)
    except LabelError:
        return True
    dense = SparseLabels.stack(labels, CLASSES).dense()
    assert dense.min() >= 0
    assert (dense.sum(dim=1, dtype=torch.float64) - 1).abs().max() <= 1e-6
    return False


def test_no_change_of_a_byte_makes_anything_but_a_distribution_or_an_error(record) -> None:
    body = body_of(record)
    refused = 0
    for place in range(len(record)):
        for value in (0, 1, 127, 128, 254, 255, record[place] ^ 0x55):
            refused += assert_refused_or_a_distribution(record[:place] + bytes([value]) + record[place + 1 :])
    for place in range(len(body)):
        for value in (0, 1, 127, 128, 129, 254, 255, body[place] ^ 0x55):
            refused += assert_refused_or_a_distribution(record_of(body[:place] + bytes([value]) + body[place + 1 :]))
    assert refused > 100


def test_a_shortened_or_lengthened_record_is_refused(record) -> None:
    for length in range(len(record)):
        assert assert_refused_or_a_distribution(record[:length])
    assert assert_refused_or_a_distribution(record + b"\0")
    body = body_of(record)
    for length in range(len(body)):
        assert assert_refused_or_a_distribution(record_of(body[:length]))


def forged(one: int = 100, steps: bytes = b"\x01\x02", levels: bytes = b"\0\1", tokens: bytes = b"\0\xff" * VIEWS) -> bytes:
    return record_of(bytes([9, one]) + len(steps).to_bytes(2, "little") + steps + levels + bytes(VIEWS) + tokens)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (forged(steps=b"\x01\x28"), "class id 40 of 40 classes"),
        (forged(steps=b"\0\x01", levels=b"\0"), "class id 255 of 40"),
        (forged(one=0), "symbol 1 = 0"),
        (forged(tokens=b"\0\xff" * (VIEWS - 1)), "5 ends of views for 6 views"),
        (forged(tokens=b"\0\xff" * VIEWS + b"\0\xff"), "7 ends of views for 6 views"),
        (forged(tokens=b"\0\xff" * VIEWS + b"\0"), "ends of views"),
        (forged(tokens=b"\2\xff" * VIEWS), "leads out of the dictionary"),
        (forged(tokens=b"\x80\xff" * (VIEWS - 1) + b"\x80\0\xff"), "leads out of the dictionary"),
        (forged(tokens=b"\x81\xff" * VIEWS), "leads out of the dictionary"),
        (forged(levels=b""), "ends of views"),
        (b"", ""),
        (b"\0" * 40, ""),
        (zstandard.ZstdCompressor().compress(b"a zstd frame with a magic number"), ""),
        (forged() + forged(), ""),
    ],
)
def test_forged_records_are_refused_with_what_is_wrong(record, found) -> None:
    with pytest.raises(LabelError, match="A record cannot be decoded") as error:
        Sqrt(0.1).decode_all(record, VIEWS, CLASSES)
    assert found in str(error.value)
    assert "reinforce verify" in str(error.value)


def test_the_forger_of_these_tests_can_write_a_good_record() -> None:
    labels = Sqrt(0.1).decode_all(forged(tokens=b"\0\xff\1\xff\0\0\x85\xff\xff\0\xff\0\xff"), VIEWS, CLASSES)
    assert [label.class_ids.tolist() for label in labels] == [[0], [2], [0, 2], [], [0], [0]]
    assert labels[3].remainder == 1
    assert labels[2].probs[1] / labels[2].probs[0] == pytest.approx((36 - 3 / 8 + 1 / 2) / (100 / 128))


@pytest.mark.parametrize("view", [-1, VIEWS, 10**9])
def test_a_view_that_is_not_there_is_refused(record, view) -> None:
    with pytest.raises(LabelError):
        Sqrt(0.1).decode(record, view, VIEWS, CLASSES)


def test_a_frame_that_claims_gigabytes_is_refused_before_it_is_opened(monkeypatch) -> None:
    bomb = record_of(bytes(300_000_000))
    assert len(bomb) < 100_000
    with pytest.raises(LabelError, match="cannot be decoded"):
        Sqrt(0.1).decode(bomb, 0, VIEWS, CLASSES)
    # The same without a size in its header: nothing says how much it is.
    parameters = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    unsized = stream.compress(bytes(1000)) + stream.flush()
    with pytest.raises(LabelError, match="cannot be decoded"):
        Sqrt(0.1).decode(unsized, 0, VIEWS, CLASSES)


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
def test_a_tier_keeps_its_promise_on_a_soft_teacher(tier, most_bytes, most_kl) -> None:
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
    for codec in TIERS.values():
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


def test_the_same_labels_have_the_same_bytes() -> None:
    probs = rows_like("views of an image", 8, 100, 1)
    assert Sqrt(0.1).encode(probs) == Sqrt(0.1).encode(probs.copy())
