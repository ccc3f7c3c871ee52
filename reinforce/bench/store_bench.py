"""Store bench: the cost of opening a reinforced dataset of any size, of beginning an epoch, and of reading one label.

The store is synthetic: a few real blocks with random labels, hard-linked under as many names as the size needs. Each block and
sample is really read. Only the page cache is used less than with a real store, as linked blocks share their pages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from reinforce.bench.plot import new_figure
from reinforce.errors import UsageError
from reinforce.files import write_atomic
from reinforce.labels.codec import encode_stripes
from reinforce.labels.codecs import NAMED_CODECS
from reinforce.settings import Settings, SourceInfo, TeacherInfo, to_json
from reinforce.store.block import BlockData, block_path, write_block
from reinforce.store.manifest import Counts, Manifest, Statistics
from reinforce.store.probes import environment
from reinforce.store.samples import Samples
from reinforce.store.store import MANIFEST, SAMPLES
from reinforce.views.layout import pixel_spec
from reinforce.views.params import OP_SLOT_BASE, Field
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import choice_rng

BLOCK = 512
DEFAULT = (
    (10_000, 10, 1000), (10_000, 50, 1000), (10_000, 300, 1000),
    (10_000, 50, 21_841),
    (100_000, 50, 1000), (1_281_167, 50, 1000), (1_281_167, 300, 1000),
)  # fmt: skip
"""(samples, views, classes): sizes that grow in each of the three, up to ImageNet's."""
COLUMNS = {
    "label_bytes": "label B/view",
    "params_bytes": "params B/view",
    "opening_s": "opening, s",
    "first_epoch_s": "first epoch, s",
    "epoch_s": "later epochs, s",
    "read_us": "label and params of a sample, us",
    "memory_mb": "own memory, MB",
}
_REAL_BLOCKS = 4
_MEASURE = """
import json, sys, time
started = time.perf_counter()
import numpy as np
from reinforce.replay.epoch import Epoch
from reinforce.views.seeds import choice_rng
from reinforce.store.store import Store
def private():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(l.split()[1]) for l in lines if l.startswith("RssAnon")) / 1024
def timed(work):
    begin = time.perf_counter()
    result = work()
    return result, time.perf_counter() - begin
before = private()
store, opening = timed(lambda: Store(sys.argv[1]))
epochs, views = [], store.settings.views
for number in range(3):
    epoch, seconds = timed(lambda: Epoch.read(store, number, seed=0, num_views=views))
    epochs.append(seconds)
order = choice_rng(0).permutation(len(store.samples))[: 20000].tolist()
def read():
    for sample in order:
        store.label_of(sample, int(epoch.views[0, store.samples.block[sample]])), epoch.params[0, sample]
_, first = timed(read)
_, again = timed(read)
print(json.dumps({"opening_s": opening, "first_epoch_s": epochs[0], "epoch_s": min(epochs[1:]), "memory_mb": private() - before,
                  "first_read_us": 1e6 * first / len(order), "read_us": 1e6 * again / len(order)}))
"""


