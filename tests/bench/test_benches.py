"""Measuring: contenders take turns and are compared within a round; the benches run on real parts; memory stays where it is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reinforce.bench import rounds
from reinforce.bench.rounds import measure, table
from reinforce.bench.scale_bench import make_images
from reinforce.bench.scale_bench import table as scale_table
from reinforce.bench.scale_steps import STEPS
from reinforce.cli.estimate import _limit
from reinforce.generation.estimate import Rates, affordable_views, cost, throughput
from reinforce.store.block import committed_blocks
from reinforce.store.manifest import Environment
from reinforce.store.probes import environment
from reinforce.views import kernels
from reinforce.views.operations import OPERATIONS
from tests.conftest import SIZE, TEACHER, Cli

pytestmark = pytest.mark.unit


def test_contenders_take_turns_and_are_compared_within_a_round() -> None:
    order = []

    def contender(name: str, values: list[float]) -> Any:
        def run(number: int) -> float:
            order.append((number, name))
            return values[number]

        return run

    said: list[str] = []
    rows = measure({"a": contender("a", [1, 10, 2]), "b": contender("b", [3, 20, 8])}, 3, on_run=said.append)
    assert order == [(0, "a"), (0, "b"), (1, "b"), (1, "a"), (2, "a"), (2, "b")]
    assert rows[0] == {"name": "a", "median": 2, "low": 1, "high": 10, "ratio": 1.0}
    assert rows[1] == {"name": "b", "median": 8, "low": 3, "high": 20, "ratio": 3.0}  # of 3, 2 and 4
    assert len(said) == 6
    assert "| b | 8.0 (3.0 to 20.0) | 3.00 |" in table(rows, "s", digits=1)


def bench(cli: Cli, monkeypatch: pytest.MonkeyPatch, unit: str, digits: int, *line: object) -> dict[str, Any]:
    """What `bench ... --json` says, after a look at it: every number in its place, and the same run told as a table."""
    kept: list[list[dict[str, Any]]] = []

    def keeping(*arguments: Any, **options: Any) -> list[dict[str, Any]]:
        kept.append(measure(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr(rounds, "measure", keeping)
    code, out, err = cli("bench", *line, "--json")
    assert code == 0, err
    said = json.loads(out)
    groups = next(([v] if k == "rows" else list(v.values())) for k, v in said.items() if k != "conditions")
    about = said["conditions"]
    assert groups == kept
    for rows in groups:
        assert rows[0]["ratio"] == 1.0
        for row in rows:
            assert list(row) == ["name", "median", "low", "high", "ratio"]
            assert 0 < row["low"] <= row["median"] <= row["high"]
            having = [row["name"] in [other["name"] for other in group] for group in groups]
            assert err.count(f", {row['name']}: ") == about["rounds"] * sum(having)
    assert {name: about[name] for name in Environment.model_fields} == environment().model_dump()
    monkeypatch.setattr(rounds, "measure", lambda *arguments, **options: kept.pop(0))
    code, text, err = cli("bench", *line)
    assert code == 0, err
    for rows in groups:
        assert table(rows, unit, digits) in text
    assert all(f"{k} {v}" in text for k, v in about.items())
    return said


def test_what_a_plan_says_follows_from_its_rates() -> None:
    rates = Rates(generate=80.0, teacher=100.0, decode=50.0, label_bytes=15.0, params_bytes=10.0, images=4)
    found = cost(rates, samples=1000, views=36, epochs=72)
    assert found.views == 36_000
    assert found.hours == pytest.approx(36_000 / 80 / 3600)
    assert found.gigabytes == pytest.approx(36_000 * 25 / 1e9)
    assert found.online_hours == pytest.approx(72_000 / 100 / 3600)
    assert found.students == pytest.approx((36_000 / 80) / (72_000 / 100))
    assert affordable_views(2.0, 100.0, 1000) == 720


def test_several_devices_are_limited_by_the_teacher_or_by_decoding() -> None:
    rates = Rates(generate=80.0, teacher=100.0, decode=50.0, label_bytes=15.0, params_bytes=10.0, images=4)
    for devices, cores, views in ((1, 16, 80), (1, 1, 50), (8, 20, 800), (8, 12, 600)):
        reached = throughput(rates, devices, cores, on_cpu=False)
        assert reached.views == views
        assert cost(rates, 1000, 36, 72, reached).hours == pytest.approx(36_000 / views / 3600)
        assert ("decoding is the limit" in _limit(reached, cores)) == (cores * 50 == views)
    assert throughput(rates, 3, 2, on_cpu=True).views == 240  # three machines like this one


def test_plan_tries_stage_one_and_speaks(images: Path, weights: Path, cli: Cli) -> None:
    line = ("estimate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE, "--views", 3)
    code, out, err = cli(*line, "--seconds", 1, "--device", "cpu", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["cost"]["views"] == 24 * 3
    assert 4 <= said["rates"]["images"] <= 24
    rates, found = said["rates"], said["cost"]
    assert rates["teacher"] > 0
    assert found["hours"] == pytest.approx(72 / rates["generate"] / 3600)
    assert found["gigabytes"] == pytest.approx(72 * (rates["label_bytes"] + rates["params_bytes"]) / 1e9)
    code, out, _ = cli(*line, "--seconds", 1, "--samples", 1000, "--gpu-hours", 1, "--gpu-rate", 10)
    assert code == 0
    assert "in all       1000 images x 3 views" in out
    assert "1 hours at 10 views/s make 36 views of each image" in out
    assert "break-even" in out
    code, out, _ = cli(*line, "--seconds", 1, "--device", "cpu", "--devices", 8)
    assert code == 0
    assert "devices      8: " in out
    assert "each with cores of its own" in out
    code, _, err = cli(*line, "--gpu-hours", 1)
    assert code == 2
    assert "belong together" in err


def test_bench_generate_runs_the_teacher_alone_and_stage_one(
    images: Path, weights: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    line: tuple[object, ...] = ("generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights)
    line = (*line, "--size", SIZE, "--views", 2, "--limit", 6, "--rounds", 2, "--batch-size", 4, "--workers", 0)
    said = bench(cli, monkeypatch, "seconds", 1, *line, "--device", "cpu")
    assert [row["name"] for row in said["rows"]] == ["bare teacher", "generate"]
    asked = {"device": "cpu", "teacher": TEACHER, "precision": "fp32", "images": 6, "views": 2, "size": SIZE}
    asked |= {"batch_size": 4, "workers": 0, "rounds": 2}
    assert asked.items() <= said["conditions"].items()
    assert "kl_to_fp32" not in said["conditions"]


def test_bench_generate_says_what_bfloat16_does_to_the_labels(images: Path, weights: Path, cli: Cli) -> None:
    line = ("bench", "generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE)
    code, out, err = cli(*line, "--views", 2, "--limit", 6, "--rounds", 1, "--precision", "bf16", "--json")
    assert code == 0, err
    about = json.loads(out)["conditions"]
    assert 0 < about["kl_to_fp32"] < 0.01
    assert about["top1_as_fp32"] > 0.8


@pytest.mark.process
@pytest.mark.slow
def test_bench_loader_runs_every_loader_on_the_same_files(images: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("loader", "--data", images, "--size", 32, "--batch-size", 8, "--images", 48, "--rounds", 1)
    said = bench(cli, monkeypatch, "views/s of one process", 0, *line)
    assert list(said["policies"]) == ["rrc", "rrc-ra", "three-augment", "usi"]
    for rows in said["policies"].values():
        assert rows[0]["name"] == "timm"
        assert {"replay", "fresh views", "decoding alone"} <= {row["name"] for row in rows}
    assert {"data": str(images), "size": 32, "images": 48, "rounds": 1}.items() <= said["conditions"].items()
    code, _, err = cli("bench", *line, "--policy", "fkd")
    assert code == 2
    assert "rrc, rrc-ra, three-augment or usi" in err


@pytest.mark.slow
def test_bench_step_compares_the_modes_on_one_batch(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("step", "--student", "test_resnet", "--teacher", "test_vit2", "--size", 160, "--batch-size", 4)
    said = bench(cli, monkeypatch, "ms per step", 1, *line, "--classes", 20, "--steps", 1, "--rounds", 1, "--device", "cpu")
    (rows,) = said["students"].values()
    assert [row["name"] for row in rows] == ["plain", "replay", "online"]
    asked = {"device": "cpu", "amp": False, "rounds": 1, "size": 160, "batch_size": 4, "num_classes": 20, "steps": 1}
    assert asked.items() <= said["conditions"].items()


FAULTS = """
import resource, sys, numpy as np
from reinforce.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def touch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        np.ones(100 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
touch()
print(touch())
"""


@pytest.mark.process
def test_kept_memory_is_not_fetched_from_the_kernel_again() -> None:
    # In a process of its own: it holds for all of it.
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "leave")
    )
    assert kept < 50
    assert kept < given_back


@pytest.mark.process
@pytest.mark.slow
def test_bench_scale_measures_and_plots(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("bench", "scale", "--samples", 1100, "--until", "generate", "--scratch", tmp_path, "--json")
    assert code == 0, err
    said = json.loads(out)
    assert [row["step"] for row in said["rows"]] == ["index", "index again", "generate"]
    assert all(row["seconds"] > 0 and row["cpu_s"] > 0 and row["memory_mb"] >= 0 for row in said["rows"])
    assert said["conditions"]["samples"] == 1100
    assert not list(tmp_path.iterdir())
    assert all(0 < row["parts"]["longest silence"] < row["seconds"] + 1 for row in said["rows"])
    lines = [[cell.strip() for cell in line.split("|")] for line in scale_table(said["rows"]).splitlines()]
    assert {len(line) for line in lines} == {8}, "as many cells as the header says"
    assert lines[3][1:4] == ["index again", *(f"{said['rows'][1][name]:.1f}" for name in ("seconds", "cpu_s"))]
    runs: list[str | Path] = []
    for samples in (1100, 11_000):
        path = tmp_path / f"{samples}.json"
        runs += ["--runs", path]
        path.write_text(json.dumps({"conditions": {"samples": samples}, "rows": said["rows"]}))
    code, _, err = cli("bench", "scale", "--plot", tmp_path / "scale.png", *runs)
    assert (code, (tmp_path / "scale.png").read_bytes()[:4]) == (0, b"\x89PNG"), err


@pytest.mark.process
@pytest.mark.slow
def test_every_step_of_bench_scale_follows_those_before_it(tmp_path: Path) -> None:
    make_images(tmp_path, 1100)
    (tmp_path / "about.json").write_text(json.dumps({"generated": 512, "block_size": 512}))
    for name, step in STEPS.items():
        if name == "generate":
            line = [sys.executable, "-m", "reinforce.bench.scale_steps", str(tmp_path), name]
            done = subprocess.run(line, capture_output=True, text=True, check=False)
            assert (done.returncode, json.loads(done.stdout)["seconds"] > 0) == (-9, True), done.stderr
            assert committed_blocks(tmp_path / "labels") == {0}
        else:
            said = step(tmp_path)
            assert all(seconds > 0 for seconds in said.values())
        if name == "copy":
            assert committed_blocks(tmp_path / "labels") == {0, 1}
        if name == "resume":
            assert said.keys() == {"to the first sample", "finish"}


def test_bench_scale_refuses_what_it_cannot_measure(cli: Cli) -> None:
    for line, said in (
        (("--samples", 1000), "is too few"),
        (("--until", "lunch"), "There is no step"),
        (("--plot", "a.png"), "belong together"),
    ):
        code, _, err = cli("bench", "scale", *line)
        assert (code, said in err) == (2, True)


def test_bench_ops_knows_every_op_and_its_peers(cli: Cli) -> None:
    code, said, _ = cli("bench", "ops", "--size", 16, "--rounds", 1, "--json")
    assert code == 0
    found = {row["op"]: row for row in json.loads(said)["ops"]}
    assert {*found, "none", "solarize_add"} == {op.name.lower() for op in OPERATIONS.values()}
    for row in found.values():
        assert (row["compiled"] is None) == (kernels.compiled is None)
        assert all(row[name] > 0 for name in ("numpy", "pillow", "torchvision"))
    assert "| rotate |" in cli("bench", "ops", "--size", 16, "--rounds", 1)[1]
