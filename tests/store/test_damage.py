"""What is gone must not read as something: chunks, columns, digits and names that are missing are refused, not filled in."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from timm.data import auto_augment as timm_ops

from reinforce.errors import BusyError, LabelError, SettingsError, SourceError, StoreError, UsageError
from reinforce.labels.codecs import parse_codec
from reinforce.labels.topk import TopK
from reinforce.locks import only_writer
from reinforce.policy import Policy
from reinforce.settings import Settings
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import Block, block_path, write_block
from reinforce.store.manifest import check_same_settings
from reinforce.store.samples import Samples
from reinforce.views import ops
from reinforce.views.apply import apply
from reinforce.views.params import Q16, PixelSpec
from reinforce.views.policy_text import parse_policy
from tests.conftest import picture
from tests.store import test_block
from tests.views.plain import OnPixels

pytestmark = pytest.mark.unit


def test_a_record_that_names_a_class_twice_is_refused() -> None:
    record = np.array([[3, 3]], "<u2").tobytes() + np.array([[0.5, 0.25]], "<f2").tobytes()
    with pytest.raises(LabelError):
        TopK(2).decode(record, 0, 1, 5)


def test_a_k_of_thousands_of_digits_is_wrong_usage() -> None:
    with pytest.raises(UsageError):
        parse_codec("topk:" + "1" * 5000)


@pytest.mark.parametrize("interpolation", [-1, 0, 4])
def test_an_unknown_interpolation_of_an_op_is_refused(interpolation: int) -> None:
    spec = PixelSpec(16, (1, 2, 3, 4, 9, 10, 32, 33, 34, 35))
    row = np.array([0, 0, 20, 20, 1, 0, 12, interpolation, 100, 0], np.int32)
    with pytest.raises(StoreError):
        apply(np.zeros((20, 20, 3), np.uint8), row, spec)


def test_the_text_of_a_policy_keeps_every_digit() -> None:
    policy = Policy(name="rrc", scale=(0.1234567890123, 1.0))
    assert parse_policy(str(policy)) == policy
    assert parse_policy(str(Policy(name="rrc"))) == Policy(name="rrc")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "blocks").mkdir()
    write_block(tmp_path, 3, test_block.some_block())
    return block_path(tmp_path, 3)


@pytest.mark.parametrize("name", ["params", "probes", "offsets", "sha256", "width_height", "status", "records"])
def test_a_missing_chunk_is_damage_and_not_zeros(written: Path, name: str) -> None:
    shutil.rmtree(written / name / "c")
    with pytest.raises(StoreError, match="is damaged"):
        _ = [(b.params(), b.probes(), b.sample_columns()) for b in [Block(written, *test_block.SHAPE)]]


def test_records_of_no_bytes_are_damage(written: Path) -> None:
    about = json.loads((written / "records" / "zarr.json").read_text())
    (written / "records" / "zarr.json").write_text(json.dumps({**about, "shape": [0]}))
    (written / "records" / "c" / "0").write_bytes(b"")
    with pytest.raises(StoreError, match="is damaged"):
        Block(written, *test_block.SHAPE)


def test_a_second_writer_in_one_process_is_refused(tmp_path: Path) -> None:
    with only_writer(tmp_path), pytest.raises(BusyError), only_writer(tmp_path):
        pass


@pytest.mark.parametrize("column", ["label", "sha256", "width", "height", "reason"])
def test_a_sample_table_without_a_column_is_refused(tmp_path: Path, column: str) -> None:
    path = tmp_path / "samples.parquet"
    path.write_bytes(test_block.some_samples().to_parquet())
    pq.write_table(pq.read_table(path).drop_columns([column]), path)
    with pytest.raises(StoreError, match="is damaged"):
        Samples.from_parquet(path, 6, 4)


def test_a_class_folder_that_is_no_text_is_refused_though_empty(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    picture(1).save(tmp_path / "a" / "1.png")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")  # noqa: PTH102 - bytes
    with pytest.raises(SourceError, match="not UTF-8"):
        ImageFolder.open(tmp_path).index_sha256()


def test_an_argument_of_none_is_another_setting_than_no_argument() -> None:
    sha = "0" * 64
    teacher = {"name": "x", "kwargs": {}, "weights_sha256": sha, "num_classes": 3, "class_map": None}
    teacher |= {"mean": (0, 0, 0), "std": (1, 1, 1)}
    values = {
        "source": {"kind": "folder", "num_samples": 2, "class_names": ["a"], "index_sha256": sha},
        "precision": "fp32", "policy": {"name": "rrc"}, "size": 32, "views": 2, "seed": 1, "num_classes": 3, "block_size": 2,
        "codec": {"name": "topk", "k": 2},
    }  # fmt: skip
    one = Settings(**values, teachers=[teacher])
    other = Settings(**values, teachers=[{**teacher, "kwargs": {"img_size": None}}])
    with pytest.raises(SettingsError):
        check_same_settings(one, other, "out")


@pytest.mark.parametrize(("width", "height"), [(5, 1), (1, 5), (1, 1), (2, 7)])
def test_tiny_images_have_timms_pixels(width: int, height: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3)).astype(np.uint8)
    for name in ("color", "contrast", "brightness", "sharpness"):
        for factor in np.linspace(0.1, 1.9, 19):
            theirs = np.asarray(getattr(timm_ops, name)(Image.fromarray(image), factor))
            assert np.abs(getattr(OnPixels(ops), name)(image, round(factor * Q16)).astype(int) - theirs).max() <= 1
