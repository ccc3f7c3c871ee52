"""What docs/clusters.md shows is valid, and its commands, run as processes, make the data set of the plain command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import SIZE, TEACHER, content, run_cli

pytestmark = [pytest.mark.process, pytest.mark.slow]

TEXT = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text()
BLOCKS = dict(re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL))
JOBS = 2


@pytest.fixture
def small(images: Path, weights: Path, tmp_path: Path) -> dict[str, str]:
    """What the page names, and small things of the same kind. The rest of the commands is run as it stands."""
    return {
        "/data/imagenet/train": str(images), "tresnet_l": f"{TEACHER} --teacher-weights {weights}",
        "--views 300": f"--views 2 --size {SIZE} --block-size 5 --workers 0 --limit 20",
        "/data/labels/usi": str(tmp_path / "out"),
    }  # fmt: skip


def _shrunk(text: str, small: dict[str, str]) -> str:
    for shown, real in small.items():
        assert shown in text
        text = text.replace(shown, real)
    return text


def _run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, timeout=240)


def _plain(small: dict[str, str], tmp_path: Path) -> dict[str, bytes]:
    line = f"generate --data /data/imagenet/train --teacher tresnet_l --policy usi --views 300 --out {tmp_path / 'plain'}"
    for shown, real in small.items():
        line = line.replace(shown, real)
    assert run_cli(*line.split()).returncode == 0
    return content(tmp_path / "plain")


def test_the_slurm_script(small: dict[str, str], tmp_path: Path) -> None:
    script = BLOCKS["bash"]
    assert script.startswith("#!/bin/bash\n")
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    options = re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", script, re.MULTILINE)
    assert len(options) == script.count("#SBATCH")
    assert dict(options)["array"] == "1-64"  # as `--share` counts
    for task in range(1, JOBS + 1):
        done = _run(_shrunk(script, small), SLURM_ARRAY_TASK_ID=f"{task}", SLURM_ARRAY_TASK_COUNT=f"{JOBS}")
        assert done.returncode == 0, done.stderr
    assert content(tmp_path / "out") == _plain(small, tmp_path)


def test_the_kubernetes_job(small: dict[str, str], tmp_path: Path) -> None:
    job = yaml.safe_load(BLOCKS["yaml"])
    assert (job["apiVersion"], job["kind"], job["spec"]["completionMode"]) == ("batch/v1", "Job", "Indexed")
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["command"] == ["bash", "-c"]
    assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    assert pod["restartPolicy"] == "Never"  # what `backoffLimitPerIndex` asks for
    (script,) = container["args"]
    assert script.endswith(f"/{job['spec']['completions']}")
    script = _shrunk(script.removesuffix("/64") + f"/{JOBS}", small)
    for index in range(JOBS):
        done = _run(script, JOB_COMPLETION_INDEX=f"{index}")
        assert done.returncode == 0, done.stderr
    assert content(tmp_path / "out") == _plain(small, tmp_path)
