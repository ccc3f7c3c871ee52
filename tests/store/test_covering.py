"""Covering: the stripes that are looked at before training show everything that occurs in the params."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from reinforce.store.witness import WANTED, covering_stripes
from reinforce.views.layout import pixel_spec
from reinforce.views.params import OP_SLOT_BASE, Field, PixelSpec
from reinforce.views.policy_text import parse_policy

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("seed", range(20))
def test_everything_that_occurs_is_among_the_stripes_that_are_chosen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = pixel_spec(parse_policy("imagenet-plus-m-r"), 32)
    samples, views = int(rng.integers(1, 40)), int(rng.integers(1, 9))
    params = np.zeros((samples, views, len(spec.fields)), np.int32)
    at = {field: spec.fields.index(field) for field in spec.fields}
    rare = rng.random((samples, views)) < 0.1
    params[:, :, at[Field.HFLIP]] = rare
    params[:, :, at[Field.ERASE_HEIGHT]] = 5 * (rng.random((samples, views)) < 0.05)
    params[:, :, at[Field.LAM]] = np.where(rng.random((samples, views)) < 0.3, rng.integers(0, 255, (samples, views)), 255)
    for slot in range(2):
        params[:, :, at[OP_SLOT_BASE + 4 * slot]] = rng.integers(0, 17, (samples, views)) * (rng.random((samples, views)) < 0.4)
        params[:, :, at[OP_SLOT_BASE + 4 * slot + 1]] = rng.integers(0, 4, (samples, views))
    seen = things(params.reshape(-1, params.shape[-1]), spec)
    half = samples // 2
    parts = [(range(half), params[:half]), (range(half, samples), params[half:])]
    chosen = covering_stripes([(list(names), rows) for names, rows in parts if len(names)], spec)
    assert len(chosen) == len(set(chosen))
    shown = things(params[chosen].reshape(-1, params.shape[-1]), spec)
    for thing, count in seen.items():
        assert shown[thing] >= (min(count, WANTED) if not thing.startswith("op") else 1)
    assert len(chosen) <= WANTED * len(seen)


def things(rows: np.ndarray, spec: PixelSpec) -> Counter[str]:
    """What occurs in views, read from their params one by one."""
    found: Counter[str] = Counter()
    for row in rows:
        found.update(f"op {op} {interpolation}" for op, interpolation, _, _ in spec.ops(row) if op)
        found["flip"] += spec.read(row, Field.HFLIP, 0) > 0
        found["erase"] += spec.read(row, Field.ERASE_HEIGHT, 0) > 0
        found["mix"] += spec.read(row, Field.LAM, 255) < 255
    return +found


def test_no_stripes_are_chosen_where_there_are_none() -> None:
    assert covering_stripes([], pixel_spec(parse_policy("rrc"), 32)) == []
