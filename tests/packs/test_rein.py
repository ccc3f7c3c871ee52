"""The .rein file of a sample: it holds params and records as the page says, and damage in it is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.errors import StoreError
from reinforce.packs.rein_file import ReinFile, make_rein

pytestmark = pytest.mark.unit


def rein() -> bytes:
    params = np.arange(5 * 4, dtype=np.int32).reshape(5, 4)
    return make_rein(params, [b"one", b"two!", b""], 2, 7, 3, 0xDEADBEEF)


def test_a_rein_holds_params_and_records() -> None:
    back = ReinFile.parse(rein())
    assert back[:6] == (5, 2, 4, 7, 3, 0xDEADBEEF)
    assert np.array_equal(np.stack([back.params(v) for v in range(5)]), np.arange(20).reshape(5, 4))
    assert [bytes(back.record(s)) for s in range(3)] == [b"one", b"two!", b""]
    assert [back.views_of_stripe(s) for s in range(3)] == [2, 2, 1]
    for view in (-1, 5):
        with pytest.raises(StoreError, match="no view"):
            back.params(view)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_rein_is_refused_or_still_a_rein(data: st.DataObject) -> None:
    content = bytearray(rein())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    try:
        back = ReinFile.parse(bytes(content))
        for view in range(min(back.views, 20)):
            assert back.params(view).shape == (back.columns,)
    except StoreError:
        pass


def test_a_rein_that_claims_gigabytes_is_refused() -> None:
    content = bytearray(rein())
    content[6:8] = (65535).to_bytes(2, "little")
    with pytest.raises(StoreError):
        ReinFile.parse(bytes(content))
    frame = bytearray(rein())
    at = frame.index(ReinFile.parse(rein()).parts[0][0].tobytes())
    frame[at + 4 : at + 8] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(StoreError, match="is not of"):
        ReinFile.parse(bytes(frame)).params(0)


def test_the_vector_of_the_format() -> None:
    text = (Path(__file__).parents[2] / "reinforce" / "FORMAT.md").read_text()
    section = text[text.index("## Packs") :]
    vectors = re.findall(r"```\n([0-9a-f \n]+)```", section)[:2]
    for vector, witness in zip(vectors, (None, [0x05060708]), strict=True):
        back = ReinFile.parse(bytes.fromhex(vector))
        assert back[:6] == (2, 64, 4, 1, 5, 0x01020304)
        assert np.array_equal(np.stack([back.params(v) for v in range(2)]), [[1, 2, 3, 4], [5, 6, 7, 8]])
        assert bytes(back.record(0)) == b"record"
        assert back.witness == witness


def test_a_rein_keeps_the_witness_of_each_stripe() -> None:
    params = np.arange(5 * 4, dtype=np.int32).reshape(5, 4)
    made = make_rein(params, [b"one", b"two!", b""], 2, 7, 3, 0xDEADBEEF, [1, 2, 0xFFFFFFFF])
    assert ReinFile.parse(made).witness == [1, 2, 0xFFFFFFFF]
    assert ReinFile.parse(made)[:6] == ReinFile.parse(rein())[:6]
    assert ReinFile.parse(rein()).witness is None
