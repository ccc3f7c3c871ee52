"""`sqrt`: soft labels as steps of sqrt(p) over a dictionary of classes that the views of a sample share.

An error of a given size in sqrt(p) costs the same KL for large and for small p, so one step width delta fits all
probabilities, and the threshold p >= delta^2 / 4 is an adaptive k. The mass that a view does not keep is spread by tail
weights that the views share. Source: FORMAT.md, "Records"; the reasons, and what else was tried: design/sqrt.md.
"""

from __future__ import annotations

import math
import threading
from base64 import b64decode
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, final

import numpy as np
import zstandard

from reinforce.errors import LabelError, UsageError
from reinforce.labels.codec import Codec, class_id_bytes, damaged
from reinforce.labels.records import sqrt_label, sqrt_labels
from reinforce.labels.sparse import MAX_LEVEL, SparseLabel, Tail, check_distributions
from reinforce.labels.sqrt_selection import Kept, choose
from reinforce.labels.sqrt_top import ONE, OTHERS, RISE, Layout, least_biased_one, settle, wrong_tops

_SKIP, _RAISE, _END = 128, 127, 255  # tokens: a gap of 128 classes, what is added to a symbol, end of a view
_END_TOKEN, _ESCAPE = bytes([_END]), b"\0"
MIN_DELTA, MAX_DELTA = 1 / 50, 1 / 2
MAX_CONTENT = 64 << 20
"""Most bytes of a record when decompressed: with 2^24 classes and 65535 views, what they bound could be terabytes."""
_VALUES = tuple((token - _RAISE) ** 2 + OTHERS for token in range(_END))
_NO_IDS, _NO_PROBS = np.empty(0, np.int64), np.empty(0, np.float32)
_FORMAT = zstandard.FORMAT_ZSTD1_MAGICLESS

# Entropy tables from labels of real teachers: a record is too short to contain its own. FORMAT.md has the same bytes.
DICTIONARY = b64decode(
    "N6Qw7MenWhk0EMiSJB3//////w+W/R9Za20jBHd3d3e2EEIIIYQQ+v//////1lprbWutNUIIIXvvLaVMKfPgEPGgVCvTAgAAhIVQ"
    "m9A0KUkZAAAAAAAAAAAAAAAAAAAAAAAAAAAA9GOlIyOD4uHBwaGBgcFgLB4OBwMioUSYmwAAAAEAAAAEAAAACAAAAAIBAQECAQEB"
    "AgEDAQEBAQEBAQIEAQEBAgMCAgIBAgEDAQECAgEBAgIBAQEBAgEDAQECAQECAQECAQEBAgEAAQEBAwMBAQECAgIBAgECAgEBAQED"
    "AgICAgEBAQEBAgECAQECAgIBAgECAgECAQEBAgEBAg=="
)
_PRIOR = zstandard.ZstdCompressionDict(DICTIONARY)


class _Coder(threading.local):
    """zstd's contexts, one pair per thread, because threads cannot share them."""

    def __init__(self) -> None:
        level = zstandard.ZstdCompressionParameters.from_level(
            19, format=_FORMAT, write_content_size=True, write_checksum=False, write_dict_id=False
        )
        self.compressor = zstandard.ZstdCompressor(dict_data=_PRIOR, compression_params=level)
        self.decompress = zstandard.ZstdDecompressor(dict_data=_PRIOR, format=_FORMAT).decompress


_CODER = _Coder()


class _Body(NamedTuple):
    """The parts of a record with D classes in its dictionary."""

    one: float  # value of symbol 1, delta^2
    class_ids: np.ndarray  # int64 [D], rising
    order: np.ndarray  # int64 [D]: positions in the dictionary by falling tail weight; tokens count in this order
    tail: Tail
    remainders: bytes  # [V]
    tokens: bytes  # of all views


