"""Records decoded in C give the same labels as by the Python code, bit for bit, and the same records are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.errors import LabelError
from reinforce.labels import records
from reinforce.labels.codec import Codec
from reinforce.labels.sparse import SparseLabel
from reinforce.labels.sqrt import _CODER, MAX_DELTA, MIN_DELTA, Sqrt
from reinforce.labels.topk import TopK
from tests.labels.conftest import rows_like

pytestmark = pytest.mark.unit

BUILT = records.compiled is not None
built = pytest.mark.skipif(not BUILT, reason="nothing was compiled here")
KINDS = ("one-hot", "uniform", "one class for all", "sharp", "soft", "views of an image")
codecs = st.floats(MIN_DELTA, MAX_DELTA).map(Sqrt) | st.sampled_from([1, 2, 10, 50, 1000]).map(TopK)


def bits(label: SparseLabel) -> Any:
    """All of a label, so that only equal bits are equal."""
    ids, probs, remainder, (tail_ids, levels, floor) = label
    assert type(label) is SparseLabel
    arrays = [(each.dtype.str, each.shape, each.tobytes()) for each in (ids, probs, tail_ids, levels)]
    return arrays, type(remainder), float(remainder).hex(), type(floor), floor.hex()


def outcome(decode: Callable[[], list[SparseLabel]]) -> Any:
    try:
        return [bits(label) for label in decode()]
    except LabelError as error:
        return str(error)


def check_both(codec: Codec, record: bytes, views: int, classes: int, view: int) -> list[bool]:
    """Whether the record was refused: of all views, and of one."""
    refused = []
    for decode in (
        lambda: codec.decode_all(memoryview(record), views, classes),
        lambda: [codec.decode(record, view, views, classes)],
    ):
        compiled, found, called = records.compiled, outcome(decode), Recorder()
        try:
            records.compiled = called  # type: ignore[assignment]
            assert outcome(decode) == found
            records.compiled = None
            assert outcome(decode) == found
        finally:
            records.compiled = compiled
        refused.append(isinstance(found, str))
        # What is refused is refused by the compiled code too, and not by the Python code behind it alone.
        assert called.answers in (([], [True]) if refused[-1] else ([False],))
    return refused


class Recorder:
    """The compiled functions, and whether they gave None."""

    def __init__(self) -> None:
        self.answers: list[bool] = []
        self._compiled = records.compiled

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            read = getattr(self._compiled, name)(*given)
            self.answers.append(read is None)
            return read

        return call


@built
@settings(max_examples=150, deadline=None)
@given(codecs, st.sampled_from(KINDS), st.integers(1, 70), st.sampled_from([1, 2, 3, 50, 256, 1000, 66000]), st.data())
def test_labels_are_the_same_bit_for_bit(codec: Codec, kind: str, views: int, classes: int, data: st.DataObject) -> None:
    views = views if classes <= 1000 else 1 + views % 3
    record = codec.encode(rows_like(kind, views, classes, data.draw(st.integers(0, 2**32))))
    assert check_both(codec, record, views, classes, data.draw(st.integers(0, views - 1))) == [False, False]


few = st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, 5, 126, 127, 128, 129, 130, 131, 200, 253, 254]), max_size=8)
most = st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0, 0, 129, 130, 254])), max_size=5).map(
    lambda pairs: [token for gap, raised in pairs for token in ([gap, raised] if raised else [gap])]
)
id_steps = st.lists(st.integers(1, 3) | st.sampled_from([0, 0, 255, 40]), max_size=12)


@st.composite
def contents(draw: st.DrawFn) -> tuple[bytes, int, int]:
    """Contents that are as they should be, or nearly; views, classes."""
    views, classes = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 5, 40, 1000, 65536, 65537, 1 << 24]))
    steps = bytes(draw(id_steps))
    count = sum(step > 0 for step in steps)
    length = len(steps) + draw(st.sampled_from([0] * 12 + [-1, 1, 300]))
    head = bytes([draw(st.integers(0, 255)), draw(st.sampled_from([1, 100, 128, 255, 128, 128, 0]))])
    head += max(length, 0).to_bytes(2 if classes <= 65536 else 4, "little")
    levels = bytes(draw(st.lists(st.sampled_from([0, 1, 7, 63, 64, 255]), min_size=count, max_size=count)))
    remainders = draw(st.binary(min_size=views, max_size=views))
    tokens = b"".join(bytes(draw(most | few)) + b"\xff" for _ in range(views))
    content = bytearray(head + steps + levels + remainders + tokens)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.sampled_from([0, 1, 127, 128, 129, 254, 255]))
    cut = draw(st.sampled_from([0] * 9 + [1, 2]))
    return bytes(content[: len(content) - cut]) + draw(st.sampled_from([b""] * 9 + [b"\xff", b"\0"])), views, classes


@built
@settings(max_examples=600, deadline=None)
@given(contents(), st.sampled_from([MIN_DELTA, 0.1, MAX_DELTA]), st.integers(0, 3))
def test_any_content_is_read_or_refused_alike(given_: tuple[bytes, int, int], delta: float, view: int) -> None:
    content, views, classes = given_
    check_both(Sqrt(delta), _CODER.compressor.compress(content), views, classes, view % views)


@built
@pytest.mark.parametrize("codec", [Sqrt(0.1), TopK(4), TopK(300)])
def test_damage_is_refused_alike(codec: Codec) -> None:
    rng, refused = np.random.default_rng(3), Counter[bool]()
    for seed in range(60):
        views, classes = int(rng.integers(1, 9)), int(rng.choice([3, 40, 70000]))
        if codec == TopK(300) and classes > 40:
            continue
        record = codec.encode(rows_like("views of an image", views, classes, seed))
        content = _CODER.decompress(record) if isinstance(codec, Sqrt) else record
        for _ in range(20):
            changed = bytearray(content)
            for place in rng.integers(0, len(content), rng.integers(1, 3)):
                changed[place] = rng.choice([0, 1, 127, 128, 129, 254, 255, changed[place] ^ 1 << int(rng.integers(8))])
            if rng.integers(5) == 0:
                del changed[int(rng.integers(len(changed))) :]
            given_ = _CODER.compressor.compress(bytes(changed)) if isinstance(codec, Sqrt) else bytes(changed)
            refused.update(check_both(codec, given_, views, classes, int(rng.integers(views))))
    assert min(refused[True], refused[False]) > 200


@built
@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 2, 4, 70000]), st.data())
def test_any_half_floats_are_read_or_refused_alike(views: int, k: int, classes: int, data: st.DataObject) -> None:
    kept, width = min(k, classes), 2 if classes <= 65536 else 4
    ids = data.draw(st.lists(st.permutations(range(4)).map(lambda p: p[:kept]), min_size=views, max_size=views))
    some = st.sampled_from([0, 1, 0x3FF, 0x400, 0x3400, 0x3800, 0x3C00, 0x3C01, 0x7C00, 0x7E00, 0x8000, 0x8001, 0xFC00])
    halves = data.draw(st.lists(some | st.integers(0, 0x3400), min_size=views * kept, max_size=views * kept))
    record = b"".join(int(i).to_bytes(width, "little") for row in ids for i in row) + np.array(halves, "<u2").tobytes()
    check_both(TopK(k), record, views, classes, data.draw(st.integers(0, views - 1)))


@built
def test_every_half_float_is_the_one_of_numpy() -> None:
    halves = np.arange(0x10000, dtype="<u2").reshape(-1, 1)
    valid = [int(h[0]) for h in halves if h[0] <= 0x3C00 or h[0] == 0x8000]
    assert records.compiled is not None
    read = [records.compiled.topk(b"\0\0" + h.tobytes(), 0, 1, 1, 2, 1) for h in halves]
    assert [h for h, found in enumerate(read) if found is not None] == valid
    good = bytes(2 * len(valid)) + np.array(valid, "<u2").tobytes()
    assert check_both(TopK(1), good, len(valid), 2, 0) == [False, False]


@built
@settings(max_examples=500, deadline=None)
@given(
    st.binary(min_size=1, max_size=16),
    st.sampled_from([0x60, 0x20, 0xA0, 0xE0, 0x40, 0x00, 0x63, 0x68, None]),
    st.integers(1, 400),
)
def test_a_frame_is_opened_only_if_it_states_a_size_that_is_allowed(frame: bytes, head: int | None, most: int) -> None:
    frame = frame if head is None else bytes([head]) + frame[1:]
    opened: list[Any] = []

    def decompress(*given_: Any) -> bytes:
        opened.append(given_)
        return b""

    assert records.compiled is not None
    assert records.compiled.sqrt(frame, 0, 1, 1, 1000, most, decompress, bytes(8 * 256)) is None
    try:
        size = zstandard.get_frame_parameters(frame, format=zstandard.FORMAT_ZSTD1_MAGICLESS).content_size
    except zstandard.ZstdError:
        return  # zstd opens no such frame
    assert opened == ([(frame, 0, False, False)] if size <= most else [])


def interrupted(*_: object) -> bytes:
    raise KeyboardInterrupt


@built
def test_what_is_no_such_call_is_refused() -> None:
    remainders, compiled = bytes(8 * 256), records.compiled
    assert compiled is not None
    for numbers in (
        (0, 0, 1, 2),
        (0, 2, 1, 2),
        (-1, 1, 1, 2),
        (1, 1, 1, 2),
        (0, 1, 1, 0),
        (0, 1, 1, 1 << 60),
        (2**62, 2**62, 9, 9),
    ):
        assert compiled.sqrt(b"", *numbers, 99, bytes, remainders) is None
        assert compiled.topk(b"\0\0\0\0", *numbers, 1) is None
    for k in (0, 3, -1):
        assert compiled.topk(b"", 0, 1, 1, 2, k) is None
    with pytest.raises(ValueError, match="another size"):
        compiled.sqrt(b"", 0, 1, 1, 2, 99, bytes, remainders[1:])
    with pytest.raises(KeyboardInterrupt):
        compiled.sqrt(b"\x20\x02", 0, 1, 1, 2, 99, interrupted, remainders)
    more: dict[str, tuple[Any, ...]] = {"sqrt": (99, lambda *_: b"ab", remainders), "topk": (1,)}
    for name, others in more.items():
        good = (b"\x20\x02", 0, 1, 1, 2, *others)
        assert getattr(compiled, name)(*good) is None
        for place in [0, 1, 2, 3, 4, 5, *[6, 7] * (name == "sqrt")]:
            for wrong in ("2", None, 2**70):
                if place != 6:
                    with pytest.raises((TypeError, OverflowError)):
                        getattr(compiled, name)(*good[:place], wrong, *good[place + 1 :])
        with pytest.raises(TypeError, match="another number"):
            getattr(compiled, name)(*good, 1)


@pytest.mark.process
@pytest.mark.parametrize("value", ["numpy", *[""] * BUILT])
def test_the_environment_may_leave_it_out(value: str) -> None:
    code = "from reinforce.labels import records; print(records.compiled is None)"
    env = {**os.environ, "REINFORCE_KERNELS": value}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(value == "numpy"), done.stderr
