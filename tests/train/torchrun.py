"""Runs of several processes through the real torchrun, as a user starts them; of one in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import forked
from tests.train import rank_train

ROOT = Path(__file__).parents[2]


def torchrun(world: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A script and its arguments in `world` processes."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *start, *map(str, arguments)], capture_output=True, text=True, env=env, timeout=200)


def run(world: int, data: list[Path], out: Path, **given: object) -> tuple[int | None, str, list[list[Any]]]:
    """Exit code, what was said, and what each rank saw."""
    seen = out.with_name(out.name + "-seen")
    seen.mkdir(exist_ok=True)
    arguments = [*map(str, [*data, out, seen]), *(f"{k}={json.dumps(v)}" for k, v in given.items())]
    if world == 1:
        code, said = forked.run(rank_train.main, arguments)
    else:
        done = torchrun(world, rank_train.__file__, *arguments)
        code, said = done.returncode, done.stderr
    files = [seen / f"{rank}.json" for rank in range(world)]
    return code, said, [json.loads(file.read_text()) for file in files if file.exists()]
