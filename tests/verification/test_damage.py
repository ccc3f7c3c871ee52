"""Damage of files and manifest: the check that is there for it names the file, or the store is refused in words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from reinforce.errors import StoreError
from reinforce.store.block import block_path
from reinforce.store.store import Store
from reinforce.verification.verify import require, verify_store
from tests.conftest import Cli
from tests.verification.damage import edit_manifest, failed, flip

pytestmark = pytest.mark.unit

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
def test_a_flipped_bit_in_any_file_of_a_block_is_found_and_the_file_named(own_store: Path, path: str, position: float) -> None:
    path = f"blocks/000001.zarr/{path}"
    flip(own_store / path, position)
    (check,) = verify_store(own_store)
    assert (check.name, check.failed) == ("files", 1)
    assert check.failures[0].startswith(f"{path}: sha256 ")
    with pytest.raises(StoreError, match=r"1 of \d+ files failed verification") as error:
        require([check])
    assert path in str(error.value)


def test_a_flipped_bit_anywhere_in_the_sample_table_is_found(own_store: Path, cli: Cli) -> None:
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
    code, text, _ = cli("verify", own_store)
    assert code == 1
    assert "samples.parquet: sha256" in text


@pytest.mark.parametrize("path", ["blocks/000000.zarr/records/c/0", "blocks/000003.zarr/zarr.json"])
def test_a_missing_file_is_found(own_store: Path, path: str, cli: Cli) -> None:
    (own_store / path).unlink()
    code, text, _ = cli("verify", own_store)
    assert code == 1
    assert text.count("FAILED") == 1
    assert f"{path}: missing" in text


def test_a_missing_block_or_table_is_found(own_store: Path) -> None:
    shutil.rmtree(block_path(own_store, 2))
    (check,) = verify_store(own_store)
    assert (check.name, check.failed) == ("files", 21)
    assert all(text.startswith("blocks/000002.zarr/") and text.endswith(": missing") for text in check.failures)
    with pytest.raises(StoreError, match=r"1 of 4 blocks are missing"):
        Store(own_store)
    (own_store / "samples.parquet").unlink()
    (check,) = verify_store(own_store)
    assert check.failed == 22


@pytest.mark.parametrize(
    "path",
    ["notes.txt", ".manifest.json.copy", "blocks/000004.zarr/zarr.json", "blocks/000000.zarr/extra/c/0", "blocks/a.npy"],
)
def test_a_file_too_many_is_found(own_store: Path, path: str) -> None:
    (own_store / path).parent.mkdir(parents=True, exist_ok=True)
    (own_store / path).write_text("{}")
    (check,) = verify_store(own_store)
    assert (check.name, check.failed, check.failures) == ("files", 1, [f"{path}: not in the manifest"])


def test_what_a_killed_writer_left_is_told_and_no_failure(own_store: Path, cli: Cli) -> None:
    for path in ("job.json", "pull.json", ".manifest.json.partial", "blocks/.000001.zarr.partial/zarr.json"):
        (own_store / path).parent.mkdir(exist_ok=True)
        (own_store / path).write_text("{}")
    assert failed(own_store) == dict.fromkeys(("files", "samples", "params", "labels"), 0)
    code, out, _ = cli("verify", own_store, "--views", 0)
    assert code == 0
    assert "left by a writer that was killed" in out
    assert "job.json" in out


def test_a_truncated_file_is_found_and_refused_when_it_is_read(own_store: Path) -> None:
    path = own_store / "blocks/000001.zarr/records/c/0"
    path.write_bytes(path.read_bytes()[:-1])
    assert failed(own_store) == {"files": 1}
    with pytest.raises(StoreError, match=r"Block 000001\.zarr is damaged"):
        Store(own_store).block(1)


# Edited manifests


def test_a_wrong_hash_in_the_manifest_is_found(own_store: Path) -> None:
    path = "blocks/000001.zarr/probes/c/0"
    edit_manifest(own_store, lambda m: m["files"].update({path: "0" * 64}))
    (check,) = verify_store(own_store)
    assert (check.name, check.failed) == ("files", 1)
    assert check.failures[0].startswith(f"{path}: sha256 ")
    assert "expected 0000000000000000..." in check.failures[0]


def test_a_file_that_the_manifest_forgets_is_found(own_store: Path) -> None:
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
        (lambda m: m["settings"]["source"].update(num_samples=25), "24 samples by status, 25 in all"),
        (lambda m: m["settings"]["source"].update(num_samples=10**15), "settings.source.num_samples"),
        (lambda m: m["settings"].update(block_size=8), "files of 4 blocks for 3 blocks of 1 stripes"),
        (lambda m: m["settings"].update(record_views=2), "blocks/000000.zarr/offsets_1/c/0 is not listed"),
        (lambda m: m["files"].pop("blocks/000001.zarr/probes/c/0"), "blocks/000001.zarr/probes/c/0 is not listed"),
        (lambda m: m["files"].update({"blocks/000001.zarr/more/c/0": "0" * 64}), "more/c/0 is one too many"),
    ],
)
def test_an_edited_manifest_is_refused_in_words(own_store: Path, cli: Cli, change: Any, where: str) -> None:
    edit_manifest(own_store, change)
    code, text, err = cli("verify", own_store)
    assert (code, text) == (1, "")
    assert where in err


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"\0" * 50, b'{"format": "reinforce"}'])
def test_a_manifest_that_is_none_is_refused_in_words(own_store: Path, cli: Cli, text: Any) -> None:
    (own_store / "manifest.json").write_bytes(text)
    for command in ("verify", "inspect"):
        code, _, err = cli(command, own_store)
        assert code == 1
        assert "manifest.json is not valid" in err


def test_a_manifest_that_is_a_folder_is_refused_in_words(own_store: Path, cli: Cli) -> None:
    (own_store / "manifest.json").unlink()
    (own_store / "manifest.json").mkdir()
    assert cli("verify", own_store)[0] == 1


def test_counts_that_are_not_those_of_the_table_are_found(own_store: Path, cli: Cli) -> None:
    edit_manifest(own_store, lambda m: m.update(counts={"ok": 0, "missing": 20, "corrupt": 4}))
    code, text, err = cli("verify", own_store)
    assert code == 1, text
    assert "Traceback" not in err
