"""A codec of one's own: one class, one entry in the registry, and the whole product takes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from reinforce.errors import LabelError, StoreError, UsageError
from reinforce.labels.codec import Codec
from reinforce.labels.codecs import CODECS, codec_from_dict, codec_name, parse_codec
from reinforce.labels.label_map import MapCodec
from reinforce.labels.sparse import SparseLabel, check_distributions
from reinforce.labels.topk import TopK
from reinforce.store.store import Store
from reinforce.testing.codecs import check_codec
from tests.conftest import Cli

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Raw(Codec):
    """All probabilities as floats of some bits."""

    bits: int = 32
    name: ClassVar[str] = "raw"
    form: ClassVar[str] = "raw:BITS"
    description: ClassVar[str] = "all probabilities"

    @classmethod
    def parse(cls, option: str) -> Codec:
        if option not in ("", "32", "64"):
            raise UsageError(f"Codec 'raw:{option}' is not valid.", expected="32 or 64")
        return cls(int(option or 32))

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> Codec:
        if options not in ({"bits": 32}, {"bits": 64}):
            raise ValueError
        return cls(options["bits"])

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "bits": self.bits}

    def encode(self, answers: np.ndarray) -> bytes:
        check_distributions(answers)
        return (answers / answers.sum(axis=1, keepdims=True, dtype=np.float64)).astype(f"<f{self.bits // 8}").tobytes()

    def decode(self, record: memoryview | bytes, view: int, num_views: int, num_classes: int) -> SparseLabel:
        return self.decode_all(record, num_views, num_classes)[view]

    def decode_all(self, record: memoryview | bytes, num_views: int, num_classes: int) -> list[SparseLabel]:
        if len(record) != num_views * num_classes * self.bits // 8:
            raise LabelError("A record has the wrong length.", found=len(record))
        rows = np.frombuffer(record, f"<f{self.bits // 8}").reshape(num_views, num_classes).astype(np.float64)
        if not (rows >= 0).all() or not (np.abs(rows.sum(axis=1) - 1) < 1e-5).all():
            raise LabelError("A record does not decode to a distribution.")
        return [SparseLabel(np.arange(num_classes), row.astype(np.float32), 0.0) for row in rows]


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, Raw.name, Raw)


@pytest.mark.process
def test_a_codec_of_ones_own_is_generated_verified_inspected_and_learnt_from(
    registered: None, images: Path, weights: Path, tmp_path: Path, cli: Cli
) -> None:
    teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 32, "--views", 3, "--workers", 0)
    assert cli("generate", "--data", images, *teacher, "--codec", "raw:64", "--out", tmp_path / "raw")[0] == 0
    assert cli("generate", "--data", images, *teacher, "--codec", "topk:3", "--out", tmp_path / "topk")[0] == 0
    assert cli("verify", tmp_path / "raw", "--data", images)[0] == 0
    code, out, _ = cli("inspect", tmp_path / "raw", "--json")
    assert (code, json.loads(out)["codec"]) == (0, {"name": "raw", "bits": 64})
    raw, topk = Store(tmp_path / "raw"), Store(tmp_path / "topk")
    for sample in raw.ok_samples:
        ids, probs, *_ = topk.label_of(int(sample), 2)
        assert np.abs(raw.label_of(int(sample), 2).probs[ids] - probs).max() < 1e-3
    run = ("--student", "test_resnet", "--data", images, "--labels", tmp_path / "raw", "--epochs", 1, "--batch-size", 8)
    assert cli("train", *run, "--workers", 0, "--out", tmp_path / "run")[0] == 0


def test_its_text_and_its_entry_in_a_manifest_are_its_own(registered: None) -> None:
    assert parse_codec("raw") == Raw()
    assert parse_codec(codec_name(Raw(64).to_dict())) == codec_from_dict(Raw(64).to_dict()) == Raw(64)
    with pytest.raises(UsageError, match="32 or 64"):
        parse_codec("raw:7")
    with pytest.raises(StoreError, match="not one this version can read"):
        codec_from_dict({"name": "raw", "bits": 7})


@pytest.mark.parametrize("kind", CODECS.values(), ids=CODECS)
def test_every_codec_reads_back_what_it_says_of_itself(kind: type[Codec]) -> None:
    for codec in [*kind.named().values(), kind.parse("0.2" if kind.name == "sqrt" else "7")]:
        assert codec_from_dict(codec.to_dict()) == codec
        assert parse_codec(codec_name(codec.to_dict())) == codec
    assert kind.form.startswith(kind.name)
    for broken in ({}, {"k": "7"}, {"k": 0}, {"delta": 1}, {"delta": 7.0}, {"k": 3, "delta": 0.1}):
        with pytest.raises(StoreError, match="not one this version can read"):
            codec_from_dict({"name": kind.name, **broken})


OURS = [parse_codec(text) for text in ("sqrt-tiny", "sqrt", "topk:3", "topk:50")]


@pytest.mark.parametrize("codec", [Raw(), Raw(64), *OURS], ids=str)
def test_every_codec_of_soft_labels_keeps_the_laws(codec: Codec) -> None:
    assert not isinstance(codec, MapCodec)
    check_codec(codec)


@dataclass(frozen=True)
class Broken(TopK):  # type: ignore[misc]  # final; here to be broken
    """Top-k, but for one law."""

    law: str = ""

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> Codec:
        return cls(**options)

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "law": self.law, **({"options": {1}} if self.law == "JSON" else {})}

    def encode(self, probs: np.ndarray) -> bytes:
        if self.law == "encodes":
            return super().encode(np.full(probs.shape, 1 / probs.shape[1], np.float32))
        return super().encode(probs) + (np.random.default_rng().bytes(4) if self.law == "second time" else b"")

    def decode(self, record: memoryview | bytes, view: int, num_views: int, num_classes: int) -> SparseLabel:
        return self.decode_all(record, num_views, num_classes)[0 if self.law == "alone" else view]

    def decode_all(self, record: memoryview | bytes, num_views: int, num_classes: int) -> list[SparseLabel]:
        try:
            labels = super().decode_all(record, num_views, num_classes)
        except LabelError:
            if self.law != "not LabelError":
                raise
            raise IndexError from None
        if self.law == "sums to":
            return [label._replace(remainder=label.remainder + 0.1) for label in labels]
        if self.law == "top class":
            return [label._replace(class_ids=label.class_ids[::-1]) for label in labels]
        return [label._replace(probs=-label.probs) for label in labels] if self.law == "probability of" else labels


@pytest.mark.parametrize(
    "law", ["", "JSON", "encodes", "second time", "alone", "not LabelError", "sums to", "probability of", "top class"]
)
def test_a_broken_law_is_named(law: str) -> None:
    codec = Broken(3, law)
    if not law:
        check_codec(codec)
        return
    with pytest.raises((AssertionError, TypeError), match=law):
        check_codec(codec)
