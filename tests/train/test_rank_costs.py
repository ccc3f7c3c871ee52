"""Several processes: what a step waits for beside its gradients, how a run ends on all of them, and who gets which cores."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from reinforce.teachers.device import default_workers
from reinforce.train.checkpoint import load_checkpoint
from reinforce.train.run import LAST
from tests.train.torchrun import run, torchrun

pytestmark = pytest.mark.process


@pytest.mark.slow
def test_a_step_waits_for_no_other_process_but_in_its_gradients(images: Path, store: Path, val: Path, tmp_path: Path) -> None:
    code, said, seen = run(2, [images, store, val], tmp_path / "run", epochs=1)
    assert code == 0, said
    assert len(seen[0]) == 3
    for rank in range(2):
        *waits, _ = json.loads((tmp_path / "run-seen" / f"{rank}-waits.json").read_text())  # behind the last come the metrics
        assert waits == [0, 0]


@pytest.mark.slow
def test_what_one_process_is_asked_all_of_them_do_at_the_same_step(
    images: Path, store: Path, val: Path, tmp_path: Path
) -> None:
    code, said, seen = run(2, [images, store, val], tmp_path / "run", epochs=4, signal=[1, 2])
    assert code != 0
    assert "Training was interrupted" in said
    assert [len(steps) for steps in seen] == [3, 3]  # asked after the second, heard after the third, the last of its epoch
    state = load_checkpoint(tmp_path / "run" / LAST)
    assert (state["epoch"], state["step"]) == (1, 0)
    code, said, seen = run(2, [images, store, val], tmp_path / "run", epochs=4, resume=True)
    assert code == 0, said
    assert [len(steps) for steps in seen] == [9, 9]


CORES = """
import os, sys
import torch
os.sched_getaffinity = lambda process: range(24)
from reinforce.teachers.device import default_workers
from reinforce.train.ranks import joined, local_processes
with joined("cpu") as ranks:
    found = [default_workers(torch.device(name), local_processes()) for name in ("cuda", "cpu")]
    found = ranks.sum(torch.tensor(found)).tolist()
    print(found) if ranks.writes else None
"""


@pytest.mark.slow
def test_the_processes_of_a_machine_share_its_cores(tmp_path: Path) -> None:
    (tmp_path / "cores.py").write_text(CORES)
    done = torchrun(2, tmp_path / "cores.py")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [24, 2]  # 12 of 24 cores each beside a GPU, one each beside a model on its cores


def test_each_process_has_a_decoding_one_beside_a_gpu_and_few_cores_are_left_to_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(24), raising=False)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert [default_workers(cuda, n) for n in (1, 2, 8, 100)] == [16, 12, 3, 1]
    assert [default_workers(cpu, n) for n in (1, 4, 6)] == [1, 1, 0]
