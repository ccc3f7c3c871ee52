"""Stripes: the first views of a data set are files of their own, the same that a data set of so many views has."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reinforce.errors import StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.sparse import SparseLabels
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.settings import read_model
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import Block
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.verification.verify import require, verify_labels, verify_pixels, verify_store
from tests.conftest import Cli, make_settings

pytestmark = pytest.mark.unit

CODECS = ({"name": "topk", "k": 2}, {"name": "sqrt", "delta": 0.1})


@pytest.fixture(scope="module", params=CODECS, ids=lambda c: c["name"])
def make(
    request: pytest.FixtureRequest, images: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    source, made = ImageFolder.open(images), {}

    def one(views: int, stripe_views: int, policy: str = "rrc-ra") -> Path:
        key = (views, stripe_views, policy)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("stripes") / "labels"
            from reinforce.views.policy_text import parse_policy

            changes = {"views": views, "stripe_views": stripe_views, "codec": request.param, "policy": parse_policy(policy)}
            generate(source, teacher, make_settings(source, teacher, **changes), made[key], Execution(16, 0))
        return made[key]

    return one


def dense(store: Store, sample: int) -> torch.Tensor:
    return SparseLabels.stack(store.labels_of(sample), store.settings.num_classes).dense()


def test_one_view_decodes_to_what_all_views_decode_to(make: Callable[..., Path]) -> None:
    store = Store(make(5, 2))
    for sample in range(len(store.samples)):
        every = dense(store, sample)
        for view in range(5):
            own = SparseLabels.stack([store.label_of(sample, view)], 3).dense()[0]
            assert torch.equal(own, every[view])


def test_stripes_change_neither_params_nor_pixels(make: Callable[..., Path], images: Path) -> None:
    striped, whole = Store(make(5, 2)), Store(make(5, 64))
    assert len(striped.block(0).stripes) == 3
    for sample in range(len(whole.samples)):
        for view in range(5):
            assert np.array_equal(striped.params_of(sample, view), whole.params_of(sample, view))
        if striped.codec.to_dict()["name"] == "topk":
            assert torch.equal(dense(striped, sample), dense(whole, sample))
    assert np.array_equal(striped.block(1).params(), whole.block(1).params())
    require([*verify_store(striped.root), *verify_pixels(ReinforcedDataset(striped.root, images), 120, 0)])


@pytest.mark.parametrize("policy", ["rrc-ra", "usi"])
def test_the_first_stripes_are_the_files_of_a_smaller_data_set(make: Callable[..., Path], policy: str) -> None:
    """What makes a part of a data set as good as one that was generated so."""
    large, small = make(5, 2, policy), make(4, 2, policy)
    files = sorted(p.relative_to(small) for p in small.glob("blocks/*/*/**/*") if p.is_file())
    kinds = {f.parts[2] for f in files}
    assert {"records", "offsets", "params", "records_1", "offsets_1", "params_1", "probes"} <= kinds
    for file in files:
        if file.parts[2] != "label_error":
            assert (large / file).read_bytes() == (small / file).read_bytes(), file
    assert not list(small.glob("blocks/*/params_2"))
    assert list(large.glob("blocks/*/params_2"))


def test_the_teacher_agrees_with_striped_labels(make: Callable[..., Path], images: Path, teacher: Teacher) -> None:
    check = verify_labels(ReinforcedDataset(make(5, 2), images), teacher, 60, 16)
    assert not check.failed, check.failures


def test_a_damaged_later_stripe_is_found_and_named(make: Callable[..., Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(make(5, 2), tmp_path / "labels"))
    (root / "blocks/000001.zarr/records_2/c/0").write_bytes(b"short")
    assert any("records_2" in failure for check in verify_store(root) for failure in check.failures)
    store = Store(root)
    sample = int(store.samples_of(1)[0])
    store.label_of(sample, 3)
    with pytest.raises(StoreError, match="records_2/c/0 is not a file of"):
        store.label_of(sample, 4)
    shutil.rmtree(root / "blocks/000001.zarr/offsets_1")
    with pytest.raises(StoreError, match="offsets_1"):
        Store(root).label_of(sample, 3)


def test_views_that_are_not_there_are_refused(make: Callable[..., Path]) -> None:
    block = Store(make(5, 2)).block(0)
    assert isinstance(block, Block)
    for view in (-1, 5, 6, 1000):
        with pytest.raises(StoreError, match="no view"):
            block.params_of_view(view)


@pytest.mark.parametrize(
    ("blocks", "part_of", "message"),
    [
        ([0], None, "blocks without part_of"),
        ([], "0" * 64, "rising"),
        ([1, 0], "0" * 64, "rising"),
        ([0, 0], "0" * 64, "rising"),
        ([-1, 0], "0" * 64, "rising"),
        ([0, 4], "0" * 64, "rising"),
    ],
)
def test_a_part_must_say_sensibly_what_it_has(make: Callable[..., Path], blocks: Any, part_of: Any, message: str) -> None:
    manifest = Store(make(5, 2)).manifest
    text = manifest.model_copy(update={"blocks": blocks, "part_of": part_of}).model_dump_json()
    with pytest.raises(StoreError, match=message):
        read_model(type(manifest), text, "manifest.json")


def test_generate_takes_the_option(images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 32, "--workers", 0)
    command = ("generate", "--data", images, *teacher, "--views", 3, "--out", tmp_path / "labels")
    assert cli(*command, "--stripe-views", 2)[0] == 0
    assert len(Store(tmp_path / "labels").block(0).stripes) == 2
    code, _, err = cli(*command)
    assert code == 2
    assert "stripe_views = 2 on disk, 64 asked for" in err
