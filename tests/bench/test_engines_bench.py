"""Engines measured: one process against several, shares and Ray; the script that does so on GPUs; estimates try one process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reinforce.bench.engines_bench import ways
from reinforce.cli import generation
from reinforce.cli.generation import Generation
from reinforce.generation import estimate
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.store.manifest import Manifest
from reinforce.teachers.teacher import Teacher
from tests.conftest import SIZE, TEACHER, Cli, generate_line, make_settings

pytestmark = pytest.mark.unit


def test_estimate_tries_one_process_whatever_is_to_run(
    images: Path, weights: Path, teacher: Teacher, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by hand: four views in the 27 s that two processes and Ray take to start were taken for a rate."""
    tried: list[Execution] = []

    def trial(*arguments: Any) -> Manifest:
        tried.append(arguments[4])
        return generate(*arguments)

    monkeypatch.setattr(estimate, "generate", trial)
    line = ("estimate", *generate_line(images, weights))
    line = (*line, "--seconds", 1, "--device", "cpu", "--json")
    for more in (("--processes", 2), ("--engine", "ray", "--ray-address", "192.0.2.1:6379")):
        code, out, err = cli(*line, *more)
        assert code == 0, err
        assert json.loads(out)["several"] is None  # processes on one CPU are one device
    assert {(each.engine, each.devices, each.address) for each in tried} == {("local", (), None)}
    assert all(each.workers >= 0 for each in tried)
    source = ImageFolder.open(images)
    on_two = Generation(source, teacher, make_settings(source, teacher, views=2), Execution(8, 0, devices=("cuda:0", "cuda:1")))
    monkeypatch.setattr(generation, "prepare", lambda given: on_two)
    code, out, err = cli(*line)
    assert (code, json.loads(out)["several"]["devices"]) == (0, 2), err


def test_bench_generate_is_for_one_process(images: Path, weights: Path, cli: Cli) -> None:
    line = ("bench", "generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE)
    for more in (("--processes", 2), ("--engine", "ray"), ("--device", "cuda:0,cuda:1")):
        code, _, err = cli(*line, *more)
        assert (code, "`reinforce bench engines` compares" in err) == (2, True), err
    code, _, err = cli("bench", "engines", *line[2:], "--engine", "ray")
    assert (code, "all engines are compared" in err) == (2, True), err


def test_bench_engines_compares_one_device_with_all() -> None:
    assert ways(["cpu"], 2, ["--ray-address", "auto"]) == {
        "1 process": [["--device", "cpu"]],
        "2 processes": [["--device", "cpu", "--processes", "2"]],
        "2 shares": [["--share", "1/2", "--device", "cpu"], ["--share", "2/2", "--device", "cpu"]],
        "ray, 2 actors": [["--engine", "ray", "--device", "cpu", "--processes", "2", "--ray-address", "auto"]],
    }
    on_two = ways(["cuda:0", "cuda:1"], 1, None)
    assert on_two["1 process"] == [["--device", "cuda:0"]]
    assert on_two["2 processes"] == [["--device", "cuda:0,cuda:1", "--processes", "1"]]
    assert on_two["2 shares"] == [["--share", "1/2", "--device", "cuda:0"], ["--share", "2/2", "--device", "cuda:1"]]
    assert list(ways(["cuda:0"], 1, [])) == ["1 process", "1 shares", "ray, 1 actors"]


@pytest.mark.slow
@pytest.mark.process
def test_bench_engines_runs_stage_one_in_processes_and_in_shares(images: Path, weights: Path, cli: Cli) -> None:
    line = ("bench", "engines", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE)
    code, out, err = cli(*line, "--views", 2, "--block-size", 2, "--rounds", 1, "--device", "cpu", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert [row["name"] for row in said["rows"]][:3] == ["1 process", "2 processes", "2 shares"]
    assert all(row["median"] > 0 for row in said["rows"])
    assert err.count("s to the first block") == len(said["rows"])
    code, _, err = cli(*line, "--views", 2, "--block-size", 8, "--rounds", 1)
    assert code == 1
    assert "too few blocks" in err


@pytest.mark.process
@pytest.mark.slow
def test_the_gpu_script_runs_on_a_cpu(images: Path, tmp_path: Path) -> None:
    script, flat = Path(__file__).parent / "gpu.sh", tmp_path / "flat"
    flat.mkdir()
    for path in images.glob("*/*"):
        shutil.copy(path, flat / f"{path.parent.name}-{path.name}")
    where = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    line: list[str | Path] = ["bash", script, "--device", "cpu", "--images", flat, "--out", tmp_path / "out"]
    env = {**os.environ, "PATH": where, "PYTHON": sys.executable}
    done = subprocess.run(line, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert list(found) == ["engines", "generate-test_resnet", "loader", "step"]
    assert "2 processes" in done.stdout
    assert "bare teacher" in done.stdout
    assert "replay" in done.stdout
    assert subprocess.run(["bash", script, "--images", tmp_path / "none"], capture_output=True).returncode == 2
