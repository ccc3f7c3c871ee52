"""Invariant 3 as a law: wherever a run is killed, the result is that of an undisturbed run, byte for byte."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from reinforce.errors import ReplayError, SettingsError, StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.settings import to_json
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import Block, block_path, committed_blocks
from reinforce.store.manifest import Job
from reinforce.store.store import JOB, MANIFEST, Store, read_manifest
from reinforce.teachers.teacher import Teacher
from reinforce.views.policy_text import parse_policy
from tests.conftest import CLASSES, TEACHER, content, make_settings, picture
from tests.forked import Child, Point, command, run
from tests.generation.generator import BLOCKS, COLUMNS, SAMPLES, VIEWS, generate_small

pytestmark = pytest.mark.unit

COMMITS = Point("reinforce.store.folder_place:write_block", after=True)
WRITING = Point("zarr:Group.create_array", call=4)  # half of a block is there
# Whatever lasts is written beside its place, synced, renamed and its folder synced: job.json, blocks, table, manifest.
WRITTEN = Point("reinforce.files:_sync")
RENAMED = Point("reinforce.files:_sync_folder")  # the first one, of what is a file


def finish(images: Path, weights: Path, out: Path) -> None:
    assert run(generate_small, images, weights, out) == (0, "")


def blocks_of(root: Path) -> dict[int, dict[str, bytes]]:
    return {b: content(block_path(root, b)) for b in committed_blocks(root)}


@pytest.fixture(scope="module")
def undisturbed(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    finish(images, weights, out)
    return content(out)


@pytest.mark.process
def test_kills_around_every_rename_lose_no_block_and_change_no_byte(
    images: Path, weights: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out, workers = tmp_path / "out", cycle([0, 1])
    before: dict[int, dict[str, bytes]] = {}

    def killed(at: Point) -> bool:
        """Was the run killed at this point, and did it not come to its end before?"""
        nonlocal before
        code, said = run(generate_small, images, weights, out, next(workers), at=at)
        assert code in (0, -signal.SIGKILL), said
        now = blocks_of(out)
        assert {b: now.get(b) for b in before} == before  # nothing committed was lost or changed
        for block in now:  # and nothing half-written is seen
            Block(block_path(out, block), SAMPLES, VIEWS, COLUMNS)
        before = now
        return code != 0

    assert killed(WRITTEN)
    assert not (out / JOB).exists()
    assert killed(RENAMED)
    assert (out / JOB).exists()
    for done in range(BLOCKS):
        for half_written in (WRITING, WRITTEN):
            assert killed(half_written)
            assert [n for n in os.listdir(out / "blocks") if n.startswith(".")]
            assert len(before) == done
        assert killed(COMMITS)
        assert len(before) == done + 1
    for file in (1, 2):  # the table is written again after each kill, then the manifest
        assert killed(replace(WRITTEN, call=file))
        assert killed(replace(RENAMED, call=file))
    assert (out / MANIFEST).exists()
    assert (out / JOB).exists()
    assert not killed(WRITTEN)
    assert content(out) == undisturbed


@pytest.mark.process
def test_a_killed_command_continues_when_it_is_given_again(images: Path, weights: Path, tmp_path: Path) -> None:
    def arguments(out: Path) -> list[object]:
        data = ["generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--out", out]
        return [*data, "--size", 64, "--views", 3, "--block-size", 1, "--codec", "topk:2", "--batch-size", 4, "--workers", 1]

    out = tmp_path / "killed"
    for there, more in ((0, 1), (1, 7)):
        assert len(committed_blocks(out)) == there
        code, _ = run(command, *arguments(out), at=replace(COMMITS, call=more))
        assert code == -signal.SIGKILL
    assert len(committed_blocks(out)) == 8
    assert not (out / MANIFEST).exists()
    _, said = run(command, "inspect", out)
    assert "no: 8 of 24 blocks" in said
    for finished in (out, tmp_path / "undisturbed"):
        code, said = run(command, *arguments(finished))
        assert code == 0, said
    assert content(out) == content(tmp_path / "undisturbed")


@pytest.mark.process
def test_ctrl_c_keeps_what_is_committed(images: Path, weights: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    code, said = run(generate_small, images, weights, tmp_path / "out", at=replace(COMMITS, call=2, act="interrupt"))
    assert code == 130
    assert "committed blocks are kept" in said
    assert len(committed_blocks(tmp_path / "out")) == 2
    finish(images, weights, tmp_path / "out")
    assert content(tmp_path / "out") == undisturbed


@pytest.mark.process
def test_a_second_writer_is_refused_and_harms_nothing(
    images: Path, weights: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    with Child(generate_small, images, weights, tmp_path / "out", at=replace(COMMITS, act="hold")) as first:
        first.wait_until_held()
        code, said = run(generate_small, images, weights, tmp_path / "out")
        assert code == 1
        assert "is being written by another process" in said
        assert f"process {first.pid} on" in said
    finish(images, weights, tmp_path / "out")
    assert content(tmp_path / "out") == undisturbed


@pytest.mark.process
def test_a_full_disk_is_named_and_costs_nothing_that_is_committed(
    images: Path, weights: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # Without workers: the limit would also hold for the shared memory that they send views through.
    code, said = run(generate_small, images, weights, out, 0, 700)  # job.json is longer
    assert code == 1
    assert "cannot be written" in said
    assert "File too large" in said
    code, said = run(generate_small, images, weights, out, 0, 1700)  # job.json is written, the shard of params is not
    assert code == 1
    assert "run the same command again: what is committed is kept" in said
    assert (out / JOB).exists()
    assert os.listdir(out / "blocks") == []
    finish(images, weights, out)
    assert content(out) == undisturbed


def test_the_same_command_on_a_complete_output_changes_nothing(images: Path, teacher: Teacher, own_store: Path) -> None:
    source = ImageFolder.open(images)
    times = {p: p.stat().st_mtime_ns for p in own_store.rglob("*") if p.is_file()}
    generate(source, teacher, make_settings(source, teacher), own_store)
    assert {p: p.stat().st_mtime_ns for p in own_store.rglob("*") if p.is_file()} == times


def test_a_kill_between_the_last_two_steps_is_mended(images: Path, teacher: Teacher, own_store: Path) -> None:
    manifest = read_manifest(own_store)
    (own_store / JOB).write_text(to_json(Job(settings=manifest.settings, environment=manifest.environment)))
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), own_store)
    assert not (own_store / JOB).exists()


def unfinished(root: Path) -> None:
    """Turn a complete store into one that lacks its last block."""
    manifest = read_manifest(root)
    (root / JOB).write_text(to_json(Job(settings=manifest.settings, environment=manifest.environment)))
    for name in (MANIFEST, "samples.parquet"):
        (root / name).unlink()
    shutil.rmtree(block_path(root, 3))


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"seed": 9}, "seed = 3 on disk, 9 asked for"),
        ({"policy": parse_policy("rrc-ra:m=9")}, "policy.m = 7.0 on disk, 9.0 asked for"),
        ({"views": 7}, "views = 5 on disk, 7 asked for"),
        ({"size": 40}, "size = 32 on disk, 40 asked for"),
        ({"codec": {"name": "topk", "k": 3}}, "codec.k = 2 on disk, 3 asked for"),
        ({"block_size": 8}, "block_size = 7 on disk, 8 asked for"),
    ],
)
def test_a_changed_setting_is_refused_with_both_values(
    images: Path, teacher: Teacher, own_store: Path, complete: bool, change: Any, key: str
) -> None:
    if not complete:
        unfinished(own_store)
    source, before = ImageFolder.open(images), content(own_store)
    with pytest.raises(SettingsError) as error:
        generate(source, teacher, make_settings(source, teacher, **change), own_store)
    assert key in str(error.value)
    assert content(own_store) == before


def test_a_changed_teacher_is_refused(images: Path, teacher: Teacher, own_store: Path) -> None:
    unfinished(own_store)
    source, info = ImageFolder.open(images), teacher.infos[0]
    for change in ({"name": "resnet18"}, {"weights_sha256": "1" * 64}):
        settings = make_settings(source, teacher, teachers=[info.model_copy(update=change)])
        with pytest.raises(SettingsError, match=rf"another teachers.0.{next(iter(change))}"):
            generate(source, teacher, settings, own_store)


def test_changed_data_is_refused(own_images: Path, teacher: Teacher, own_store: Path) -> None:
    unfinished(own_store)
    picture(99).save(own_images / CLASSES[0] / "new.png")
    source = ImageFolder.open(own_images)
    with pytest.raises(SettingsError, match=r"source.num_samples = 24 on disk, 25 asked for"):
        generate(source, teacher, make_settings(source, teacher), own_store)
    (own_images / CLASSES[0] / "000.jpg").unlink()
    source = ImageFolder.open(own_images)
    with pytest.raises(SettingsError, match=r"added, removed or renamed"):
        generate(source, teacher, make_settings(source, teacher), own_store)


def test_going_on_beside_blocks_of_other_pixels_is_refused(own_images: Path, teacher: Teacher, own_store: Path) -> None:
    unfinished(own_store)
    path = own_images / CLASSES[0] / "000.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    source = ImageFolder.open(own_images)
    with pytest.raises(ReplayError, match=r"Image apple/000 is not the one that the teacher saw"):
        generate(source, teacher, make_settings(source, teacher), own_store)


@pytest.mark.process
def test_a_missing_block_is_made_again_as_it_was(images: Path, teacher: Teacher, store: Path, own_store: Path) -> None:
    unfinished(own_store)
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), own_store, Execution(batch_size=16, workers=2))
    assert content(own_store) == content(store)
    Store(own_store)


def test_a_folder_with_other_things_in_it_is_left_alone(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    source = ImageFolder.open(images)
    with pytest.raises(StoreError, match="holds other files"):
        generate(source, teacher, make_settings(source, teacher), tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_blocks_without_a_word_of_what_they_are_are_not_continued(images: Path, teacher: Teacher, own_store: Path) -> None:
    unfinished(own_store)
    (own_store / JOB).unlink()
    source = ImageFolder.open(images)
    with pytest.raises(StoreError, match="nothing that says what they are"):
        generate(source, teacher, make_settings(source, teacher), own_store)
