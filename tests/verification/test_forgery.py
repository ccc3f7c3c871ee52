"""Forgeries: the hashes are right, the content is not; each trips the check that is there for it, and no other."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reinforce import ReinforcedDataset
from reinforce.files import file_sha256
from reinforce.store.block import BlockData, block_path, write_block
from reinforce.store.listing import list_files
from reinforce.store.samples import Samples
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.verification.verify import verify_labels, verify_pixels, verify_store
from reinforce.views.operations import OPERATIONS
from reinforce.views.status import Status
from tests.conftest import Cli, content
from tests.verification.damage import edit_manifest, failed

pytestmark = pytest.mark.unit

OP = 6  # params columns of rrc-ra: crop top, left, height, width, interpolation, flip, op, ...


def hash_again(root: Path) -> None:
    """What a careful forger does last."""
    files = {path: file_sha256(root / path) for path in list_files(root)}
    edit_manifest(root, lambda m: m.update(files=files))


def forge_block(root: Path, block: int, change: Callable[[BlockData], Any]) -> None:
    """Write a block again with a change, and make the manifest agree."""
    reader = Store(root).block(block)
    params, samples = reader.params(), reader.sample_columns()
    data = BlockData(
        params=params,
        probes=reader.probes().copy(),
        label_error=reader.label_error().copy(),
        sha256=samples["sha256"].copy(),
        crc32c=samples["crc32c"].clip(0).astype(np.uint32),
        width_height=samples["width_height"].copy(),
        status=samples["status"].copy(),
        witness=reader.witness(),
        records=[bytes(reader.record(row)) for row in range(len(params))],
        reasons=reader.reasons,
    )
    change(data)
    shutil.rmtree(block_path(root, block))
    write_block(root, block, data)
    hash_again(root)


def forge_samples(root: Path, **changes: Any) -> None:
    """Write the sample table again with changed columns, and make the manifest agree."""
    (root / "samples.parquet").write_bytes(dataclasses.replace(Store(root).samples, **changes).to_parquet())
    hash_again(root)


def test_a_block_that_is_written_again_unchanged_has_the_same_bytes(store: Path, own_store: Path) -> None:
    for block in range(4):
        forge_block(own_store, block, lambda data: None)
    forge_samples(own_store)
    made, original = content(own_store), content(store)
    assert {k: v for k, v in made.items() if k != "manifest.json"} == {
        k: v for k, v in original.items() if k != "manifest.json"
    }
    assert failed(own_store) == {"files": 0, "samples": 0, "params": 0, "labels": 0}


def test_the_sample_table_reads_back_as_it_was_written(own_store: Path) -> None:
    samples = Store(own_store).samples
    again = Samples.from_parquet(own_store / "samples.parquet", 24, 7)
    assert again.to_parquet() == samples.to_parquet() == (own_store / "samples.parquet").read_bytes()


def test_a_forged_crc_of_an_image_is_found(own_store: Path) -> None:
    forge_samples(own_store, crc32c=Store(own_store).samples.crc32c ^ 1)
    assert failed(own_store)["samples"] == 4  # blocks


def set_param(row: int, view: int, column: int, value: int) -> Callable[[BlockData], None]:
    return lambda data: data.params.__setitem__((row, view, column), value)


@pytest.mark.parametrize(
    "change",
    [
        set_param(0, 0, 0, -1),
        set_param(6, 4, 1, -5),
        set_param(3, 2, 0, 1000),
        set_param(3, 2, 1, 2**31 - 1),
        set_param(1, 1, 2, 0),
        set_param(1, 1, 2, 2**31 - 1),
        set_param(1, 1, 3, -7),
        set_param(1, 1, 3, 1000),
        set_param(2, 3, OP, max(OPERATIONS) + 1),
        set_param(2, 3, OP + 4, -1),
    ],
)
def test_params_that_no_image_can_give_are_found(own_store: Path, images: Path, change: Callable[[BlockData], None]) -> None:
    forge_block(own_store, 1, change)
    assert failed(own_store) == {"files": 0, "samples": 0, "params": 1, "labels": 0}
    check = verify_store(own_store)[2]
    assert re.fullmatch(
        r"\w+/\d+, view \d: a box outside of the image or view, an unknown op, or an argument that it does not take",
        check.failures[0],
    )


def set_label(probs: Any = None, ids: Any = None) -> Callable[[BlockData], None]:
    """Change the label of view 1 of row 2; a record is u2 ids [5, 2], then f2 probabilities [5, 2]."""

    def change(data: BlockData) -> None:
        record = bytearray(data.records[2])
        all_ids = np.frombuffer(record, "<u2", 10).reshape(5, 2).copy()
        all_probs = np.frombuffer(record, "<f2", 10, 20).reshape(5, 2).copy()
        all_ids[1] = all_ids[1] if ids is None else ids
        all_probs[1] = all_probs[1] if probs is None else probs
        data.records[2] = all_ids.tobytes() + all_probs.tobytes()

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_label(probs=[0.75, 0.5]),
        set_label(probs=[-0.25, 0.5]),
        set_label(probs=[float("nan"), 0.5]),
        set_label(probs=[float("inf"), 0.5]),
        set_label(probs=[float("inf"), -float("inf")]),
        set_label(ids=[0, 3]),
        set_label(ids=[0, 65535]),
        set_label(ids=[1, 1]),
        lambda data: data.records.__setitem__(2, data.records[2][:-1]),
        lambda data: data.records.__setitem__(2, data.records[2] + b"\0\0"),
        lambda data: data.records.__setitem__(2, b""),
    ],
)
def test_labels_that_are_no_distributions_are_found(own_store: Path, change: Any) -> None:
    forge_block(own_store, 1, change)
    key = Store(own_store).samples.keys[9]
    assert failed(own_store) == {"files": 0, "samples": 0, "params": 0, "labels": 1}
    assert verify_store(own_store)[3].failures[0].startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (lambda data: data.status.__setitem__(3, Status.MISSING), "status"),
        (lambda data: data.status.__setitem__(3, 77), "status"),
        (lambda data: data.sha256.__setitem__((3, 31), data.sha256[3, 31] ^ 1), "sha256"),
        (lambda data: data.width_height.__setitem__(3, data.width_height[3] + 1), "width_height"),
    ],
)
def test_a_block_that_differs_from_the_sample_table_is_found(own_store: Path, change: Any, column: str) -> None:
    forge_block(own_store, 1, change)
    assert failed(own_store) == {"files": 0, "samples": 1, "params": 0, "labels": 0}
    assert f"block 1: {column} differ from" in verify_store(own_store)[1].failures[0]


@pytest.mark.parametrize("name", ["sha256", "width_height", "status"])
def test_a_sample_table_that_differs_from_the_blocks_is_found(own_store: Path, name: str) -> None:
    values = getattr(Store(own_store).samples, name).copy()
    values[20] = values[20] + 1
    forge_samples(own_store, **{name: values})
    assert failed(own_store) == {"files": 0, "samples": 1, "params": 0, "labels": 0}
    assert verify_store(own_store)[1].failures[0].startswith("block 2: ")


@pytest.mark.parametrize("name", ["key_column", "labels"])
def test_keys_and_hard_labels_that_are_not_those_of_the_index_are_found(own_store: Path, name: str) -> None:
    samples = Store(own_store).samples
    forge_samples(own_store, **{name: pa.array(samples.keys[::-1]) if name == "key_column" else (samples.labels + 1) % 3})
    assert failed(own_store)["samples"] > 0


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda t: t.slice(0, 23), "23 rows for 24 samples"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "25 rows for 24 samples"),
        (lambda t: t.take(list(reversed(range(24)))), "samples are not in index order"),
        (lambda t: t.drop_columns(["status"]), ""),
        (lambda t: t.drop_columns(["key"]), ""),
        (lambda t: t.set_column(6, "status", pa.array(["fine"] * 24)), "an unknown status"),
        (lambda t: t.set_column(0, "key", pa.array(["a"] * 24)), "a key that is missing or occurs twice"),
        (lambda t: t.set_column(0, "key", pa.array([b"\xff%d" % i for i in range(24)]).view(pa.string())), ""),
        (lambda t: t.set_column(2, "sha256", pa.array([b"short"] * 24)), ""),
        (lambda t: t.set_column(1, "label", pa.array(["none"] * 24)), ""),
        (lambda t: t.set_column(4, "width", pa.array([-1] * 24, pa.int64())), ""),
        (lambda t: t.set_column(8, "block", pa.array([None] * 24, pa.int32())), ""),
    ],
)
def test_a_table_that_is_not_the_one_of_the_format_is_refused_in_words(
    own_store: Path, cli: Cli, change: Any, found: str
) -> None:
    table = change(pq.read_table(own_store / "samples.parquet"))
    pq.write_table(table, own_store / "samples.parquet")
    hash_again(own_store)
    code, _, err = cli("verify", own_store)
    assert code == 1
    assert "samples.parquet is damaged" in err
    assert found in err


# Found with the images and the teacher


def test_a_forged_probe_is_found_with_the_images(own_store: Path, images: Path) -> None:
    forge_block(own_store, 2, lambda data: data.probes.__setitem__(4, data.probes[4] ^ 1))
    assert not any(failed(own_store).values())
    probes, stripes = verify_pixels(ReinforcedDataset(own_store, images, check=False), None, workers=0)
    assert (probes.name, probes.failed, probes.total) == ("images and probes", 1, 24)
    key = Store(own_store).samples.keys[18]
    assert f"Replayed pixels differ from those the teacher saw ({key}, view 4)" in probes.failures[0]
    assert (stripes.name, stripes.failed, stripes.total) == ("stripes replayed", 0, 24)


@pytest.mark.parametrize(("view", "probes"), [(1, 0), (3, 1)])
def test_forged_params_that_some_image_could_give_are_found_with_the_images(
    own_store: Path, images: Path, view: int, probes: int
) -> None:
    def shrink(data: BlockData) -> None:
        data.params[3, view, 2] -= 1  # the probe of row 3 is of view 3

    forge_block(own_store, 0, shrink)
    assert not any(failed(own_store).values())
    by_probe, by_stripe = verify_pixels(ReinforcedDataset(own_store, images, check=False), None, workers=0)
    assert (by_probe.failed, by_stripe.failed) == (probes, 1)
    assert f"the teacher saw ({Store(own_store).samples.keys[3]}, one of views 0 to 4)" in by_stripe.failures[0]


def test_forged_labels_that_are_distributions_are_found_by_the_teacher(
    own_store: Path, images: Path, teacher: Teacher, weights: Path, cli: Cli
) -> None:
    def turn(data: BlockData) -> None:
        for row, record in enumerate(data.records):
            ids = (np.frombuffer(record, "<u2", 10) + 1) % 3
            data.records[row] = ids.astype("<u2").tobytes() + record[20:]

    forge_block(own_store, 1, turn)  # a quarter of the labels
    assert not any(failed(own_store).values())
    dataset = ReinforcedDataset(own_store, images, check=False)
    assert not any(c.failed for c in verify_pixels(dataset, views=20, workers=0))
    check = verify_labels(dataset, teacher, views=100, batch_size=32)
    assert (check.name, check.failed) == ("labels against the teacher", 1)
    assert "other weights, pixels or precision made the labels" in check.failures[0]
    code, text, _ = cli("verify", own_store, "--data", images, "--teacher-weights", weights, "--workers", 0)
    assert code == 1
    assert text.count("FAILED") == 1
    assert "FAILED labels against the teacher: 0 of 1" in text
