"""Invariant 3 as a law: after any number of kills at any moment, the result is that of an undisturbed run, byte for byte."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reinforce.errors import ReplayError, SettingsError, StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.settings import to_json
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import Block, block_path, committed_blocks
from reinforce.store.manifest import Job
from reinforce.store.store import JOB, MANIFEST, Store, read_manifest
from reinforce.views.policy_text import parse_policy
from tests.conftest import CLASSES, TEACHER, make_settings, picture, run_cli

ROOT = Path(__file__).parents[2]
KILLS = 10


def start(images: Path, weights: Path, out: Path, pause: float, *limit: object) -> subprocess.Popen[str]:
    """The slow generator, past its imports."""
    command = [sys.executable, "-m", "tests.generation.generator", images, weights, out, pause, *limit]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def stop(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    process.send_signal(number)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def finish(images: Path, weights: Path, out: Path) -> None:
    process = start(images, weights, out, 0)
    assert process.wait() == 0
    assert process.stdout is not None
    process.stdout.close()


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def blocks_of(root: Path) -> dict[int, dict[str, bytes]]:
    return {b: content(block_path(root, b)) for b in committed_blocks(root)}


@pytest.fixture(scope="module")
def undisturbed(images, weights, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    finish(images, weights, out)
    return content(out)


@pytest.mark.slow
def test_kills_at_random_moments_lose_no_block_and_change_no_byte(images, weights, undisturbed, tmp_path) -> None:
    out, rng, before, seen = tmp_path / "0", random.Random(5), {}, set()
    for kill in range(10 * KILLS):
        if kill >= KILLS and "half-written" in seen:
            break
        if (out / MANIFEST).exists():  # it came to its end between kills: begin anew
            finish(images, weights, out)
            assert content(out) == undisturbed
            out, before = tmp_path / str(kill), {}
        process = start(images, weights, out, 0.01)
        if kill % 3 == 0:
            time.sleep(rng.uniform(0, 0.6))
        else:  # at the moment a block is half-written, or just committed
            staging = kill % 3 == 1
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline and process.poll() is None:
                names = os.listdir(out / "blocks") if (out / "blocks").is_dir() else []
                if any(n.startswith(".") for n in names) if staging else len(names) > len(before):
                    break
        stop(process)
        names = os.listdir(out / "blocks") if (out / "blocks").is_dir() else []
        now = blocks_of(out)
        half = any(n.startswith(".") for n in names)
        seen.add("half-written" if half else "committed" if len(now) > len(before) else "nothing")
        assert all(now.get(b) == files for b, files in before.items())  # nothing committed was lost or changed
        for block in now:  # and nothing half-written is seen
            Block(block_path(out, block), 3, 6, 14)
        before = now
    assert "half-written" in seen  # the moment that matters most was hit
    finish(images, weights, out)
    assert content(out) == undisturbed


@pytest.mark.slow
def test_a_killed_command_continues_when_it_is_given_again(images, weights, tmp_path) -> None:
    def arguments(out: Path) -> list[object]:
        data = ["generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--out", out]
        return [*data, "--size", 64, "--views", 20, "--block-size", 1, "--codec", "topk:2", "--batch-size", 4, "--workers", 1]

    command = [sys.executable, "-m", "reinforce.cli.main", *map(str, arguments(tmp_path / "killed"))]
    for enough in (1, 8):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}  # as run_cli: sums depend on the number of threads
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env)
        while len(committed_blocks(tmp_path / "killed")) < enough and process.poll() is None:
            time.sleep(0.002)
        stop(process)
    assert not (tmp_path / "killed" / MANIFEST).exists()
    done = run_cli("inspect", tmp_path / "killed")
    assert "no: " in done.stdout
    assert "of 24 blocks" in done.stdout
    for out in ("killed", "undisturbed"):
        done = run_cli(*arguments(tmp_path / out))
        assert done.returncode == 0, done.stderr
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")


def test_ctrl_c_keeps_what_is_committed(images, weights, undisturbed, tmp_path) -> None:
    process = start(images, weights, tmp_path / "out", 0.03)
    while not committed_blocks(tmp_path / "out"):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    assert "committed blocks are kept" in process.stdout.read()
    assert process.wait() == 130
    process.stdout.close()
    process = start(images, weights, tmp_path / "out", 0)
    assert process.wait() == 0
    process.stdout.close()
    assert content(tmp_path / "out") == undisturbed


def test_a_second_writer_is_refused_and_harms_nothing(images, weights, undisturbed, tmp_path) -> None:
    first = start(images, weights, tmp_path / "out", 2)  # slow enough to be still at work when the second one comes
    while not (tmp_path / "out" / JOB).exists():
        time.sleep(0.002)
    second = start(images, weights, tmp_path / "out", 0)
    text = second.stdout.read()
    assert second.wait() == 1
    assert "is being written by another process" in text
    assert f"process {first.pid} on" in text
    second.stdout.close()
    stop(first)
    third = start(images, weights, tmp_path / "out", 0)
    assert third.wait() == 0
    third.stdout.close()
    assert content(tmp_path / "out") == undisturbed


def test_a_full_disk_is_named_and_costs_nothing_that_is_committed(images, weights, undisturbed, tmp_path) -> None:
    out = tmp_path / "out"
    process = start(images, weights, out, 0, 700)  # no file may be longer than 700 bytes: job.json is
    text = process.stdout.read()
    assert process.wait() == 1
    assert "cannot be written" in text
    assert "File too large" in text
    process.stdout.close()
    process = start(images, weights, out, 0, 1700)  # job.json is written, the shard of params is not
    text = process.stdout.read()
    assert process.wait() == 1
    assert "run the same command again: what is committed is kept" in text
    process.stdout.close()
    assert not [n for n in os.listdir(out / "blocks") if n.startswith(".")]
    finish(images, weights, out)
    assert content(out) == undisturbed


def test_the_same_command_on_a_complete_output_changes_nothing(images, teacher, own_store) -> None:
    source = ImageFolder.open(images)
    times = {p: p.stat().st_mtime_ns for p in own_store.rglob("*") if p.is_file()}
    generate(source, teacher, make_settings(source, teacher), own_store)
    assert {p: p.stat().st_mtime_ns for p in own_store.rglob("*") if p.is_file()} == times


def test_a_kill_between_the_last_two_steps_is_mended(images, teacher, own_store) -> None:
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
def test_a_changed_setting_is_refused_with_both_values(images, teacher, own_store, complete, change, key) -> None:
    if not complete:
        unfinished(own_store)
    source, before = ImageFolder.open(images), content(own_store)
    with pytest.raises(SettingsError) as error:
        generate(source, teacher, make_settings(source, teacher, **change), own_store)
    assert key in str(error.value)
    assert content(own_store) == before


def test_a_changed_teacher_is_refused(images, teacher, own_store) -> None:
    unfinished(own_store)
    source, info = ImageFolder.open(images), teacher.infos[0]
    for change in ({"name": "resnet18"}, {"weights_sha256": "1" * 64}):
        settings = make_settings(source, teacher, teachers=[info.model_copy(update=change)])
        with pytest.raises(SettingsError, match=rf"another teachers.0.{next(iter(change))}"):
            generate(source, teacher, settings, own_store)


def test_changed_data_is_refused(own_images, teacher, own_store) -> None:
    unfinished(own_store)
    picture(99).save(own_images / CLASSES[0] / "new.png")
    source = ImageFolder.open(own_images)
    with pytest.raises(SettingsError, match=r"source.num_samples = 24 on disk, 25 asked for"):
        generate(source, teacher, make_settings(source, teacher), own_store)
    (own_images / CLASSES[0] / "000.jpg").unlink()
    source = ImageFolder.open(own_images)
    with pytest.raises(SettingsError, match=r"added, removed or renamed"):
        generate(source, teacher, make_settings(source, teacher), own_store)


def test_going_on_beside_blocks_of_other_pixels_is_refused(own_images, teacher, own_store) -> None:
    unfinished(own_store)
    path = own_images / CLASSES[0] / "000.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    source = ImageFolder.open(own_images)
    with pytest.raises(ReplayError, match=r"Image apple/000 is not the one that the teacher saw"):
        generate(source, teacher, make_settings(source, teacher), own_store)


def test_a_missing_block_is_made_again_as_it_was(images, teacher, store, own_store) -> None:
    unfinished(own_store)
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), own_store, Execution(batch_size=16, workers=2))
    assert content(own_store) == content(store)
    Store(own_store)


def test_a_folder_with_other_things_in_it_is_left_alone(images, teacher, tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    source = ImageFolder.open(images)
    with pytest.raises(StoreError, match="holds other files"):
        generate(source, teacher, make_settings(source, teacher), tmp_path)
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_blocks_without_a_word_of_what_they_are_are_not_continued(images, teacher, own_store) -> None:
    unfinished(own_store)
    (own_store / JOB).unlink()
    source = ImageFolder.open(images)
    with pytest.raises(StoreError, match="nothing that says what they are"):
        generate(source, teacher, make_settings(source, teacher), own_store)
