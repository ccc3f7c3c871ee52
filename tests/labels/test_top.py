"""The top class: what a codec decodes has the teacher's in every view, read by our reader and by one written from FORMAT.md."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.bench.codec_bench import bench, load_probs
from reinforce.labels.codecs import parse_codec
from reinforce.labels.fidelity import measure
from reinforce.labels.sparse import SparseLabels
from reinforce.labels.sqrt import MAX_DELTA, MIN_DELTA, Sqrt
from reinforce.labels.topk import TopK
from reinforce.testing.codecs import SHARPNESS, answers_like
from tests.conftest import REAL_DATA
from tests.labels import sqrt_by_the_page as page
from tests.labels.conftest import rows_like

pytestmark = pytest.mark.unit

LOGITS = REAL_DATA / "logits" / "mobilenetv2_100_views.npz"
real = pytest.mark.skipif(not LOGITS.is_file(), reason="no real logits beside the project")
KINDS = (*SHARPNESS, "views of an image", "half flat")


def rows_of(kind: str, views: int, classes: int, seed: int) -> np.ndarray:
    if kind == "views of an image":
        return rows_like(kind, views, classes, seed)
    if kind == "half flat":  # the tail of the flat views is that of the others
        halves = [answers_like("flat", views, classes, seed), rows_like("views of an image", views, classes, seed)]
        return np.concatenate(halves)[::2] if views > 1 else halves[0]
    return answers_like(kind, views, classes, seed)


def decoded_by_both(codec: Sqrt, probs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    views, classes = probs.shape
    record = codec.encode(probs)
    ours = SparseLabels.stack(codec.decode_all(record, views, classes), classes).dense().numpy()
    return ours, np.array(page.read(page.content_of(record), codec.delta, views, classes))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 7),
    st.sampled_from([1, 2, 3, 10, 129, 1000, 21841]),
    st.sampled_from([MIN_DELTA, 0.04, 0.1, 0.18, MAX_DELTA]),
    st.integers(0, 2**32),
)
def test_sqrt_has_the_teachers_top_class_in_every_view(kind: str, views: int, classes: int, delta: float, seed: int) -> None:
    probs = rows_of(kind, views, classes, seed)
    ours, theirs = decoded_by_both(Sqrt(delta), probs)
    assert np.abs(ours - theirs).max() < 1e-6
    assert ours.argmax(axis=1).tolist() == probs.argmax(axis=1).tolist()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 7),
    st.sampled_from([1, 2, 3, 10, 1000, 1024, 21841]),
    st.sampled_from([1, 2, 10, 1000]),
    st.integers(0, 2**32),
)
def test_topk_has_the_teachers_top_class_and_loses_nothing_infinite(
    kind: str, views: int, classes: int, k: int, seed: int
) -> None:
    probs, codec = rows_of(kind, views, classes, seed), TopK(k)
    record = codec.encode(probs)
    size = views * min(k, classes)
    ids, halves = np.frombuffer(record, "<u2", size), np.frombuffer(record, "<f2", size, 2 * size).astype(np.float64)
    ids, halves = ids.reshape(views, -1), halves.reshape(views, -1)
    theirs = np.repeat(((1 - halves.sum(axis=1)) / max(classes - k, 1))[:, None], classes, axis=1)
    np.put_along_axis(theirs, ids.astype(np.int64), halves / (halves.sum(axis=1, keepdims=True) if k >= classes else 1), axis=1)
    assert theirs.argmax(axis=1).tolist() == probs.argmax(axis=1).tolist()
    lost = measure(codec, record, probs)
    assert lost.same_top.all()
    assert np.isfinite(lost.kl).all()
    if k >= classes:
        assert (theirs[probs > 0] > 0).all()


@pytest.mark.parametrize("name", ["sqrt", "topk:2"])
def test_of_classes_that_a_codec_cannot_tell_apart_any_can_be_the_top_one(name: str) -> None:
    for top in range(4):
        probs = np.full((1, 4), 0.25, np.float32)
        probs[0, top] += 1e-6
        probs /= probs.sum()
        codec = parse_codec(name)
        label = codec.decode(codec.encode(probs), 0, 1, 4)
        assert int(label.class_ids[label.probs.argmax()]) == top
        assert (label.probs == label.probs.max()).sum() == 1


def test_a_mark_is_one_more_token() -> None:
    first, second = np.array([[0.27, 0.26, 0.25, 0.22]], np.float32), np.array([[0.26, 0.27, 0.25, 0.22]], np.float32)
    unmarked, marked = (page.content_of(Sqrt(0.1).encode(rows)) for rows in (first, second))
    assert unmarked[-9:].hex() == "008400840084" + "0084ff"  # all four classes have the symbol 5
    assert marked == unmarked[:-6] + b"\x85" + unmarked[-6:]


def test_a_floor_keeps_all_classes_possible_and_rows_at_most_one() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 1, (200, 1000)) * rng.uniform(2, 8, (200, 1))
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)
    assert ((probs > 0) & (probs.astype(np.float16) == 0)).any(axis=1).mean() > 0.5  # the trap is there
    record = TopK(1000).encode(probs)
    halves = np.frombuffer(record, "<f2", 200_000, 400_000).reshape(200, 1000).astype(np.float64)
    assert halves.min() == 2**-24
    assert halves.sum(axis=1).max() <= 1
    kl = measure(TopK(1000), record, probs).kl
    assert kl.max() < 1e-3


# On a real teacher


@real
@pytest.mark.slow
@pytest.mark.parametrize("tier", ["sqrt-tiny", "sqrt", "sqrt-high", "sqrt-near"])
@pytest.mark.parametrize("views", [1, 10, 64])
def test_every_view_of_a_real_teacher_keeps_its_top_class(tier: str, views: int) -> None:
    probs, _ = load_probs(LOGITS, views=views)
    codec = parse_codec(tier)
    assert isinstance(codec, Sqrt)
    for image in probs:
        lost = measure(codec, codec.encode(image), image)
        assert lost.same_top.all()
    for image in probs[:: 10 if views > 1 else 1]:
        ours, theirs = decoded_by_both(codec, image)
        assert theirs.argmax(axis=1).tolist() == image.argmax(axis=1).tolist()
        assert np.abs(ours - theirs).max() < 1e-6


@real
@pytest.mark.slow
@pytest.mark.parametrize(("tier", "bytes_before", "kl_before"), [("sqrt-tiny", 7.13, 0.2046), ("sqrt", 14.61, 0.1221)])
def test_the_top_class_costs_less_than_a_third_of_a_byte(tier: str, bytes_before: float, kl_before: float) -> None:
    (row,) = bench(tier, load_probs(LOGITS)[0])
    assert row["same_top"] == 1
    assert row["bytes_per_view"] <= bytes_before + 0.3
    assert row["kl"] <= kl_before
    # A label that is the mean of all that a record could mean is softer than them by its KL, and no less.
    assert row["entropy_bias"] == pytest.approx(row["kl"], rel=0.1)
