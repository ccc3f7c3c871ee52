"""A column is a tuple to whoever uses it, and a run of bytes to memory and to other processes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinforce.sources.column import Column, all_differ, find, numbers, texts

pytestmark = pytest.mark.unit
ITEMS = st.one_of(st.lists(st.text(max_size=5)), st.lists(st.integers(-(1 << 63), (1 << 63) - 1)))


def column(items: list[Any]) -> Column[Any]:
    return numbers(items) if items and isinstance(items[0], int) else texts(items)


@given(ITEMS, st.data())
def test_it_does_what_a_tuple_does(items: list[Any], data: st.DataObject) -> None:
    made, same = column(items), tuple(items)
    assert made == same
    assert (hash(made), len(made), list(made), repr(made)) == (hash(same), len(same), items, repr(same))
    assert made == column(items)
    assert bool(made) == bool(same)
    cut = data.draw(st.slices(len(items)))
    assert made[cut] == same[cut]
    for place in range(-len(items) - 1, len(items) + 1):
        if -len(items) <= place < len(items):
            assert made[place] == same[place]
            assert (made[place] in made, made.index(made[place])) == (True, same.index(same[place]))
        else:
            with pytest.raises(IndexError):
                made[place]
    assert tuple(reversed(made)) == same[::-1]
    assert copy.deepcopy(made) == same, "as to other processes"


def test_what_is_not_there_is_not_found() -> None:
    made: Column[Any] = texts(["a", "b", "a"])
    assert made.index("a", 1) == 2
    assert 7 not in made
    assert None not in made
    assert "a" not in column([1])
    for absent in ("c", 7):
        with pytest.raises(ValueError, match="is not there"):
            made.index(absent)
    assert made != ("a", "b")
    assert made != ["a", "b", "a"], "as of a tuple"
    with pytest.raises(UnicodeEncodeError):
        texts(["\udc80"])


def test_many_are_gone_through_piece_by_piece() -> None:
    many = numbers(np.arange(40_000))
    assert list(many) == list(range(40_000))
    assert many.take(np.array([39_999, 0])) == (39_999, 0)


def test_arrow_and_numpy_see_the_same_bytes() -> None:
    made = numbers([3, 1, 2])
    assert np.asarray(made).ctypes.data == made.array.buffers()[1].address
    assert pa.array(texts(["a", "b"]), pa.string()).equals(pa.array(["a", "b"]))
    same = texts(["a"])
    assert texts(same) is same


@given(st.lists(st.text(max_size=2)))
def test_whether_all_differ(items: list[str]) -> None:
    assert all_differ(pa.array(items, pa.string())) == (len(set(items)) == len(items))
    assert not all_differ(pa.array([*items, None], pa.string()))


@given(st.sets(st.text(max_size=2)), st.lists(st.text(max_size=2)), st.booleans())
def test_where_texts_are(items: set[str], wanted: list[str], one_hash: bool) -> None:
    given, asked = list(items), [*items, *wanted]
    with pytest.MonkeyPatch.context() as patch:
        if one_hash:
            patch.setattr("reinforce.sources.column.hash", lambda text: 7, raising=False)
        found = find(pa.array(asked, pa.string()), pa.array(given, pa.string()))
    assert found.tolist() == [given.index(text) if text in items else -1 for text in asked]


def test_texts_with_one_hash_may_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reinforce.sources.column.hash", lambda text: 7, raising=False)
    assert all_differ(pa.array(["b", "a"]))
    assert not all_differ(pa.array(["b", "a", "b"]))
