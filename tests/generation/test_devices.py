"""Stage one on several devices: the bytes of one process, whatever happens to the processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from reinforce.errors import DeadWorkerError, TeacherError, UsageError
from reinforce.generation import device_processes
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import committed_blocks
from reinforce.teachers.device import resolve_devices
from reinforce.teachers.teacher import Teacher
from reinforce.views.policy_text import parse_policy
from tests.conftest import SIZE, TEACHER, content, make_settings
from tests.generation.faulty_teachers import Faulty, Locked
from tests.processes import descendants, until_gone

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("one_thread")]

TWO = Execution(16, 0, devices=("cpu", "cpu"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The last bits of a label may change with the number of threads, and two processes have half of them each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def diary(tmp_path: Path) -> Path:
    (tmp_path / "diary").mkdir()
    return tmp_path / "diary"


@pytest.mark.parametrize(("policy", "workers"), [("rrc-ra", 0), ("usi", 1)])
def test_two_and_three_processes_write_the_bytes_of_one(
    policy: str, workers: int, images: Path, teacher: Teacher, tmp_path: Path
) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, policy=parse_policy(policy), block_size=3)
    told: list[tuple[int, int]] = []
    rates: list[dict[str, float]] = []
    for count in (1, 2, 3):
        execution = Execution(16, workers, devices=("cpu",) * count)
        told.clear()
        generate(source, teacher, settings, tmp_path / f"{count}", execution, lambda *p: told.append(p), rates.append)
        assert told[0] == (0, 24)
        assert told[-1] == (24, 24)
        assert told == sorted(told)
        assert content(tmp_path / f"{count}") == content(tmp_path / "1")
    assert set() < {name for each in rates for name in each} <= {"cpu #1", "cpu #2", "cpu #3"}
    assert all(rate >= 0 for each in rates for rate in each.values())


@pytest.mark.parametrize(("act", "said"), [("killed", "killed by SIGKILL"), ("cuda", "CUDA error: an illegal memory access")])
def test_a_process_that_dies_is_started_again(
    act: str, said: str, images: Path, teacher: Teacher, diary: Path, tmp_path: Path
) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, block_size=3)
    generate(source, teacher, settings, tmp_path / "whole", Execution(16, 0))
    with pytest.warns(UserWarning, match=f"{said}.*started again"):
        generate(source, Faulty(teacher, act, diary, times=3), settings, tmp_path / "out", TWO)
    assert len(list(diary.iterdir())) == 3
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_one_that_dies_again_and_again_ends_the_run_and_what_is_committed_stays(
    images: Path, teacher: Teacher, diary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert device_processes.RESTARTS == 3
    monkeypatch.setattr(device_processes, "RESTARTS", 1)
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, block_size=3)
    dying = Faulty(teacher, "killed", diary, times=99)
    with pytest.raises(DeadWorkerError, match=r"cpu #\d died 2 times"), pytest.warns(UserWarning, match="started again"):
        generate(source, dying, settings, tmp_path / "out", TWO)
    assert 2 <= len(list(diary.iterdir())) <= 4  # the other one may die a second time before the run has ended
    generate(source, teacher, settings, tmp_path / "out", Execution(16, 0))
    generate(source, teacher, settings, tmp_path / "whole", Execution(16, 0))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_an_error_of_ours_is_raised_as_it_is(images: Path, teacher: Teacher, diary: Path, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    with pytest.raises(TeacherError, match=r"The weights are of no use\."):
        generate(source, Faulty(teacher, "refused", diary, 99), make_settings(source, teacher), tmp_path / "out", TWO)


def test_out_of_memory_halves_the_batches_and_says_so_once(images: Path, teacher: Teacher, diary: Path, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher)
    generate(source, teacher, settings, tmp_path / "whole", Execution(4, 0))
    for name, execution in (("one", Execution(16, 0)), ("two", TWO)):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            generate(source, Faulty(teacher, "small batches", diary, 4), settings, tmp_path / name, execution)
        assert len([w for w in told if "out of memory: batches of 8" in str(w.message)]) == 1
        assert content(tmp_path / name) == content(tmp_path / "whole")
    nothing_fits = Faulty(teacher, "small batches", diary, 0)
    with pytest.raises(TeacherError, match="Not one view fits"), pytest.warns(UserWarning, match="batches of 8"):
        generate(source, nothing_fits, settings, tmp_path / "none", Execution(16, 0))


def test_a_teacher_that_cannot_be_sent_is_refused(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    with pytest.raises(UsageError, match="cannot be given to other processes"):
        generate(source, Locked(teacher), make_settings(source, teacher), tmp_path / "out", TWO)


def _start(images: Path, weights: Path, out: Path, processes: int) -> subprocess.Popen[bytes]:
    line = ["generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE, "--out", out]
    line += ["--views", 2000, "--block-size", 1, "--workers", 1, "--processes", processes, "--codec", "topk:2"]
    command = [sys.executable, "-m", "reinforce.cli.main", *map(str, line)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _until_blocks(out: Path) -> None:
    until = time.monotonic() + 120
    while not committed_blocks(out):
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code", "processes"), [(signal.SIGINT, 130, 2), (signal.SIGKILL, -9, 2), (signal.SIGKILL, -9, 1)]
)
def test_all_processes_end_with_the_command(
    number: signal.Signals, code: int, processes: int, images: Path, weights: Path, tmp_path: Path
) -> None:
    running = _start(images, weights, tmp_path / "out", processes)
    _until_blocks(tmp_path / "out")
    family = descendants(running.pid)
    assert len(family) >= 2 * processes - 1  # a worker each; what it sends is more than a pipe holds
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in said.decode()
    until_gone(family)
    if number == signal.SIGINT:
        assert "committed blocks are kept" in said.decode()


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(map(str, resolve_devices("cpu", 3))) == ["cpu"] * 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert list(map(str, resolve_devices("auto"))) == ["cuda:0", "cuda:1", "cuda:2"]
    assert list(map(str, resolve_devices("cuda:0,cuda:2"))) == ["cuda:0", "cuda:2"]
    for text, said in (
        ("cuda:0,cuda:0", "twice"),
        ("cuda:3", "not there"),
        ("cpu,cuda", "not clear"),
        ("cuda:0,", "no device"),
    ):
        with pytest.raises(UsageError, match=said):
            resolve_devices(text)


def test_a_run_on_no_missing_block_starts_no_process(
    images: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher)
    generate(source, teacher, settings, tmp_path / "out", Execution(16, 0))
    (tmp_path / "out" / "manifest.json").rename(tmp_path / "kept")
    (tmp_path / "out" / "job.json").write_text(_job_of(tmp_path / "kept"))
    monkeypatch.setattr(device_processes, "SharedTeacher", None)
    generate(source, teacher, settings, tmp_path / "out", TWO)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == (tmp_path / "kept").read_bytes()


def _job_of(manifest: Path) -> str:
    from reinforce.settings import read_model, to_json
    from reinforce.store.manifest import Job, Manifest

    found = read_model(Manifest, manifest.read_bytes(), "kept")
    return to_json(Job(settings=found.settings, environment=found.environment))
