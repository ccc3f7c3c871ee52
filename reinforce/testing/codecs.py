"""The laws of a codec of soft labels: any answers of a teacher decode to distributions, and damage gives an error."""

from __future__ import annotations

import json
from itertools import product

import numpy as np

from reinforce.errors import LabelError
from reinforce.labels.codec import Codec
from reinforce.labels.sparse import SparseLabel, SparseLabels
from reinforce.testing.law import require
from reinforce.views.seeds import view_rng

SHARPNESS = ("one-hot", "sharp", "soft", "flat", "tied", "uniform")
_TOLERANCE = 1e-5


def answers_like(sharpness: str, views: int, classes: int, seed: int = 0) -> np.ndarray:
    """Possible answers of a teacher: float32 `[views, classes]`, each row a distribution; `sharpness` is one of `SHARPNESS`."""
    rng = view_rng(seed, 0, 0)
    rows: np.ndarray
    if sharpness == "one-hot":
        rows = np.zeros((views, classes), np.float32)
        rows[np.arange(views), rng.integers(0, classes, views)] = 1
        return rows
    if sharpness == "uniform":
        return np.full((views, classes), 1 / classes, np.float32)
    if sharpness == "flat":  # nearly uniform, each view with a top class of its own
        rows = 1 + 1e-3 * rng.random((views, classes))
        rows /= rows.sum(axis=1, keepdims=True)
        return rows.astype(np.float32)
    if sharpness == "tied":  # two top classes, equal in every other view, nearly equal in the rest
        rows = rng.dirichlet(np.full(classes, 0.05), views).astype(np.float32) + np.float32(1e-6)
        each = np.arange(views)
        rows[each, rng.integers(0, classes, views)] = rows.max(axis=1) * np.where(each % 2, 1 + 1e-6, 1).astype(np.float32)
        rows /= rows.sum(axis=1, keepdims=True)
        return rows
    concentration = {"sharp": 0.01, "soft": 1.0}[sharpness]
    return rng.dirichlet(np.full(classes, concentration), views).astype(np.float32)


def check_codec(codec: Codec, seed: int = 0, classes: tuple[int, ...] = (1, 2, 10, 1000)) -> None:
    """Check that a codec of soft labels keeps its laws.

    Decoded labels are distributions; `decode` and `decode_all` give the same label; equal answers give equal bytes; answers
    that are not distributions are refused; where `keeps_top`, the top class is the teacher's in every view; a damaged record
    gives a `LabelError` or distributions, never anything else; `to_dict` gives JSON, and `from_dict` reads it.

    Args:
        codec: The codec, with its options.
        seed: Seed of the answers and of the damage that are tried.
        classes: Numbers of classes that are tried.

    Raises:
        AssertionError: names the broken law.
    """
    config = codec.to_dict()
    require(json.loads(json.dumps(config)) == config, f"{codec}: `to_dict` is not JSON: {config}")
    require(config.get("name") == codec.name, f"{codec}: `to_dict` names {config.get('name')!r}, not {codec.name!r}")
    options = {key: value for key, value in config.items() if key != "name"}
    require(type(codec).from_dict(options).to_dict() == config, f"{codec}: `from_dict` reads something else than {options}")
    for sharpness, count, views in product(SHARPNESS, classes, (1, 5)):
        answers = answers_like(sharpness, views, count, seed)
        said = f"{codec}, {views} {sharpness} labels of {count} classes"
        record = codec.encode(answers)
        require(record == codec.encode(answers.copy()), f"{said}: other bytes the second time")
        labels = codec.decode_all(record, views, count)
        _check_labels(labels, views, count, said)
        if codec.keeps_top:
            _check_top(labels, answers, said)
        _check_each(codec, record, views, count, said)
        _check_damage(codec, record, views, count, seed, said)
    _check_refusals(codec)


def _check_each(codec: Codec, record: bytes, views: int, classes: int, said: str) -> None:
    together = codec.decode_all(record, views, classes)
    for view, label in enumerate(together):
        for given in (record, memoryview(record)):
            alone = codec.decode(given, view, views, classes)
            same = np.array_equal(alone.class_ids, label.class_ids) and np.array_equal(alone.probs, label.probs)
            require(same and alone.remainder == label.remainder, f"{said}: view {view} alone decodes to something else")


def _check_labels(labels: list[SparseLabel], views: int, classes: int, said: str) -> None:
    require(len(labels) == views, f"{said}: {len(labels)} labels are decoded")
    for view, (ids, probs, remainder, _) in enumerate(labels):
        known = not len(ids) or (int(ids.min()) >= 0 and int(ids.max()) < classes)
        require(known and len(set(ids.tolist())) == len(ids), f"{said}: view {view} has a class twice, or one that is none")
        least = min(float(probs.min(initial=0)), float(remainder))
        require(least >= 0, f"{said}: view {view} has a probability of {least}")
        total = float(probs.sum(dtype=np.float64)) + float(remainder)
        require(abs(total - 1) <= _TOLERANCE, f"{said}: view {view} sums to {total}")
    dense = SparseLabels.stack(labels, classes).dense().numpy()
    off = float(np.abs(dense.sum(axis=1, dtype=np.float64) - 1).max())
    require(dense.shape == (views, classes) and dense.min() >= 0 and off <= _TOLERANCE, f"{said}: dense rows are off by {off}")


def _check_top(labels: list[SparseLabel], answers: np.ndarray, said: str) -> None:
    decoded, true = SparseLabels.stack(labels, answers.shape[1]).dense().numpy().argmax(axis=1), answers.argmax(axis=1)
    wrong = np.flatnonzero(decoded != true)
    view = int(wrong[0]) if len(wrong) else 0
    require(not len(wrong), f"{said}: view {view} has the top class {decoded[view]}, the teacher's is {true[view]}")


def _check_damage(codec: Codec, record: bytes, views: int, classes: int, seed: int, said: str) -> None:
    rng = view_rng(seed, views, classes)
    damaged = [record[:-1], record + b"\0", b""]
    for _ in range(8 if record else 0):
        changed = bytearray(record)
        changed[int(rng.integers(len(record)))] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(changed))
    for each in damaged:
        if each == record:
            continue
        try:
            labels = codec.decode_all(each, views, classes)
        except LabelError:
            continue
        except Exception as error:
            raise AssertionError(f"{said}: a damaged record gives {type(error).__name__}, not LabelError: {error}") from error
        _check_labels(labels, views, classes, f"{said}, a damaged record")


def _check_refusals(codec: Codec) -> None:
    good = answers_like("soft", 3, 10)
    for what, bad in (("NaN", good * np.nan), ("negative values", good - 0.5), ("rows that sum to two", good * 2)):
        try:
            codec.encode(bad.astype(np.float32))
        except LabelError:
            continue
        raise AssertionError(f"{codec}: encodes {what} instead of a LabelError")