@final
@dataclass(frozen=True)
class Sqrt(Codec):
    """Steps of sqrt(p), a dictionary of classes and a tail per sample.

    Attributes:
        delta: Step of sqrt(p), from 1/50 to 1/2.
    """

    delta: float
    name: ClassVar[str] = "sqrt"
    form: ClassVar[str] = "sqrt:DELTA"
    keeps_top: ClassVar[bool] = True
    description: ClassVar[str] = "square roots in steps that you choose, 0.02 to 0.5"

    @property
    def about(self) -> str:
        """See `Codec.about`."""
        return f"square roots in steps of {self.delta:g}, tail known"

    @classmethod
    def parse(cls, option: str) -> Codec:
        """See `Codec.parse`."""
        try:
            delta = float(option)
        except ValueError:
            delta = float("nan")
        if not MIN_DELTA <= delta <= MAX_DELTA:
            expected = f"a number from {MIN_DELTA} to {MAX_DELTA}"
            raise UsageError(f"Codec 'sqrt:{option}' is not valid.", found=f"DELTA = {option!r}", expected=expected)
        return cls(delta)

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> Codec:
        """See `Codec.from_dict`."""
        if options.keys() != {"delta"} or type(options["delta"]) is not float or not MIN_DELTA <= options["delta"] <= MAX_DELTA:
            raise ValueError(f"sqrt has no options {options}")
        return cls(options["delta"])

    @classmethod
    def named(cls) -> dict[str, Codec]:
        """See `Codec.named`."""
        return {"sqrt-tiny": cls(0.18), "sqrt": cls(0.1), "sqrt-high": cls(0.07), "sqrt-near": cls(0.04)}

    def encode(self, probs: np.ndarray) -> bytes:
        """See `Codec.encode`."""
        check_distributions(probs)
        exact = probs.astype(np.float64)
        exact /= exact.sum(axis=1, keepdims=True)
        top = exact.argmax(axis=1)
        kept = choose(exact, self.delta)
        flat = np.zeros(len(probs), bool)
        # A view of which nothing is kept has the top class of the tail. Keeping a class there changes the tail of other views.
        while (lost := self._lost(kept, top, probs.shape[1])).any():
            flat |= lost
            kept = choose(exact, self.delta, flat)
        content = self._pack(exact, kept, top)
        if len(content) > MAX_CONTENT:
            raise LabelError(
                "The labels of a sample are too large to be read again.",
                found=f"{len(content)} bytes of {len(probs)} views and {probs.shape[1]} classes",
                expected=f"at most {MAX_CONTENT} bytes",
                fix="fewer views in a stripe, or another codec",
            )
        return _CODER.compressor.compress(content)

    def _lost(self, kept: Kept, top: np.ndarray, num_classes: int) -> np.ndarray:
        """The views of which nothing is kept and whose tail has another top class than `top`: bool `[V]`."""
        views = np.flatnonzero(kept.symbols.sum(axis=1) == 0)
        lost = np.zeros(len(top), bool)
        if len(views):
            layout = self._layout(kept, 1.0, num_classes)
            lost[views] = wrong_tops(layout, top[views], kept.symbols[views], np.zeros(len(views), np.int64))
        return lost

    def _layout(self, kept: Kept, one: float, num_classes: int) -> Layout:
        weights, floor = 2.0 ** -_levels(kept.weights, self.delta).astype(float), 2.0 ** (-self._floor(kept) / 4)
        return Layout(kept.class_ids, weights, floor, one, np.array(self._remainders), num_classes)

    def _floor(self, kept: Kept) -> int:
        return int(np.rint(4 * np.log2(self.delta**2 / 4 / kept.floor)).clip(0, 255))

    def _pack(self, probs: np.ndarray, kept: Kept, top: np.ndarray) -> bytes:
        levels, remainders = _levels(kept.weights, self.delta), np.array(self._remainders)
        layout = self._layout(kept, kept.one, probs.shape[1])
        symbols, steps = settle(layout, probs, kept.symbols, self.delta)
        one = least_biased_one(probs, kept.class_ids, symbols, 1 - remainders[steps], kept.one)
        symbols, steps = settle(layout._replace(one=one / ONE), probs, symbols, self.delta)
        order = levels.argsort(kind="stable")
        id_steps = _id_steps(kept.class_ids)
        header = bytes([self._floor(kept), one]) + len(id_steps).to_bytes(class_id_bytes(probs.shape[1]), "little")
        symbols = symbols[:, order]
        tokens = b"".join(map(_tokens, symbols, _marks(symbols, kept.class_ids[order] == top[:, None])))
        record: bytes = header + id_steps + levels.tobytes() + steps.astype(np.uint8).tobytes() + tokens
        return record

    def decode(self, record: memoryview | bytes, view: int, num_views: int, num_classes: int) -> SparseLabel:
        """See `Codec.decode`."""
        if not 0 <= view < num_views:
            raise _broken(f"no view {view} among {num_views}")
        decompress = _CODER.decompress
        if label := sqrt_label(record, view, num_views, num_classes, MAX_CONTENT, decompress, self._remainder_bytes):
            return label
        body = _open(record, num_views, num_classes)
        # Search from the nearer end of the record; nothing follows the last end token.
        if 2 * view < num_views:
            tokens = body.tokens.split(_END_TOKEN, view + 1)[view]
        else:
            tokens = body.tokens.rsplit(_END_TOKEN, num_views - view + 1)[-2 - (num_views - 1 - view)]
        return self._label(body, tokens, body.remainders[view], num_classes)

    def decode_all(self, record: memoryview | bytes, num_views: int, num_classes: int) -> list[SparseLabel]:
        """See `Codec.decode_all`."""
        decompress = _CODER.decompress
        if labels := sqrt_labels(record, num_views, num_classes, MAX_CONTENT, decompress, self._remainder_bytes):
            return labels
        body = _open(record, num_views, num_classes)
        views = zip(body.tokens.split(_END_TOKEN), body.remainders, strict=False)  # nothing follows the last end token
        return [self._label(body, tokens, step, num_classes) for tokens, step in views]

    def _label(self, body: _Body, tokens: bytes, step: int, num_classes: int) -> SparseLabel:
        places: list[int] = []
        values: list[float] = []
        place, highest, first = -1, 0.0, 0
        try:
            # A view has about a dozen tokens: a loop is faster than arrays.
            for token in tokens:
                if token < _SKIP:
                    place += token + 1
                    places.append(place)
                    values.append(body.one)
                elif token > _SKIP:
                    values[-1] = value = _VALUES[token]
                    if value > highest:
                        highest, first = value, len(values) - 1
                else:
                    place += _SKIP
            class_ids = body.class_ids[body.order[places]] if places else _NO_IDS
        except IndexError:
            raise _broken("a token that leads out of the dictionary") from None
        if not places:
            return SparseLabel(_NO_IDS, _NO_PROBS, 1.0, body.tail)
        if highest:
            values[first] += RISE
        remainder = self._remainders[step] if len(places) < num_classes else 0.0
        probs = np.array(values, np.float32)
        probs *= (1 - remainder) / sum(values)
        return SparseLabel(class_ids, probs, remainder, body.tail)

    @cached_property
    def _remainders(self) -> list[float]:
        """Decoded remainder of each step of arcsin(sqrt(r)): the mean of r over the step, which keeps it unbiased."""
        step = self.delta / 3
        return [0.5 - 0.5 * math.cos(2 * step * i) * math.sin(step) / step for i in range(256)]

    @cached_property
    def _remainder_bytes(self) -> bytes:
        return np.array(self._remainders).tobytes()

    def to_dict(self) -> dict[str, Any]:
        """See `Codec.to_dict`."""
        return {"name": self.name, "delta": self.delta}


