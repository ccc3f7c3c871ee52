"""Verify: a whole store passes every check; other images, patched code and other weights fail theirs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import read_manifest
from reinforce.teachers.teacher import Teacher
from reinforce.views import ops
from reinforce.views.params import Q16
from tests.conftest import CLASSES, TEACHER, Cli, content, make_settings
from tests.verification.damage import flip

pytestmark = pytest.mark.unit

# A whole store


@pytest.mark.process
def test_a_whole_store_passes_every_check_and_says_how_much_was_looked_at(
    images: Path, store: Path, weights: Path, cli: Cli
) -> None:
    before = content(store)
    code, text, err = cli(
        "verify", store, "--data", images, "--views", 37, "--teacher-weights", weights, "--teacher-views", 30, "--workers", 1
    )
    assert code == 0, text + err
    assert [line.split(";")[0] for line in text.splitlines()] == [
        f"ok     files: {len(before) - 1} of {len(before) - 1}",
        "ok     samples: 4 of 4",
        "ok     params: 24 of 24",
        "ok     labels: 24 of 24",
        "ok     images and probes: 24 of 24",
        "ok     stripes replayed: 8 of 8",
        "ok     labels against the teacher: 1 of 1",
    ]
    assert content(store) == before


def test_the_json_says_what_the_text_says(images: Path, own_store: Path, cli: Cli) -> None:
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


# With the images


@pytest.mark.process
@pytest.mark.parametrize("key", ["apple/000.jpg", "bread/003.png", "cheese/006.jpg"])
def test_one_changed_image_is_one_failure_that_names_it(own_images: Path, store: Path, cli: Cli, key: str) -> None:
    flip(own_images / key, 0.99)
    code, text, _ = cli("verify", store, "--data", own_images, "--workers", 1)
    assert code == 1
    assert text.count("FAILED") == 1
    assert "FAILED images and probes: 23 of 24" in text
    assert f"Image {key[:-4]} is not the one that the teacher saw" in text


def test_a_missing_image_is_named(own_images: Path, store: Path, cli: Cli) -> None:
    (own_images / "bread" / "003.png").unlink()
    code, _, err = cli("verify", store, "--data", own_images, "--workers", 0)
    assert code == 1
    assert "1 of 24 samples with labels are not in" in err
    assert "'bread/003'" in err


@pytest.mark.process
@pytest.mark.parametrize("views", [0, 120])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_cannot_be_read_is_a_failure_like_another(
    own_images: Path, store: Path, cli: Cli, views: int, workers: int
) -> None:
    (own_images / "bread" / "003.png").unlink()
    (own_images / "bread" / "003.png").symlink_to("nowhere")
    code, text, _ = cli("verify", store, "--data", own_images, "--workers", workers, "--views", views)
    assert code == 1
    assert "FAILED images and probes: 23 of 24" in text
    assert "Image bread/003 cannot be read" in text


def test_an_image_that_became_garbage_is_a_failure_of_its_views_too(own_images: Path, store: Path, cli: Cli) -> None:
    (own_images / "bread" / "003.png").write_bytes(b"garbage")
    code, text, _ = cli("verify", store, "--data", own_images, "--workers", 0, "--views", 120)
    assert code == 1
    assert "FAILED images and probes: 23 of 24" in text
    assert "FAILED stripes replayed: 23 of 24" in text


def patch_ops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "Q16", Q16 - 400)
    monkeypatch.setattr(ops, "_LEVELS", np.minimum(ops._LEVELS + 1, 255))


def patch_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.interpolate
    monkeypatch.setattr(torch.nn.functional, "interpolate", lambda *a, **k: real(*a, **{**k, "antialias": False}))


@pytest.mark.process
@pytest.mark.parametrize(("patch", "at_least"), [(patch_ops, 3), (patch_resize, 8)])
@pytest.mark.parametrize("workers", [0, 1])
def test_patched_code_fails_the_probes_that_it_concerns(
    images: Path, store: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, patch: Any, at_least: int, workers: int
) -> None:
    patch(monkeypatch)
    code, text, _ = cli("verify", store, "--data", images, "--workers", workers, "--json")
    check = json.loads(text)["checks"][-1]
    assert (code, check["name"], check["total"]) == (1, "images and probes", 24)
    assert check["failed"] >= at_least
    assert len(check["failures"]) == min(10, check["failed"])
    for failure in check["failures"]:
        assert "Replayed pixels differ from those the teacher saw" in failure
        assert "an op was edited or a library patched" in failure


def test_another_set_of_images_fails_for_every_one(store: Path, tmp_path: Path, own_images: Path, cli: Cli) -> None:
    for path in own_images.rglob("*.*"):
        path.write_bytes(path.read_bytes() + b"\0")
    code, text, _ = cli("verify", store, "--data", own_images, "--workers", 0, "--json")
    check = json.loads(text)["checks"][-1]
    assert (code, check["failed"], check["total"], len(check["failures"])) == (1, 24, 24, 10)


# With the teacher


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_right_weights_give_the_codecs_own_error(
    images: Path, teacher: Teacher, weights: Path, tmp_path: Path, cli: Cli, k: int
) -> None:
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
    found = re.fullmatch(
        r"KL\(teacher \|\| stored\) (\S+), codec's own error (\S+) nats over 60 views, the same top class in 60", check["note"]
    )
    assert found is not None
    stored, own = float(found[1]), float(found[2])
    assert stored == pytest.approx(own, rel=0.02, abs=2e-6)
    assert own > 1e-4 if k == 1 else own < 1e-4  # what topk:1 leaves out is an error, and it is not held against the labels


def test_other_weights_than_those_that_made_the_labels_are_refused(
    images: Path, store: Path, weights: Path, tmp_path: Path, cli: Cli
) -> None:
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
    assert "1 teacher and 2 weights files" in err


@pytest.mark.parametrize("more", [("--views", 3), ("--teacher",), ("--teacher-weights", "w.safetensors")])
def test_what_needs_the_images_is_refused_without_them(store: Path, cli: Cli, more: Any) -> None:
    code, text, err = cli("verify", store, *more)
    assert (code, text) == (2, "")
    assert "need the images" in err
    assert "--data SOURCE" in err
