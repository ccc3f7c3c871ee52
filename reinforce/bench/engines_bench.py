"""Engines bench: stage one in one process, in several, and in shares, as commands, each with one thread per process.

A rate is that of the commits: images of the blocks after the first few, through the time between these and the last one.
Starting the processes is told beside it, in seconds, because it weighs little in a run of hours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from reinforce.bench.rounds import Run
from reinforce.errors import ReinforceError
from reinforce.store.store import read_manifest

Say = Callable[[str], None]


def ways(devices: list[str], processes: int, ray: list[str] | None) -> dict[str, list[list[str]]]:
    """Options of the commands of each contender, by its name; the commands of one run at the same time.

    Args:
        devices: Torch devices, `cpu` or CUDA devices; the first contender has the first of them.
        processes: On each device.
        ray: Options for a Ray cluster; None: there is no Ray.
    """
    many, whole = len(devices) * processes, ["--processes", str(processes)]
    each = [["--share", f"{i + 1}/{many}", "--device", devices[i % len(devices)]] for i in range(many)]
    found = {"1 process": [["--device", devices[0]]]}
    if many > 1:
        found[f"{many} processes"] = [["--device", ",".join(devices), *whole]]
    found[f"{many} shares"] = each
    if ray is not None:
        found[f"ray, {many} actors"] = [["--engine", "ray", "--device", devices[0].partition(":")[0], *whole, *ray]]
    return found


def contenders(line: list[str], of: dict[str, list[list[str]]], scratch: Path, say: Say, skipped: int) -> dict[str, Run]:
    """Functions that take a round's number and return images per second.

    Args:
        line: Options of `generate` that are the same for all.
        of: More options, as `ways` gives them.
        scratch: An empty folder.
        say: Called with a line about each run.
        skipped: How many blocks are committed before the time is taken.
    """

    def contender(name: str, commands: list[list[str]]) -> Run:
        def run(number: int) -> float:
            out = scratch / f"{name.replace(' ', '-')}-{number}"
            started, begun = time.time(), time.perf_counter()
            with ExitStack() as stack:
                running = [stack.enter_context(_start([*line, *more, "--out", str(out)])) for more in commands]
                for process in running:  # if one fails, the others are killed before they are waited for
                    stack.callback(process.kill)
                for process in running:
                    _, said = process.communicate()
                    if process.returncode:
                        raise ReinforceError(f"{name} failed.", found=said.decode(errors="replace").strip()[-500:])
            rate, first = _rate(out, skipped, started)
            say(f"{name}: {rate:.2f} images/s, {time.perf_counter() - begun:.1f} s in all, {first:.1f} s to the first block")
            shutil.rmtree(out)
            return rate

        return run

    return {name: contender(name, each) for name, each in of.items()}


def _start(options: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "reinforce.cli.main", "generate", *options]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _rate(out: Path, skipped: int, started: float) -> tuple[float, float]:
    """Images per second after the first `skipped` blocks, and seconds to the first block."""
    settings = read_manifest(out).settings
    times = sorted(path.stat().st_mtime for path in (out / "blocks").iterdir())
    if len(times) < 3 * skipped:
        raise ReinforceError(
            "There are too few blocks to measure a rate.", found=len(times), expected=f"{3 * skipped}", fix="--block-size 4"
        )
    images = settings.source.num_samples - skipped * settings.block_size
    return images / (times[-1] - times[skipped - 1]), times[0] - started
