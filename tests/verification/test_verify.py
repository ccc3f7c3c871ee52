"""Verify and inspect: every kind of damage trips the check that is there for it, and no other."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import save_file

import reinforce.views.apply
from reinforce import ReinforcedDataset
from reinforce.errors import StoreError
from reinforce.files import file_sha256
from reinforce.generation.generate import Execution, generate
from reinforce.settings import to_json
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import BlockData, block_path, write_block
from reinforce.store.listing import list_files
from reinforce.store.manifest import Job
from reinforce.store.samples import Samples
from reinforce.store.store import Store, read_manifest
from reinforce.verification.verify import require, verify_labels, verify_pixels, verify_store
from reinforce.views import ops
from reinforce.views.params import Op
from reinforce.views.status import Status
from tests.conftest import CLASSES, SIZE, TEACHER, make_settings

OP = 6  # params columns of rrc-ra: crop top, left, height, width, interpolation, flip, op, ...


def flip(path: Path, position: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def edit_manifest(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((root / "manifest.json").read_bytes())
    change(manifest)
    (root / "manifest.json").write_text(json.dumps(manifest))


def hash_again(root: Path) -> None:
    """What a careful forger does last."""
    files = {path: file_sha256(root / path) for path in list_files(root)}
    edit_manifest(root, lambda m: m.update(files=files))


def forge_block(root: Path, block: int, change: Callable[[BlockData], Any]) -> None:
    """Write a block again with a change, and make the manifest agree."""
    reader = Store(root).block(block)
    params = reader.params()
    data = BlockData(
        params=params,
        probes=reader.probes().copy(),
        label_error=reader.label_error().copy(),
        **{name: value.copy() for name, value in reader.sample_columns().items()},
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


def failed(root: Path) -> dict[str, int]:
    """Failures by check, of the checks that a store is put to by itself."""
    return {check.name: check.failed for check in verify_store(root)}


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def interrupt(images: Path, teacher: Any, out: Path, after: int) -> None:
    """Leave what a run that stops after so many samples leaves."""

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > after:
            raise StopError

    source = ImageFolder.open(images)
    with pytest.raises(StopError):
        generate(source, teacher, make_settings(source, teacher), out, Execution(16, workers=0), stop)


# A whole store


def test_a_whole_store_passes_every_check_and_says_how_much_was_looked_at(images, store, weights, cli) -> None:
    before = content(store)
    code, text, err = cli(
        "verify", store, "--data", images, "--views", 40, "--teacher-weights", weights, "--teacher-views", 30, "--workers", 1
    )
    assert code == 0, text + err
    assert [line.split(";")[0] for line in text.splitlines()] == [
        f"ok     files: {len(before) - 1} of {len(before) - 1}",
        "ok     samples: 4 of 4",
        "ok     params: 24 of 24",
        "ok     labels: 24 of 24",
        "ok     images and probes: 24 of 24",
        "ok     views made anew: 40 of 40",
        "ok     labels against the teacher: 1 of 1",
    ]
    assert content(store) == before


@pytest.mark.parametrize(("views", "made"), [(1, 1), (7, 7), (120, 120), (100000, 120)])
def test_so_many_views_are_made_anew_and_all_are_equal(images, store, cli, views, made) -> None:
    code, text, _ = cli("verify", store, "--data", images, "--views", views, "--workers", 2, "--json")
    assert code == 0
    checks = {c["name"]: (c["failed"], c["total"]) for c in json.loads(text)["checks"]}
    assert checks["views made anew"] == (0, made)
    assert checks["images and probes"] == (0, 24)


def test_the_json_says_what_the_text_says(images, own_store, cli) -> None:
    code, text, _ = cli("verify", own_store, "--data", images, "--workers", 0, "--json")
    whole = json.loads(text)
    assert (code, whole["ok"]) == (0, True)
    assert [c["name"] for c in whole["checks"]] == ["files", "samples", "params", "labels", "images and probes"]
    assert all(c.keys() == {"name", "total", "failed", "failures", "note"} for c in whole["checks"])
    flip(own_store / "blocks/000002.zarr/records/c/0")
    code, text, _ = cli("verify", own_store, "--data", images, "--workers", 0, "--json")
    damaged = json.loads(text)
    assert (code, damaged["ok"]) == (1, False)
    assert [(c["name"], c["failed"]) for c in damaged["checks"]] == [("files", 1)]
    code, text, _ = cli("verify", own_store, "--data", images, "--workers", 0)
    assert code == 1
    assert f"FAILED files: {damaged['checks'][0]['total'] - 1} of {damaged['checks'][0]['total']}" in text
    assert damaged["checks"][0]["failures"][0] in text


# Damaged files


@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    "path",
    [
        "records/c/0",
        "params/c/0/0/0",
        "probes/c/0",
        "offsets/c/0",
        "sha256/c/0/0",
        "width_height/c/0/0",
        "status/c/0",
        "zarr.json",
        "records/zarr.json",
        "params/zarr.json",
    ],
)
def test_a_flipped_bit_in_any_file_of_a_block_is_found_and_the_file_named(own_store, path, position) -> None:
    path = f"blocks/000001.zarr/{path}"
    flip(own_store / path, position)
    (check,) = verify_store(own_store)
    assert (check.name, check.failed) == ("files", 1)
    assert check.failures[0].startswith(f"{path}: sha256 ")
    with pytest.raises(StoreError, match=r"1 of \d+ files failed verification") as error:
        require([check])
    assert path in str(error.value)


def test_a_flipped_bit_anywhere_in_the_sample_table_is_found(own_store, cli) -> None:
    path = own_store / "samples.parquet"
    whole = path.read_bytes()
    for position in range(0, len(whole), 9):
        damaged = bytearray(whole)
        damaged[position] ^= 0x80
        path.write_bytes(damaged)
        try:
            (check,) = verify_store(own_store)
            found = f"{check.name} {check.failed} {check.failures[0]}"
        except StoreError as error:
            found = error.what
        assert found.startswith(("files 1 samples.parquet: sha256 ", "samples.parquet is damaged.")), position
    path.write_bytes(whole[:-1])
    code, _, err = cli("verify", own_store)
    assert code == 1
    assert "samples.parquet is damaged" in err


@pytest.mark.parametrize("path", ["blocks/000000.zarr/records/c/0", "blocks/000003.zarr/zarr.json"])
def test_a_missing_file_is_found(own_store, path, cli) -> None:
    (own_store / path).unlink()
    code, text, _ = cli("verify", own_store)
    assert code == 1
    assert text.count("FAILED") == 1
    assert f"{path}: missing" in text


def test_a_missing_block_or_table_is_found(own_store) -> None:
    shutil.rmtree(block_path(own_store, 2))
    (check,) = verify_store(own_store)
    assert (check.name, check.failed) == ("files", 17)
    assert all(text.startswith("blocks/000002.zarr/") and text.endswith(": missing") for text in check.failures)
    (own_store / "samples.parquet").unlink()
    with pytest.raises(StoreError, match=r"samples\.parquet is damaged"):
        verify_store(own_store)


@pytest.mark.parametrize(
    "path",
    ["notes.txt", ".manifest.json.partial", "blocks/000004.zarr/zarr.json", "blocks/000000.zarr/extra/c/0", "blocks/a.npy"],
)
def test_a_file_too_many_is_found(own_store, path) -> None:
    (own_store / path).parent.mkdir(parents=True, exist_ok=True)
    (own_store / path).write_text("{}")
    (check,) = verify_store(own_store)
    assert (check.name, check.failed, check.failures) == ("files", 1, [f"{path}: not in the manifest"])


def test_a_truncated_file_is_found_and_refused_when_it_is_read(own_store) -> None:
    path = own_store / "blocks/000001.zarr/records/c/0"
    path.write_bytes(path.read_bytes()[:-1])
    assert failed(own_store) == {"files": 1}
    with pytest.raises(StoreError, match=r"Block 000001\.zarr is damaged"):
        Store(own_store).block(1)


# Edited manifests


def test_a_wrong_hash_in_the_manifest_is_found(own_store) -> None:
    path = "blocks/000001.zarr/probes/c/0"
    edit_manifest(own_store, lambda m: m["files"].update({path: "0" * 64}))
    (check,) = verify_store(own_store)
    assert (check.name, check.failed) == ("files", 1)
    assert check.failures[0].startswith(f"{path}: sha256 ")
    assert "expected 0000000000000000..." in check.failures[0]


def test_a_file_that_the_manifest_forgets_is_found(own_store) -> None:
    edit_manifest(own_store, lambda m: m["files"].pop("samples.parquet"))
    (check,) = verify_store(own_store)
    assert check.failures == ["samples.parquet: not in the manifest"]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda m: m.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda m: m["settings"].update(extra=1), "settings.extra: Extra inputs"),
        (lambda m: m["settings"]["policy"].update(extra=1), "settings.policy.extra: Extra inputs"),
        (lambda m: m["counts"].update(extra=1), "counts.extra: Extra inputs"),
        (lambda m: m.pop("files"), "files: Field required"),
        (lambda m: m.update(schema_version=2), "schema_version"),
        (lambda m: m["files"].update({"../../escaped": "0" * 64}), "'../../escaped' is no path of a reinforced dataset"),
        (lambda m: m["files"].update({"/etc/passwd": "0" * 64}), "is no path of a reinforced dataset"),
        (lambda m: m["files"].update({"samples.parquet": "zz"}), "files.samples.parquet"),
        (lambda m: m["settings"].update(views=0), "settings.views"),
        (lambda m: m["settings"].update(codec={"name": "pickle"}), "codec is not one this version can read"),
        (lambda m: m["params_fields"].append(999), "The params layout is not one this version can read"),
        (lambda m: m["settings"]["source"].update(num_samples=25), "24 rows for 25 samples"),
        (lambda m: m["settings"]["source"].update(num_samples=10**15), "settings.source.num_samples"),
        (lambda m: m["settings"].update(block_size=8), "blocks and rows that are not each there once"),
    ],
)
def test_an_edited_manifest_is_refused_in_words(own_store, cli, change, where) -> None:
    edit_manifest(own_store, change)
    code, text, err = cli("verify", own_store)
    assert (code, text) == (1, "")
    assert where in err


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"\0" * 50, b'{"format": "reinforce"}'])
def test_a_manifest_that_is_none_is_refused_in_words(own_store, cli, text) -> None:
    (own_store / "manifest.json").write_bytes(text)
    for command in ("verify", "inspect"):
        code, _, err = cli(command, own_store)
        assert code == 1
        assert "manifest.json is not valid" in err


def test_a_manifest_that_is_a_folder_is_refused_in_words(own_store, cli) -> None:
    (own_store / "manifest.json").unlink()
    (own_store / "manifest.json").mkdir()
    assert cli("verify", own_store)[0] == 1


def test_counts_that_are_not_those_of_the_table_are_found(own_store, cli) -> None:
    edit_manifest(own_store, lambda m: m.update(counts={"ok": 0, "missing": 20, "corrupt": 4}))
    code, text, err = cli("verify", own_store)
    assert code == 1, text
    assert "Traceback" not in err


# Forgeries: the hashes are right, the content is not


def test_a_block_that_is_written_again_unchanged_has_the_same_bytes(store, own_store) -> None:
    for block in range(4):
        forge_block(own_store, block, lambda data: None)
    forge_samples(own_store)
    made, original = content(own_store), content(store)
    assert {k: v for k, v in made.items() if k != "manifest.json"} == {
        k: v for k, v in original.items() if k != "manifest.json"
    }
    assert failed(own_store) == {"files": 0, "samples": 0, "params": 0, "labels": 0}


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
        set_param(2, 3, OP, max(Op) + 1),
        set_param(2, 3, OP + 4, -1),
    ],
)
def test_params_that_no_image_can_give_are_found(own_store, images, change) -> None:
    forge_block(own_store, 1, change)
    assert failed(own_store) == {"files": 0, "samples": 0, "params": 1, "labels": 0}
    check = verify_store(own_store)[2]
    assert re.fullmatch(r"\w+/\d+, view \d: a box outside of the image or view, or an unknown op", check.failures[0])


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
def test_labels_that_are_no_distributions_are_found(own_store, change) -> None:
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
def test_a_block_that_differs_from_the_sample_table_is_found(own_store, change, column) -> None:
    forge_block(own_store, 1, change)
    assert failed(own_store) == {"files": 0, "samples": 1, "params": 0, "labels": 0}
    assert f"block 1: {column} differ from" in verify_store(own_store)[1].failures[0]


@pytest.mark.parametrize("name", ["sha256", "width_height", "status"])
def test_a_sample_table_that_differs_from_the_blocks_is_found(own_store, name) -> None:
    values = getattr(Store(own_store).samples, name).copy()
    values[20] = values[20] + 1
    forge_samples(own_store, **{name: values})
    assert failed(own_store) == {"files": 0, "samples": 1, "params": 0, "labels": 0}
    assert verify_store(own_store)[1].failures[0].startswith("block 2: ")


@pytest.mark.parametrize("name", ["key_column", "labels"])
def test_keys_and_hard_labels_that_are_not_those_of_the_index_are_found(own_store, name) -> None:
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
        (lambda t: t.set_column(5, "status", pa.array(["fine"] * 24)), "an unknown status"),
        (lambda t: t.set_column(0, "key", pa.array(["a"] * 24)), "a key that is missing or occurs twice"),
        (lambda t: t.set_column(0, "key", pa.array([b"\xff%d" % i for i in range(24)]).view(pa.string())), ""),
        (lambda t: t.set_column(2, "sha256", pa.array([b"short"] * 24)), ""),
        (lambda t: t.set_column(1, "label", pa.array(["none"] * 24)), ""),
        (lambda t: t.set_column(3, "width", pa.array([-1] * 24, pa.int64())), ""),
        (lambda t: t.set_column(7, "block", pa.array([None] * 24, pa.int32())), ""),
    ],
)
def test_a_table_that_is_not_the_one_of_the_format_is_refused_in_words(own_store, cli, change, found) -> None:
    table = change(pq.read_table(own_store / "samples.parquet"))
    pq.write_table(table, own_store / "samples.parquet")
    hash_again(own_store)
    code, _, err = cli("verify", own_store)
    assert code == 1
    assert "samples.parquet is damaged" in err
    assert found in err


def test_a_forged_probe_is_found_with_the_images(own_store, images) -> None:
    forge_block(own_store, 2, lambda data: data.probes.__setitem__(4, data.probes[4] ^ 1))
    assert not any(failed(own_store).values())
    probes, fresh = verify_pixels(ReinforcedDataset(own_store, images, check=False), views=120, workers=0)
    assert (probes.name, probes.failed, probes.total) == ("images and probes", 1, 24)
    key = Store(own_store).samples.keys[18]
    assert f"Replayed pixels differ from those the teacher saw ({key}, view 4)" in probes.failures[0]
    assert (fresh.name, fresh.failed, fresh.total) == ("views made anew", 0, 120)


@pytest.mark.parametrize(("view", "probes"), [(1, 0), (3, 1)])
def test_forged_params_that_some_image_could_give_are_found_with_the_images(own_store, images, view, probes) -> None:
    def shrink(data: BlockData) -> None:
        data.params[3, view, 2] -= 1  # the probe of row 3 is of view 3

    forge_block(own_store, 0, shrink)
    assert not any(failed(own_store).values())
    by_probe, fresh = verify_pixels(ReinforcedDataset(own_store, images, check=False), views=120, workers=0)
    assert (by_probe.failed, fresh.failed) == (probes, 1)
    assert f"{Store(own_store).samples.keys[3]}, view {view}: drawn again, params are" in fresh.failures[0]


def test_forged_labels_that_are_distributions_are_found_by_the_teacher(own_store, images, teacher, weights, cli) -> None:
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


# With the images


@pytest.mark.parametrize("key", ["apple/000.jpg", "bread/003.png", "cheese/006.jpg"])
def test_one_changed_image_is_one_failure_that_names_it(own_images, store, cli, key) -> None:
    flip(own_images / key, 0.99)
    code, text, _ = cli("verify", store, "--data", own_images, "--workers", 1)
    assert code == 1
    assert text.count("FAILED") == 1
    assert "FAILED images and probes: 23 of 24" in text
    assert f"Image {key[:-4]} is not the one that the teacher saw" in text


def test_a_missing_image_is_named(own_images, store, cli) -> None:
    (own_images / "bread" / "003.png").unlink()
    code, _, err = cli("verify", store, "--data", own_images, "--workers", 0)
    assert code == 1
    assert "1 of 24 samples with labels are not in" in err
    assert "'bread/003'" in err


@pytest.mark.parametrize("views", [0, 120])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_a_failure_like_another(own_images, store, cli, views, workers) -> None:
    (own_images / "bread" / "003.png").unlink()
    (own_images / "bread" / "003.png").symlink_to("nowhere")
    code, text, _ = cli("verify", store, "--data", own_images, "--workers", workers, "--views", views)
    assert code == 1
    assert "FAILED images and probes: 23 of 24" in text
    assert "Image bread/003 cannot be read" in text


def test_an_image_that_became_garbage_is_a_failure_of_its_views_too(own_images, store, cli) -> None:
    (own_images / "bread" / "003.png").write_bytes(b"garbage")
    code, text, _ = cli("verify", store, "--data", own_images, "--workers", 0, "--views", 120)
    assert code == 1
    assert "FAILED images and probes: 23 of 24" in text
    assert "FAILED views made anew: 115 of 120" in text


def patch_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "Q16", ops.Q16 - 400)
    monkeypatch.setattr(ops, "_LEVELS", np.minimum(ops._LEVELS + 1, 255))


def patch_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.interpolate
    monkeypatch.setattr(reinforce.views.apply.F, "interpolate", lambda *a, **k: real(*a, **{**k, "antialias": False}))


@pytest.mark.parametrize(("patch", "at_least"), [(patch_ops, 3), (patch_resize, 8)])
@pytest.mark.parametrize("workers", [0, 1])
def test_patched_code_fails_the_probes_that_it_concerns(images, store, cli, monkeypatch, patch, at_least, workers) -> None:
    patch(monkeypatch)
    code, text, _ = cli("verify", store, "--data", images, "--workers", workers, "--json")
    check = json.loads(text)["checks"][-1]
    assert (code, check["name"], check["total"]) == (1, "images and probes", 24)
    assert check["failed"] >= at_least
    assert len(check["failures"]) == min(10, check["failed"])
    for failure in check["failures"]:
        assert "Replayed pixels differ from those the teacher saw" in failure
        assert "an op was edited or a library patched" in failure


def test_another_set_of_images_fails_for_every_one(store, tmp_path, own_images, cli) -> None:
    for path in own_images.rglob("*.*"):
        path.write_bytes(path.read_bytes() + b"\0")
    code, text, _ = cli("verify", store, "--data", own_images, "--workers", 0, "--json")
    check = json.loads(text)["checks"][-1]
    assert (code, check["failed"], check["total"], len(check["failures"])) == (1, 24, 24, 10)


# With the teacher


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_right_weights_give_the_codecs_own_error(images, teacher, weights, tmp_path, cli, k) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, codec={"name": "topk", "k": k})
    generate(source, teacher, settings, tmp_path / "out", Execution(16, workers=0))
    code, text, err = cli(
        "verify",
        tmp_path / "out",
        "--data",
        images,
        "--teacher-weights",
        weights,
        "--workers",
        0,
        "--teacher-views",
        60,
        "--json",
    )
    assert code == 0, text + err
    check = json.loads(text)["checks"][-1]
    assert check["name"] == "labels against the teacher"
    found = re.fullmatch(r"KL\(teacher \|\| stored\) (\S+), codec's own error (\S+) nats over 60 views", check["note"])
    assert found is not None
    stored, own = float(found[1]), float(found[2])
    assert stored == pytest.approx(own, rel=0.02, abs=2e-6)
    assert own > 1e-4 if k == 1 else own < 1e-4  # what topk:1 leaves out is an error, and it is not held against the labels


def test_other_weights_than_those_that_made_the_labels_are_refused(images, store, weights, tmp_path, cli) -> None:
    torch.manual_seed(8)
    save_file(timm.create_model(TEACHER, num_classes=len(CLASSES)).state_dict(), tmp_path / "other.safetensors")
    arguments = ("verify", store, "--data", images, "--workers", 0)
    code, _, err = cli(*arguments, "--teacher-weights", tmp_path / "other.safetensors")
    assert code == 1
    assert "These weights of test_resnet are not those that made the labels" in err
    recorded = read_manifest(store).settings.teachers[0].weights_sha256
    assert f"expected:     sha256 {recorded[:16]}..." in err
    code, _, err = cli(*arguments, "--teacher-weights", weights, "--teacher-weights", weights)
    assert code == 2
    assert "2 weights files are given" in err


@pytest.mark.parametrize("more", [("--views", 3), ("--teacher",), ("--teacher-weights", "w.safetensors")])
def test_what_needs_the_images_is_refused_without_them(store, cli, more) -> None:
    code, text, err = cli("verify", store, *more)
    assert (code, text) == (2, "")
    assert "need the images" in err
    assert "--data SOURCE" in err


# What is no complete store


def test_an_incomplete_store_says_so_and_how_far_it_is(images, teacher, tmp_path, cli) -> None:
    out = tmp_path / "out"
    interrupt(images, teacher, out, after=16)
    for command in (("verify", out), ("verify", out, "--data", images, "--views", 3), ("verify", out, "--json")):
        code, text, err = cli(*command)
        assert (code, text) == (1, "")
        assert "is not complete yet" in err
        assert "job.json and no manifest.json" in err
    code, text, _ = cli("inspect", out)
    assert code == 0
    assert "complete    no: 2 of 4 blocks; run the same generate again" in text
    assert "teacher     test_resnet (" in text
    assert "views       5 per sample, 32x32 pixels, seed 3" in text
    assert "bytes/view" not in text
    code, text, _ = cli("inspect", out, "--json")
    summary = json.loads(text)
    assert (summary["complete"], summary["blocks_done"], summary["blocks"]) == (False, 2, 4)
    assert (summary["views"], summary["samples"], summary["classes"]) == (5, 24, 3)
    with pytest.raises(StoreError, match="is not complete yet"):
        ReinforcedDataset(out, images)


def test_a_half_written_block_is_not_counted(images, teacher, tmp_path, cli) -> None:
    out = tmp_path / "out"
    interrupt(images, teacher, out, after=16)
    (out / "blocks" / ".000002.zarr" / "params").mkdir(parents=True)
    assert json.loads(cli("inspect", out, "--json")[1])["blocks_done"] == 2


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_folder_that_is_no_store_is_refused_in_words(tmp_path, images, cli, command) -> None:
    for folder, found in ((tmp_path / "nowhere", "no such folder"), (images, "no manifest.json")):
        code, text, err = cli(command, folder)
        assert (code, text) == (1, "")
        assert "is not a reinforced dataset" in err
        assert found in err


def test_a_manifest_means_complete_also_beside_a_job_that_was_not_removed(own_store, cli) -> None:
    manifest = read_manifest(own_store)
    (own_store / "job.json").write_text(to_json(Job(settings=manifest.settings, environment=manifest.environment)))
    code, text, _ = cli("inspect", own_store, "--json")
    assert code == 0
    assert json.loads(text)["complete"] is True


# Inspect


def test_inspect_says_what_is_in_a_store(store, weights, cli) -> None:
    code, text, _ = cli("inspect", store)
    assert code == 0
    rows = {line[:11].rstrip(): line[12:] for line in text.splitlines()}
    manifest = read_manifest(store)
    assert rows["teacher"] == f"test_resnet ({manifest.settings.teachers[0].weights_sha256[:12]})"
    assert rows["policy"] == str(manifest.settings.policy)
    assert rows["views"] == f"5 per sample, {SIZE}x{SIZE} pixels, seed 3"
    assert rows["codec"] == "topk:2"
    assert rows["classes"] == "3, with hard labels"
    assert rows["complete"] == "yes: 4 blocks"
    assert rows["samples"] == "24 ok, 0 missing, 0 corrupt"
    labels = [label for s in range(24) for label in Store(store).labels_of(s)]
    top1 = float(np.mean([probs.max() for _, probs, *_ in labels]))
    remainder = float(np.mean([rest for _, _, rest, _ in labels]))
    hard = Store(store).samples.labels
    agreement = np.mean([ids[0] == hard[i // 5] for i, (ids, *_) in enumerate(labels)])
    assert rows["top-1"] == f"mean probability {top1:.4f}, remainder {remainder:.4f}"
    assert rows["agreement"].startswith(f"{100 * agreement:.1f} % of views")
    assert f"torch {torch.__version__.split('+')[0]}" in rows["made with"]
    parts = {name: float(size) for name, size in (item.split() for item in rows["bytes/view"].split(", "))}
    assert list(parts) == ["labels", "params", "probes", "table", "metadata", "total"]
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=0.03)


@pytest.mark.parametrize("views", [1, 8])
def test_bytes_per_view_are_those_of_the_files(images, teacher, tmp_path, cli, views) -> None:
    source, out = ImageFolder.open(images), tmp_path / "out"
    generate(source, teacher, make_settings(source, teacher, views=views), out, Execution(16, workers=0))
    parts = json.loads(cli("inspect", out, "--json")[1])["bytes_per_view"]
    number = 24 * views
    sizes = {name: len(data) for name, data in content(out).items()}
    data = {name: size for name, size in sizes.items() if name.startswith("blocks/") and not name.endswith("zarr.json")}
    of = lambda *arrays: sum(size for name, size in data.items() if name.split("/")[2] in arrays) / number
    assert parts["total"] == pytest.approx(sum(sizes.values()) / number)
    assert parts["labels"] == pytest.approx(of("records", "offsets"))
    assert parts["labels"] == pytest.approx(
        (2 * (2 + 2) * number + 8 * (24 + 4)) / number
    )  # topk:2, an offset per row and block
    assert parts["params"] == pytest.approx(of("params"))
    assert parts["probes"] == pytest.approx(of("probes"))
    assert parts["probes"] == pytest.approx(4 / views, rel=0.2)
    assert parts["table"] == pytest.approx(
        of("sha256", "width_height", "status", "label_error") + sizes["samples.parquet"] / number
    )
    assert parts["total"] == pytest.approx(sum(size for name, size in parts.items() if name != "total"))


def test_inspect_changes_nothing_and_reads_a_store_without_write_access(own_store, cli) -> None:
    before = {p: p.stat().st_mtime_ns for p in own_store.rglob("*")}
    assert cli("inspect", own_store)[0] == 0
    assert cli("verify", own_store)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in own_store.rglob("*")} == before


def test_the_sample_table_reads_back_as_it_was_written(own_store) -> None:
    samples = Store(own_store).samples
    again = Samples.from_parquet(own_store / "samples.parquet", 24, 7)
    assert again.to_parquet() == samples.to_parquet() == (own_store / "samples.parquet").read_bytes()
