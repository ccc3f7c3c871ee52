"""Rows of probabilities for codecs, and a store of label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.sparse import SparseLabel, SparseLabels
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.teacher import Teacher
from reinforce.views.policy_text import parse_policy
from tests.conftest import make_settings

MAP_SIZE = 96  # the teacher's strides make a grid of 3 x 3 of it


def one_hot(ids: np.ndarray, classes: int) -> np.ndarray:
    rows = np.zeros((len(ids), classes), np.float32)
    rows[np.arange(len(ids)), ids] = 1
    return rows


def rows_like(kind: str, views: int, classes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "one-hot":
        return one_hot(rng.integers(0, classes, views), classes)
    if kind == "one class for all":
        return one_hot(np.full(views, rng.integers(0, classes)), classes)
    if kind == "uniform":
        return np.full((views, classes), 1 / classes, np.float32)
    if kind == "views of an image":  # as teachers have it: the views share a few likely classes and differ in which
        image, tail = rng.normal(0, 3, classes), rng.normal(0, 1, classes)
        logits = image + tail + rng.normal(0, 1.5, (views, classes))
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        return (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)
    concentration = {"sharp": 0.01, "soft": 1.0}[kind]
    return rng.dirichlet(np.full(classes, concentration), views).astype(np.float32)


def dense(label: SparseLabel, num_classes: int) -> np.ndarray:
    return SparseLabels.stack([label], num_classes).dense()[0].double().numpy()


def map_settings(source: Any, teacher: Any, **changes: Any) -> Any:
    codec = {"name": "map", "k": 2}
    return make_settings(source, teacher, policy=parse_policy("whole"), size=MAP_SIZE, views=1, codec=codec, **changes)


@pytest.fixture(scope="session")
def maps(images: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maps") / "labels"
    source = ImageFolder.open(images)
    generate(source, teacher, map_settings(source, teacher), out, Execution(batch_size=16, workers=0))
    return out
