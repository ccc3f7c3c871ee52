"""What the tests of sharing have in common: a small store, the same published, and what else lies beside it then."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.sparse import SparseLabels
from reinforce.sharing.publication import Licences
from reinforce.sharing.publish import publish
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from tests.conftest import make_settings

LICENCES = Licences(labels="cc-by-4.0", images="their owners'")
EXTRA = {"README.md", "croissant.json", "preview.parquet"}


@pytest.fixture(scope="session")
def whole(images: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 samples in 4 blocks, 5 views in 3 stripes."""
    out, source = tmp_path_factory.mktemp("whole") / "labels", ImageFolder.open(images)
    settings = make_settings(source, teacher, stripe_views=2, codec={"name": "sqrt", "delta": 0.1})
    generate(source, teacher, settings, out, Execution(16, 0))
    return out


@pytest.fixture(scope="session")
def published(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published") / "digits"
    publish(whole, str(out), "digits", LICENCES)
    return out


@pytest.fixture
def own(published: Path, tmp_path: Path) -> Path:
    """A copy of what was published, to be tampered with."""
    return Path(shutil.copytree(published, tmp_path / "own"))


def dense(store: Store, sample: int, view: int) -> torch.Tensor:
    return SparseLabels.stack([store.label_of(sample, view)], store.settings.num_classes).dense()[0]