def _open(record: memoryview | bytes, num_views: int, num_classes: int) -> _Body:
    try:
        size = zstandard.get_frame_parameters(record, format=_FORMAT).content_size
        most = min(64 + 3 * num_classes + num_views * (3 * num_classes + 2), MAX_CONTENT)
        if size > most:  # checked first, as zstd trusts this number
            raise _broken(f"a content of {size} bytes")
        body = _CODER.decompress(record, allow_extra_data=False)
        start = 2 + class_id_bytes(num_classes)
        end = start + int.from_bytes(body[2:start], "little")
        array = np.frombuffer(body, np.uint8)
        steps = array[start:end]
        if body.find(_ESCAPE, start, end) < 0:
            class_ids = np.add.accumulate(steps, dtype=np.int64)
        else:
            class_ids = np.add.accumulate(np.where(steps, steps, 255), dtype=np.int64)[steps > 0]
        class_ids -= 1
        levels = array[end : end + len(class_ids)]
        one = body[1] / ONE
    except (zstandard.ZstdError, ValueError, IndexError) as error:
        raise _broken(str(error)) from None
    end += len(levels)
    tokens = body[end + num_views :]
    if len(class_ids) and class_ids[-1] >= num_classes:
        raise _broken(f"class id {class_ids[-1]} of {num_classes} classes")
    if tokens.count(_END_TOKEN) != num_views or tokens[-1] != _END or not one:
        raise _broken(f"{tokens.count(_END_TOKEN)} ends of views for {num_views} views, symbol 1 = {one}")
    tail = Tail(class_ids, levels, 2.0 ** (-body[0] / 4))
    return _Body(one, class_ids, levels.argsort(kind="stable"), tail, body[end : end + num_views], tokens)


def _broken(found: str) -> LabelError:
    return damaged("A record cannot be decoded.", found, "a `sqrt` record as in FORMAT.md")


def _levels(weights: np.ndarray, delta: float) -> np.ndarray:
    """Levels of tail weights: how many times delta^2 / 4 is halved to get each one, uint8 `[D]`."""
    return np.rint(np.log2(delta**2 / 4 / weights)).clip(0, MAX_LEVEL).astype(np.uint8)


def _id_steps(class_ids: np.ndarray) -> bytes:
    """Class ids as steps from one to the next, the first one from -1; a byte 0 adds 255 to the step that follows it."""
    steps = np.diff(class_ids, prepend=-1).tolist()
    return b"".join(_ESCAPE * ((step - 1) // 255) + bytes([(step - 1) % 255 + 1]) for step in steps)


def _tokens(symbols: np.ndarray, mark: int) -> bytes:
    """Tokens of one view, from its symbols in the order of the dictionary, `[D]`; `mark` is the place to mark, or -1."""
    tokens = bytearray()
    places = np.flatnonzero(symbols)
    gaps = (np.diff(places, prepend=-1) - 1).tolist()
    for place, gap, symbol in zip(places.tolist(), gaps, symbols[places].tolist(), strict=True):
        tokens += bytes([_SKIP]) * (gap // _SKIP) + bytes([gap % _SKIP])
        if place == mark:
            tokens.append(symbol + 1 + _RAISE)
        if symbol > 1:
            tokens.append(symbol + _RAISE)
    return bytes(tokens) + _END_TOKEN


def _marks(symbols: np.ndarray, is_top: np.ndarray) -> list[int]:
    """The place of each view's top class, where another one would have the rise; -1 elsewhere. Of `[V, D]`, both."""
    if not symbols.shape[1]:
        return [-1] * len(symbols)
    place = is_top.argmax(axis=1)
    marks: list[int] = np.where((symbols.max(axis=1) > 1) & (symbols.argmax(axis=1) != place), place, -1).tolist()
    return marks
