"""Damaged and forged records of the `sqrt` codec: what hostile bytes can do (nothing)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import zstandard

from reinforce.errors import LabelError
from reinforce.labels import sqrt
from reinforce.labels.sparse import SparseLabels
from reinforce.labels.sqrt import Sqrt
from tests.labels.conftest import rows_like

pytestmark = pytest.mark.unit

VIEWS, CLASSES = 6, 40


def body_of(record: bytes) -> bytes:
    return sqrt._CODER.decompress(record)


def record_of(body: bytes) -> bytes:
    return sqrt._CODER.compressor.compress(body)


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


def test_no_change_of_a_byte_makes_anything_but_a_distribution_or_an_error(record: bytes) -> None:
    body = body_of(record)
    refused = 0
    for place in range(len(record)):
        for value in (0, 1, 127, 128, 254, 255, record[place] ^ 0x55):
            refused += assert_refused_or_a_distribution(record[:place] + bytes([value]) + record[place + 1 :])
    for place in range(len(body)):
        for value in (0, 1, 127, 128, 129, 254, 255, body[place] ^ 0x55):
            refused += assert_refused_or_a_distribution(record_of(body[:place] + bytes([value]) + body[place + 1 :]))
    assert refused > 100


def test_a_shortened_or_lengthened_record_is_refused(record: bytes) -> None:
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
def test_forged_records_are_refused_with_what_is_wrong(record: Any, found: str) -> None:
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
def test_a_view_that_is_not_there_is_refused(record: bytes, view: int) -> None:
    with pytest.raises(LabelError):
        Sqrt(0.1).decode(record, view, VIEWS, CLASSES)


def test_a_frame_that_claims_gigabytes_is_refused_before_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_content_that_many_classes_would_allow_is_still_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """2^24 classes and 65535 views allow terabytes; 64 MiB are read, and no more are written."""
    assert sqrt.MAX_CONTENT == 64 << 20
    with pytest.raises(LabelError, match=f"a content of {(64 << 20) + 1} bytes"):
        Sqrt(0.1).decode_all(record_of(bytes((64 << 20) + 1)), 65535, 1 << 24)
    rows = rows_like("views of an image", VIEWS, CLASSES, 2)
    content = len(body_of(Sqrt(0.1).encode(rows)))
    monkeypatch.setattr(sqrt, "MAX_CONTENT", content)
    assert len(Sqrt(0.1).decode_all(Sqrt(0.1).encode(rows), VIEWS, CLASSES)) == VIEWS
    monkeypatch.setattr(sqrt, "MAX_CONTENT", content - 1)
    with pytest.raises(LabelError, match="too large to be read again"):
        Sqrt(0.1).encode(rows)
