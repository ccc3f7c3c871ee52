"""Manifest: what is written is read; unknown keys, foreign paths and other settings are refused by name."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from reinforce.errors import SettingsError, StoreError
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.settings import Settings, read_model, to_json
from reinforce.store.manifest import Manifest, check_same_settings
from reinforce.store.store import Store, read_manifest
from reinforce.verification.verify import verify_store
from reinforce.views.policy_text import parse_policy

pytestmark = pytest.mark.unit


@pytest.fixture
def content(store: Path) -> dict[str, Any]:
    return json.loads((store / "manifest.json").read_text())


def test_what_is_written_is_read(store: Path) -> None:
    text = (store / "manifest.json").read_text()
    manifest = read_model(Manifest, text, "manifest.json")
    assert to_json(manifest) == text
    assert manifest == read_manifest(store)
    assert str(manifest.settings.policy) == str(parse_policy("rrc-ra"))


def test_no_time_no_place_and_no_host_stand_in_a_manifest(store: Path, images: Path) -> None:
    text = (store / "manifest.json").read_text()
    assert str(images.parent) not in text
    assert "time" not in text.lower().replace("'", "")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("surprise",), 1, "surprise: Extra inputs are not permitted"),
        (("settings", "surprise"), 1, "settings.surprise: Extra inputs"),
        (("settings", "policy", "surprise"), 1, "surprise: Extra inputs"),
        (("settings", "policy", "name"), "mixup", "mixup"),
        (("settings", "policy", "name"), ["rrc"], "there is no policy ['rrc']"),
        (("settings", "policy", "name"), {"rrc": 1}, "there is no policy {'rrc': 1}"),
        (("settings", "num_classes"), 4, "3 class names for 4 classes"),
        (("settings", "source", "class_names"), ["one"], "1 class names for 3 classes"),
        (("schema_version",), 2, "schema_version"),
        (("format",), "other", "format"),
        (("settings", "views"), 0, "settings.views"),
        (("settings", "temperature"), 4.0, "settings.temperature"),
        (("settings", "size"), 10**9, "settings.size"),
        (("files", "../../etc/passwd"), "0" * 64, "is no path of a reinforced dataset"),
        (("files", "/etc/passwd"), "0" * 64, "is no path of a reinforced dataset"),
        (("files", "blocks/000000.zarr/../../x"), "0" * 64, "is no path of a reinforced dataset"),
        (("files", "blocks/000000.zarr/zarr.json\n"), "0" * 64, "is no path of a reinforced dataset"),
        (("files", "samples.parquet"), "abc", "should match pattern"),
    ],
)
def test_what_does_not_belong_is_refused(content: dict[str, Any], path: Any, value: Any, message: str) -> None:
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(StoreError, match=r"manifest.json is not valid") as error:
        read_model(Manifest, json.dumps(content), "manifest.json")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "[" * 200_000, '{"a":' * 200_000, "\ud800".encode("utf-8", "surrogatepass")]
)
def test_what_is_no_manifest_is_refused_without_a_crash(text: Any) -> None:
    with pytest.raises(StoreError, match=r"manifest.json is not valid"):
        read_model(Manifest, text, "manifest.json")


def test_a_file_that_is_too_large_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reinforce.settings.MAX_BYTES", 10)
    with pytest.raises(StoreError, match="is too large"):
        read_model(Manifest, "[" * 11, "manifest.json")


CHANGES = [
    ({"seed": 4}, "seed", "3", "4"),
    ({"views": 6}, "views", "5", "6"),
    ({"policy": {"name": "rrc"}}, "policy.name", "'rrc-ra'", "'rrc'"),
    ({"policy": {"name": "rrc-ra", "m": 9.0}}, "policy.m", "7.0", "9.0"),
    ({"codec": {"name": "topk", "k": 3}}, "codec.k", "2", "3"),
    ({"precision": "bf16"}, "precision", "'fp32'", "'bf16'"),
]


@pytest.mark.parametrize(("change", "key", "old", "new"), CHANGES)
def test_the_first_other_setting_is_named_with_both_values(store: Path, change: Any, key: Any, old: Any, new: Any) -> None:
    settings = Store(store).settings
    other = Settings.model_validate({**settings.model_dump(), **change})
    with pytest.raises(SettingsError) as error:
        check_same_settings(settings, other, "runs/x")
    assert f"runs/x was made with another {key}." in str(error.value)
    assert f"{key} = {old} on disk, {new} asked for" in str(error.value)
    assert error.value.exit_code == 2
    check_same_settings(settings, settings, "runs/x")


def test_other_weights_and_other_images_are_explained(store: Path) -> None:
    settings = Store(store).settings
    values = settings.model_dump()
    values["teachers"][0]["weights_sha256"] = "0" * 64
    with pytest.raises(SettingsError, match=r"another teachers.0.weights_sha256(.|\n)*other weights"):
        check_same_settings(settings, Settings.model_validate(values), "out")
    values = settings.model_dump()
    values["source"]["index_sha256"] = "0" * 64
    with pytest.raises(SettingsError, match=r"images, labels or class folders were added, removed or renamed"):
        check_same_settings(settings, Settings.model_validate(values), "out")


def test_a_data_set_of_before_there_were_crcs_is_read(own_store: Path, store: Path, images: Path) -> None:
    for folder in (own_store / "blocks").glob("*/crc32c"):
        shutil.rmtree(folder)
    table = own_store / "samples.parquet"
    pq.write_table(pq.read_table(table).drop_columns(["crc32c"]), table)
    content = json.loads((own_store / "manifest.json").read_text())
    content["files"] = {name: sha256 for name, sha256 in content["files"].items() if "/crc32c/" not in name}
    content["files"]["samples.parquet"] = hashlib.sha256(table.read_bytes()).hexdigest()
    (own_store / "manifest.json").write_text(json.dumps(content))
    older, newer = ReinforcedDataset(own_store, images), ReinforcedDataset(store, images)
    assert older.store.samples.crc32c.tolist() == [-1] * len(older)
    assert all(np.array_equal(older[index][0], newer[index][0]) for index in range(len(older)))
    assert [check.failed for check in verify_store(own_store)] == [0, 0, 0, 0]
