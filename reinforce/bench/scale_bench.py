"""Scale bench: a data set of N tiny images goes through all that is done with one, and each step tells its time and memory.

The images are 512 small JPEGs, again and again, each with a comment of its own, so that all bytes differ.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reinforce.bench.plot import new_figure
from reinforce.bench.scale_steps import CLASSES, SIZE, STEPS
from reinforce.errors import UsageError
from reinforce.sources.pack_manifest import CLASS_NAMES
from reinforce.views.seeds import choice_rng

SHARD = 10_000
"""Samples of a shard."""
BLOCK = 512
MOST_GENERATED = 40
"""Blocks that are generated; all others but the last one are copies of these."""


def make_images(root: Path, samples: int) -> None:
    """Write shards of so many images, with class ids, to `root/images`."""
    bases = [_jpeg(number) for number in range(BLOCK)]
    (root / "images").mkdir(parents=True)
    for first in range(0, samples, SHARD):
        with open(root / "images" / f"shard-{first // SHARD:05d}.tar", "wb") as file:
            for number in range(first, min(first + SHARD, samples)):
                folder = number * CLASSES // samples
                name, base = f"n{folder:08d}/n{folder:08d}_{number}", bases[number % BLOCK]
                comment = b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big")
                _write(file, f"{name}.cls", str(number % BLOCK).encode())
                _write(file, f"{name}.jpg", base[:2] + comment + base[2:])
            file.write(bytes(1024))
    (root / "images" / CLASS_NAMES).write_text(json.dumps([f"n{number:08d}" for number in range(CLASSES)]))


def _jpeg(number: int) -> bytes:
    coarse = choice_rng(number).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BILINEAR).save(sink, "JPEG", quality=80)
    return sink.getvalue()


def _write(file: io.BufferedWriter, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    file.write(about.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512))


def measure_scale(
    root: Path, samples: int, steps: list[str], on_step: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Make images in an empty folder, and do the steps, each in a new process.

    Args:
        root: The folder; about 12 kB for each sample are written to it.
        samples: Number of images.
        steps: Names of `STEPS`, in order.
        on_step: Called with a line of text before each step.

    Returns:
        A row per step: `step`, `seconds`, `cpu_s` (with its workers), `memory_mb` and `workers_mb` (highest memory above that
        after the imports, of the process and of the largest of its workers), `parts` (seconds of parts of it, by
        name, and of the longest time without progress).

    Raises:
        UsageError: fewer samples than three blocks have, of which one must be missing when it is resumed.
    """
    if samples <= 2 * BLOCK:
        raise UsageError(f"--samples {samples} is too few.", expected=f"more than {2 * BLOCK}")
    on_step("images")
    make_images(root, samples)
    blocks = -(-samples // BLOCK)
    generated = min(MOST_GENERATED, blocks - 1) * BLOCK
    (root / "about.json").write_text(json.dumps({"generated": generated, "block_size": BLOCK}))
    rows = []
    for step in steps:
        on_step(step)
        rows.append({"step": step, **_step(root, step)})
    return rows


def _step(root: Path, step: str) -> dict[str, Any]:
    line = [sys.executable, "-m", "reinforce.bench.scale_steps", str(root), step]
    environ = {**os.environ, "REINFORCE_CACHE": str(root / "cache")}
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True, env=environ, check=False)
    if done.returncode not in (0, -9) or not done.stdout:
        raise UsageError(f"The step {step!r} failed.", found=f"exit code {done.returncode}", fix="see what it said above")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def parse_steps(text: str | None) -> list[str]:
    """The steps up to one that is named; None: all.

    Raises:
        UsageError: there is no such step.
    """
    names = list(STEPS)
    if text is not None and text not in names:
        raise UsageError(f"There is no step {text!r}.", expected=", ".join(names))
    return names if text is None else names[: names.index(text) + 1]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| step | seconds | CPU seconds | memory, MB | workers, MB | of it, seconds |", "|---|---|---|---|---|---|"]
    for row in rows:
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in row["parts"].items())
        used = f"{row['seconds']:.1f} | {row['cpu_s']:.1f} | {row['memory_mb']:.0f} | {row['workers_mb']:.0f}"
        lines.append(f"| {row['step']} | {used} | {parts} |")
    return "\n".join(lines)


def plot_scale(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw CPU seconds and memory of each step over the number of samples, all axes logarithmic.

    Args:
        runs: What `bench scale --json` printed, one for each size.
        path: A PNG file.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure = new_figure(12, 5)
    labels = {"cpu_s": "CPU seconds", "memory_mb": "memory above the imports, MB"}
    runs = sorted(runs, key=lambda run: int(run["conditions"]["samples"]))
    for axes, name in zip(figure.subplots(1, 2), labels, strict=True):
        for step, marker in zip(STEPS, "osD^v<>pPXh*", strict=True):
            found = [(run["conditions"]["samples"], row[name]) for run in runs for row in run["rows"] if row["step"] == step]
            if len(found) > 1 and step != "copy":
                axes.plot(*zip(*found, strict=True), marker=marker, label=step)
        axes.set(xscale="log", yscale="log", xlabel="samples", ylabel=labels[name])
        axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=110)
