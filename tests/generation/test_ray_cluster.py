"""A Ray cluster that is started for one run: it ends with the run, however that ends, and what is left is taken away later."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reinforce.errors import WorkerError
from reinforce.generation.ray_cluster import Sigterm, check_alive, folder_of_run, remove_left
from reinforce.locks import only_writer
from reinforce.store.block import committed_blocks
from tests.conftest import SIZE, TEACHER, Cli
from tests.forked import Child, Point
from tests.processes import descendants, name_of, until_gone

pytestmark = pytest.mark.unit

LOCK = ".reinforce.lock"


def _command(images: Path, weights: Path, out: Path, *more: object) -> list[str]:
    line = ["generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE, "--out", out]
    return [*map(str, line), "--engine", "ray", "--codec", "topk:2", *map(str, more)]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A folder with a short name, as that of a socket must be, for what a killed command leaves."""
    with tempfile.TemporaryDirectory(prefix="r-") as folder:
        yield Path(folder)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whom", "code", "said", "left"),
    [
        (signal.SIGINT, "", 130, "the same command continues with the missing blocks", 0),
        (signal.SIGTERM, "", -15, "", 0),
        (signal.SIGTERM, "all", -15, "", 0),
        (signal.SIGKILL, "", -9, "", 1),
        (signal.SIGKILL, "raylet", 1, "its raylet died", 0),
        (signal.SIGKILL, "gcs_server", 1, "its gcs_server died", 0),
    ],
)
def test_a_cluster_of_its_own_ends_with_the_command(
    number: signal.Signals, whom: str, code: int, said: str, left: int,
    images: Path, weights: Path, tmp_path: Path, scratch: Path,
) -> None:  # fmt: skip
    """Found by the kill harness: SIGTERM ended in traces of C++ and SIGABRT; without its servers, Ray waited a minute."""
    line = _command(images, weights, tmp_path / "out", "--processes", 2, "--views", 1000, "--block-size", 1)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(scratch)}
    running = subprocess.Popen(
        [sys.executable, "-m", "reinforce.cli.main", *line, "--ray-address", "local"],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=env, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not committed_blocks(tmp_path / "out"):
        assert time.monotonic() < until
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    family = descendants(running.pid)
    names = {name_of(pid): pid for pid in family}
    assert {"raylet", "gcs_server"} <= names.keys()
    began = time.monotonic()
    if whom == "all":  # as Slurm ends a step
        os.killpg(running.pid, number)
    else:
        os.kill(names.get(whom, running.pid), number)
    _, err = running.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert running.returncode == code, err
    assert said in err.decode()
    assert "Traceback" not in err.decode()
    agents = {pid for pid in family if name_of(pid).startswith(("ray::Dashboard", "ray::RuntimeEnv"))}
    until_gone([pid for pid in family if pid not in agents])
    for pid in agents:  # they wait a minute for Ray's server, which has ended with the command
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert len(list(scratch.glob("ray-*"))) == left


@pytest.mark.process
@pytest.mark.slow
def test_options_that_do_not_fit(images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    line = _command(images, weights, tmp_path / "out")
    code, _, said = cli(*line, "--ray-address", "ray://nowhere:10001")
    assert (code, "Ray client" in said) == (2, True)
    code, _, said = cli(*line, "--ray-address", "127.0.0.1:1")
    assert (code, "a cluster at 127.0.0.1:1" in said, "Connection refused" in said) == (2, True, True)
    assert not (tmp_path / "out").exists()
    code, _, said = cli(*line, "--device", "cuda:0")
    assert (code, "auto, cpu or cuda" in said) == (2, True)
    code, _, said = cli(*line, "--engine", "local", "--ray-address", "auto")
    assert (code, "is for --engine ray" in said) == (2, True)


def _hold(folder: Path) -> None:
    with only_writer(folder, folder / LOCK):
        hold()


def hold() -> None:
    """A point at which a test holds a process."""


@pytest.mark.process
def test_folders_of_dead_runs_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ray-dead", "ray-young", "ray-live", "ray-other", "else"):
        (tmp_path / name / "session").mkdir(parents=True)
        if name != "ray-other":
            (tmp_path / name / LOCK).touch()
    (tmp_path / "ray-link").symlink_to(tmp_path / "else")
    with Child(_hold, tmp_path / "ray-live", at=Point(f"{__name__}:hold", act="hold")) as run:
        run.wait_until_held()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        for name in ("ray-dead", "ray-live", "ray-other", "else"):
            path = tmp_path / name / LOCK
            if path.exists():
                os.utime(path, (time.time() - 3600,) * 2)
        remove_left()
        assert {p.name for p in tmp_path.iterdir()} == {"ray-young", "ray-live", "ray-other", "ray-link", "else"}
    with folder_of_run() as own:  # the killed run holds its folder no more
        assert {p.name for p in tmp_path.iterdir()} == {"ray-young", "ray-other", "ray-link", "else", Path(own).name}
    assert not Path(own).exists()


def test_a_cluster_whose_server_died_is_told_of() -> None:
    def ray(node: Any) -> Any:
        return SimpleNamespace(_private=SimpleNamespace(worker=SimpleNamespace(_global_node=node)))

    check_alive(ray(None))  # connected to the cluster of another
    check_alive(ray(SimpleNamespace()))  # another version of Ray
    check_alive(ray(SimpleNamespace(dead_processes=lambda: [("log_monitor", 0)])))
    with pytest.raises(WorkerError, match="its gcs_server and its raylet died"):
        check_alive(ray(SimpleNamespace(dead_processes=lambda: [("gcs_server", 0), ("raylet", 0), ("dashboard", 0)])))


def test_a_handler_of_the_users_stays(tmp_path: Path) -> None:
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        sigterm = Sigterm(str(tmp_path))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as Ray sets its own
        sigterm.heed()
        signal.raise_signal(signal.SIGTERM)
        sigterm.end()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM] * 2
    assert tmp_path.exists()
