"""The summary of a store: what inspect says of a whole one, of one that is not complete, and of what is none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reinforce import ReinforcedDataset
from reinforce.errors import StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.settings import to_json
from reinforce.sources.folder import ImageFolder
from reinforce.store.manifest import Job
from reinforce.store.store import Store, read_manifest
from reinforce.teachers.teacher import Teacher
from tests.conftest import SIZE, Cli, content, make_settings

pytestmark = pytest.mark.unit


def interrupt(images: Path, teacher: Teacher, out: Path, after: int) -> None:
    """Leave what a run that stops after so many samples leaves."""

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done > after:
            raise StopError

    source = ImageFolder.open(images)
    with pytest.raises(StopError):
        generate(source, teacher, make_settings(source, teacher), out, Execution(16, workers=0), stop)


# What is no complete store


def test_an_incomplete_store_says_so_and_how_far_it_is(images: Path, teacher: Teacher, tmp_path: Path, cli: Cli) -> None:
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


def test_a_half_written_block_is_not_counted(images: Path, teacher: Teacher, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    interrupt(images, teacher, out, after=16)
    (out / "blocks" / ".000002.zarr" / "params").mkdir(parents=True)
    assert json.loads(cli("inspect", out, "--json")[1])["blocks_done"] == 2


@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_a_folder_that_is_no_store_is_refused_in_words(tmp_path: Path, images: Path, cli: Cli, command: str) -> None:
    for folder, found in ((tmp_path / "nowhere", "no such folder"), (images, "no manifest.json")):
        code, text, err = cli(command, folder)
        assert (code, text) == (1, "")
        assert "is not a reinforced dataset" in err
        assert found in err


def test_a_manifest_means_complete_also_beside_a_job_that_was_not_removed(own_store: Path, cli: Cli) -> None:
    manifest = read_manifest(own_store)
    (own_store / "job.json").write_text(to_json(Job(settings=manifest.settings, environment=manifest.environment)))
    code, text, _ = cli("inspect", own_store, "--json")
    assert code == 0
    assert json.loads(text)["complete"] is True


# Inspect


def test_inspect_says_what_is_in_a_store(store: Path, weights: Path, cli: Cli) -> None:
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
    assert list(parts) == ["labels", "params", "probes", "witness", "table", "metadata", "total"]
    assert parts.pop("total") == pytest.approx(sum(parts.values()), abs=0.03)


@pytest.mark.parametrize("views", [1, 8])
def test_bytes_per_view_are_those_of_the_files(images: Path, teacher: Teacher, tmp_path: Path, cli: Cli, views: int) -> None:
    source, out = ImageFolder.open(images), tmp_path / "out"
    generate(source, teacher, make_settings(source, teacher, views=views), out, Execution(16, workers=0))
    parts = json.loads(cli("inspect", out, "--json")[1])["bytes_per_view"]
    number = 24 * views
    sizes = {name: len(data) for name, data in content(out).items()}
    data = {name: size for name, size in sizes.items() if name.startswith("blocks/") and not name.endswith("zarr.json")}

    def of(*arrays: str) -> float:
        return sum(size for name, size in data.items() if name.split("/")[2] in arrays) / number

    assert parts["total"] == pytest.approx(sum(sizes.values()) / number)
    assert parts["labels"] == pytest.approx(of("records", "offsets"))
    assert parts["labels"] == pytest.approx(
        (2 * (2 + 2) * number + 8 * (24 + 4)) / number
    )  # topk:2, an offset per row and block
    assert parts["params"] == pytest.approx(of("params"))
    assert parts["probes"] == pytest.approx(of("probes"))
    assert parts["probes"] == pytest.approx(4 / views, rel=0.2)
    assert parts["witness"] == pytest.approx(of("witness")) == pytest.approx(4 / views)
    assert parts["table"] == pytest.approx(
        of("sha256", "crc32c", "width_height", "status", "label_error") + sizes["samples.parquet"] / number
    )
    assert parts["total"] == pytest.approx(sum(size for name, size in parts.items() if name != "total"))


def test_inspect_changes_nothing_and_reads_a_store_without_write_access(own_store: Path, cli: Cli) -> None:
    before = {p: p.stat().st_mtime_ns for p in own_store.rglob("*")}
    assert cli("inspect", own_store)[0] == 0
    assert cli("verify", own_store)[0] == 0
    assert {p: p.stat().st_mtime_ns for p in own_store.rglob("*")} == before
