"""What the tests of packs have in common: stores by two policies, and each of them packed into small shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.sparse import SparseLabels
from reinforce.packs.pack import Options, pack
from reinforce.sources.folder import ImageFolder
from reinforce.sources.open_source import open_source
from reinforce.sources.shards import Shards
from reinforce.teachers.teacher import Teacher
from reinforce.views.policy_text import parse_policy
from tests.conftest import make_settings

SMALL = Options(shard_bytes=30_000)
POLICIES = {"alone": "rrc-ra", "mixed": "usi"}


@pytest.fixture(scope="session")
def labels(images: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """24 samples in 4 blocks, 5 views in 3 stripes, by one policy or another; or label maps."""
    source, made = ImageFolder.open(images), {}

    def one(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "labels"
            changes = {"policy": parse_policy(POLICIES[kind]), "stripe_views": 2, "codec": {"name": "sqrt", "delta": 0.1}}
            generate(source, teacher, make_settings(source, teacher, **changes), made[kind], Execution(16, 0))
        return made[kind]

    return one


@pytest.fixture(scope="session")
def packs(labels: Callable[[str], Path], images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def one(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("pack") / kind
            pack(ImageFolder.open(images), labels(kind), made[kind], SMALL)
        return made[kind]

    return one


def open_shards(data: Path) -> Shards:
    source = open_source(data)
    assert isinstance(source, Shards)
    return source


def dense(store: Any, sample: int) -> torch.Tensor:
    return SparseLabels.stack(store.labels_of(sample), store.settings.num_classes).dense()
