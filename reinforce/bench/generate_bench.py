"""Generate bench: compare stage one with a bare loop of the same teacher over prepared batches, for as many views."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import torch

from reinforce.bench.rounds import Run
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.generation.ready_batches import ready_batches
from reinforce.labels.sparse import kl_divergence
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.teachers.teacher import Teacher, labeller_of


def contenders(source: Source, teacher: Teacher, settings: Settings, execution: Execution, scratch: Path) -> dict[str, Run]:
    """The bare loop and `generate`: functions that take a round's number and return the seconds for all views of `source`.

    Args:
        source: The images.
        teacher: The teacher of both contenders.
        settings: Settings of the data set that `generate` makes.
        execution: How `generate` runs: batch size, workers, engine.
        scratch: An empty folder.
    """
    labeller, total = labeller_of(teacher, settings), len(source) * settings.views
    batches = ready_batches(source, settings, execution.batch_size)

    def bare(number: int) -> float:
        started = time.perf_counter()
        for index, first in enumerate(range(0, total, execution.batch_size)):
            labeller(batches[index % len(batches)][: total - first]).cpu()
        return time.perf_counter() - started

    def whole(number: int) -> float:
        out = scratch / f"round-{number}"
        started = time.perf_counter()
        generate(source, teacher, settings, out, execution)
        seconds = time.perf_counter() - started
        shutil.rmtree(out)
        return seconds

    labeller(batches[0])  # starts threads and loads kernels before the first round
    return {"bare teacher": bare, "generate": whole}


def precision_error(source: Source, teacher: Teacher, settings: Settings, batch_size: int) -> tuple[float, float]:
    """How bfloat16 changes the labels of a few batches: mean KL(fp32 || bf16) in nats, and share of equal top classes."""
    batches = ready_batches(source, settings, batch_size)
    found = {}
    chosen = teacher.precision
    for teacher.precision in ("fp32", "bf16"):
        found[teacher.precision] = torch.cat([teacher(batch).float().cpu() for batch in batches])
    teacher.precision = chosen
    true, rounded = found["fp32"], found["bf16"]
    agreeing = (true.argmax(dim=1) == rounded.argmax(dim=1)).float().mean()
    return float(kl_divergence(true, rounded / rounded.sum(dim=1, keepdim=True)).mean()), float(agreeing)
