"""The k highest of a row without sorting it: the same as a plain sort, ties included, and so are the bytes of a record."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.labels.label_map import MapCodec
from reinforce.labels.topk import TopK, top_columns
from tests.labels.conftest import rows_like

pytestmark = pytest.mark.unit

FEW = st.sampled_from([0.0, -0.0, 0.25, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), -1.0, np.inf, -np.inf, 1e-40])


def sorted_columns(row: np.ndarray, k: int) -> list[int]:
    """The rule of FORMAT.md in the words of Python: by falling probability, ties by rising id."""
    return sorted(range(len(row)), key=lambda column: (-row[column], column))[:k]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 40), st.sampled_from([np.float32, np.float64]))
def test_they_are_those_of_a_plain_sort_in_its_order(data: st.DataObject, rows: int, n: int, dtype: type) -> None:
    floats = st.one_of(FEW, st.floats(allow_nan=False, width=32))
    values: np.ndarray = np.array([data.draw(st.lists(floats, min_size=n, max_size=n)) for _ in range(rows)], dtype)
    k = data.draw(st.integers(1, n))
    kept = values.copy()
    assert top_columns(values, k).tolist() == [sorted_columns(row, k) for row in values]
    assert np.array_equal(values, kept)


@pytest.mark.parametrize("kind", ["one-hot", "uniform", "one class for all", "sharp", "soft", "views of an image"])
@pytest.mark.parametrize(("classes", "k"), [(1000, 10), (21_841, 10), (21_841, 1000), (7, 7), (3, 10)])
def test_a_record_has_the_bytes_of_one_made_by_sorting(kind: str, classes: int, k: int) -> None:
    probs = rows_like(kind, 4, classes, seed=1)
    probs = np.round(probs * 4096) / np.float32(4096)  # many equal ones
    probs[:, -1] += 1 - probs.sum(axis=1)
    probs = probs[probs.min(axis=1) >= 0].astype(np.float32)
    ids = np.argsort(-probs, axis=1, kind="stable")[:, :k]
    made = TopK(k).encode(probs)
    assert made == TopK.pack(ids, np.take_along_axis(probs, ids, axis=1), classes)
    scores = np.round(8 * np.log(probs[None, :, None] + 1e-4)).astype(np.float32)
    found = MapCodec(k).read(MapCodec(k).encode(scores), classes)
    assert found.class_ids[:, 0].tolist() == np.argsort(-scores[0, :, 0], axis=1, kind="stable")[:, :k].tolist()