def parse_size(text: str) -> tuple[int, int, int]:
    """Samples, views and classes of `SAMPLESxVIEWSxCLASSES`.

    Raises:
        UsageError: the text has another form.
    """
    parts = text.split("x")
    if len(parts) != 3 or not all(p.isdecimal() and 0 < int(p) < 1 << 24 for p in parts) or int(parts[1]) > 65535:
        raise UsageError(f"--size {text} is not valid.", expected="SAMPLESxVIEWSxCLASSES", fix="--size 10000x50x1000")
    return int(parts[0]), int(parts[1]), int(parts[2])


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| samples | views | classes | " + " | ".join(COLUMNS.values()) + " |", "|---" * (3 + len(COLUMNS)) + "|"]
    for row in rows:
        cells = [f"{row[name]:.{2 if name.endswith('_s') else 1}f}" for name in COLUMNS]
        lines.append(f"| {row['samples']:,} | {row['views']} | {row['classes']:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot_costs(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw the cost of opening, of beginning an epoch and of reading, over samples x views, which is a logarithmic axis.

    Raises:
        UsageError: matplotlib is not installed.
    """
    figure = new_figure(10, 4)
    seconds, micro = figure.subplots(1, 2)
    total = [row["samples"] * row["views"] for row in rows]
    for name in ("opening_s", "first_epoch_s", "epoch_s"):
        seconds.scatter(total, [row[name] for row in rows], label=COLUMNS[name])
    micro.scatter(total, [row["read_us"] for row in rows], label=COLUMNS["read_us"])
    for axes in (seconds, micro):
        axes.set(xscale="log", xlabel="samples x views")
        axes.legend()
        axes.grid(alpha=0.3)
    seconds.set(yscale="log", ylabel="seconds")
    micro.set(ylim=(0, None), ylabel="microseconds")
    for row, x in zip(rows, total, strict=True):
        label = f"{row['views']} views" + (f", {row['classes']} classes" if row["classes"] != 1000 else "")
        micro.annotate(label, (x, row["read_us"]), fontsize=7, textcoords="offset points", xytext=(4, 4))
    figure.savefig(path, dpi=110)


def synthesise(out: Path, samples: int, views: int, classes: int) -> dict[str, float]:
    """Write a store of that size; returns the bytes per view of labels and of params in its real blocks."""
    rng, codec = choice_rng(0), NAMED_CODECS["sqrt"]
    policy = parse_policy("rrc-ra")
    settings = Settings(
        source=SourceInfo(kind="folder", num_samples=samples, class_names=[], index_sha256="0" * 64),
        teachers=[_teacher(classes)],
        precision="fp32",
        policy=policy,
        size=224,
        views=views,
        seed=0,
        codec=codec.to_dict(),
        num_classes=classes,
        block_size=BLOCK,
    )
    fields = pixel_spec(policy, 224).fields
    (out / "blocks").mkdir(parents=True)
    sizes = {"labels": 0, "params": 0}
    whole, rest = divmod(samples, BLOCK)
    table = Samples.empty(tuple(f"{i // 1300:04d}/{i:08d}" for i in range(samples)), [None] * samples)
    table.sha256[:] = rng.integers(1, 256, table.sha256.shape)
    files: dict[str, str] = {}
    for number in range(whole + bool(rest)):
        count = BLOCK if number < whole else rest
        kind = number % _REAL_BLOCKS if number < whole else number
        if number == kind:
            data = _random_block(rng, count, settings, fields)
            sizes["labels"] += sum(map(len, data.records)) * (number < _REAL_BLOCKS)
            write_block(out, number, data)
        else:
            shutil.copytree(block_path(out, kind), block_path(out, number), copy_function=os.link)
        rows = np.arange(number * BLOCK, number * BLOCK + count)
        table.block[rows], table.row[rows] = number, np.arange(count)
        table.width_height[rows] = 500, 375
        root = block_path(out, number)
        files.update({f.relative_to(out).as_posix(): "0" * 64 for f in root.rglob("*") if f.is_file()})
    shards = list(block_path(out, 0).glob("params*/c/0/0/0"))
    real = min(samples, _REAL_BLOCKS * BLOCK) * views
    write_atomic(out / SAMPLES, table.to_parquet())
    statistics = Statistics(
        top1_probability=0.5, remainder=0.1, hard_label_agreement=None, codec_samples=0, codec_kl=None, codec_top1_bias=None,
        codec_image_bias=None,
    )  # fmt: skip
    manifest = Manifest(
        settings=settings,
        environment=environment(),
        counts=Counts(ok=samples, missing=0, corrupt=0),
        statistics=statistics,
        params_fields=list(fields),
        files=files | {SAMPLES: "0" * 64},
    )
    write_atomic(out / MANIFEST, to_json(manifest).encode())
    params = sum(s.stat().st_size for s in shards) / (min(samples, BLOCK) * views)
    return {"label_bytes": sizes["labels"] / real, "params_bytes": params}


def measure_store(root: Path) -> dict[str, float]:
    """Open, begin epochs and read labels in a new process; returns seconds, microseconds per sample, megabytes of memory."""
    import json

    done = subprocess.run([sys.executable, "-c", _MEASURE, str(root)], capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def _random_block(rng: np.random.Generator, count: int, settings: Settings, fields: tuple[int, ...]) -> BlockData:
    """A block with random boxes and ops for the columns of `rrc-ra`, and labels with up to 50 likely classes for each image."""
    views, classes = settings.views, settings.num_classes
    data = BlockData.empty(count, views, len(fields), settings.stripe_views)
    codec = NAMED_CODECS["sqrt"]
    for column, field in enumerate(fields):
        high = 300 if field <= Field.CROP_WIDTH else 3 if field < OP_SLOT_BASE else (16, 3, 1 << 17, 1 << 17)[field % 4]
        data.params[:, :, column] = rng.integers(0, high, (count, views))
    for row in range(count):
        own = rng.choice(classes, min(classes, 50), replace=False)
        scores = rng.normal(0, 1.5, (views, len(own))) + np.linspace(6, 0, len(own))
        odds = np.full((views, classes), 1e-3)
        odds[:, own] = np.exp(scores)
        probs = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        data.set_records(row, encode_stripes(codec, probs, settings.stripe_views))
        data.sha256[row] = 1
    return data


def _teacher(classes: int) -> TeacherInfo:
    half = (0.5, 0.5, 0.5)
    return TeacherInfo(
        name="synthetic", kwargs={}, weights_sha256="0" * 64, num_classes=classes, mean=half, std=half, class_map=None
    )
