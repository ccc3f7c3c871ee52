"""Samples into batches and out again: each with its own answers, in order; a batch is asked for before the last is fetched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reinforce.generation.label_stream import LabelStream

pytestmark = pytest.mark.unit


def views_of(row: int, count: int) -> torch.Tensor:
    return torch.tensor([[row, view] for view in range(count)], dtype=torch.int64).reshape(count, 2)


@given(st.lists(st.integers(1, 7), max_size=30), st.integers(1, 12))
def test_every_sample_comes_out_once_in_order_with_its_own_answers(counts: list[int], batch_size: int) -> None:
    sizes: list[int] = []

    def label(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return batch * 10

    stream = LabelStream(label, batch_size)
    found: list[tuple[int, np.ndarray]] = []
    for row, count in enumerate(counts):
        found += stream.push(row, views_of(row, count))
    found += stream.flush()
    assert [row for row, _ in found] == list(range(len(counts)))
    for (row, answers), count in zip(found, counts, strict=True):
        assert np.array_equal(answers, views_of(row, count).numpy() * 10)
    # Whole batches but for the last: labels do not depend on how samples fall into them.
    assert all(size == batch_size for size in sizes[:-1])
    assert sum(sizes) == sum(counts)
    assert list(stream.flush()) == []


class Fetched:
    """An answer that notes when it is waited for."""

    def __init__(self, number: int, values: torch.Tensor, said: list[str]) -> None:
        self.number, self.values, self.said = number, values, said

    def cpu(self) -> torch.Tensor:
        self.said.append(f"fetch {self.number}")
        return self.values


@pytest.mark.parametrize("count", [1, 4])
def test_the_next_batch_is_asked_for_before_the_last_is_fetched(count: int) -> None:
    said: list[str] = []

    def label(batch: torch.Tensor) -> Fetched:
        number = sum(s.startswith("ask") for s in said)
        said.append(f"ask {number}")
        return Fetched(number, batch, said)

    stream = LabelStream(label, 4)  # type: ignore[arg-type]
    out: list[tuple[int, np.ndarray]] = []
    for row in range(12 // count):
        out += stream.push(row, views_of(row, count))
    out += stream.flush()
    assert len(out) == 12 // count
    assert said == ["ask 0", "ask 1", "fetch 0", "ask 2", "fetch 1", "fetch 2"]
