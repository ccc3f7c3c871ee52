"""Step bench: compares a training step in replay mode with a plain one and one with a live teacher, on the same batch."""

from __future__ import annotations

import time

import numpy as np
import timm
import torch

from reinforce.bench.rounds import Run
from reinforce.labels.codecs import NAMED_CODECS
from reinforce.labels.sparse import SparseLabel, SparseLabels
from reinforce.replay.targets import Targets
from reinforce.teachers.random_teacher import random_teacher
from reinforce.teachers.short_names import timm_name
from reinforce.train.losses import LossWeights
from reinforce.train.ranks import Ranks
from reinforce.train.recipe import Recipe, load_recipe
from reinforce.train.step import Stepper
from reinforce.train.tasks import OnlineTask, PlainTask, ReplayTask, StudentTask
from reinforce.views.seeds import choice_rng

_VIEWS = 16


def a_batch(batch_size: int, size: int, num_classes: int) -> tuple[torch.Tensor, Targets]:
    """Images of noise, and targets; the soft labels have about 50 likely classes and were encoded with the default codec."""
    rng, codec = choice_rng(0), NAMED_CODECS["sqrt"]
    labels: list[SparseLabel] = []
    while len(labels) < batch_size:
        odds = np.full((_VIEWS, num_classes), 1e-3)
        own = rng.choice(num_classes, min(50, num_classes), replace=False)
        odds[:, own] = np.exp(rng.normal(0, 1.5, (_VIEWS, len(own))) + np.linspace(6, 0, len(own)))
        record = codec.encode((odds / odds.sum(axis=1, keepdims=True)).astype(np.float32))
        labels += codec.decode_all(record, _VIEWS, num_classes)
    images = torch.from_numpy(rng.integers(0, 256, (batch_size, 3, size, size), np.uint8))
    hard = torch.from_numpy(rng.integers(0, num_classes, batch_size))
    return images, Targets(hard, SparseLabels.stack(labels[:batch_size], num_classes))


def contenders(
    student: str, teacher: str | None, ranks: Ranks, *, size: int, batch_size: int, num_classes: int, amp: bool, steps: int
) -> dict[str, Run]:
    """The modes to compare.

    Args:
        student: timm model; each mode has its own copy with the same initial weights.
        teacher: timm model for the live teacher, with random weights; None: without the mode `online`.
        ranks: The device to compute on.
        size: Height and width of a view in pixels.
        batch_size: Views in a batch.
        num_classes: C, the number of classes.
        amp: Whether to use mixed precision with bfloat16.
        steps: Steps that a round measures, after one that is not counted.

    Returns:
        Functions from the number of a round to milliseconds per step; a step begins with a batch in host memory and ends with
        updated weights.
    """
    images, targets = a_batch(batch_size, size, num_classes)
    if ranks.device.type == "cuda":
        images, targets = images.pin_memory(), targets.pin_memory()
    recipe = load_recipe("kd", {"amp": amp, "batch_size": batch_size})

    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        made = timm.create_model(timm_name(student), num_classes=num_classes).to(ranks.device)
        return made.to(memory_format=torch.channels_last) if ranks.device.type == "cuda" else made

    weights = LossWeights()
    tasks: dict[str, StudentTask] = {
        "plain": PlainTask(model(), weights, ranks.device),
        "replay": ReplayTask(model(), weights, ranks.device),
    }
    if teacher is not None:
        precision = "bf16" if amp else "fp32"
        live = random_teacher(teacher, num_classes=num_classes, size=size, device=ranks.device, precision=precision)
        tasks["online"] = OnlineTask(model(), live, weights, ranks.device)
    return {name: _runner(task, recipe, ranks, images, targets, steps) for name, task in tasks.items()}


def _runner(task: StudentTask, recipe: Recipe, ranks: Ranks, images: torch.Tensor, targets: Targets, steps: int) -> Run:
    stepper = Stepper(task, recipe, 1000, ranks)
    task.train()
    device = ranks.device

    def step(update: int) -> None:
        stepper.begin(update)
        moved = images.to(device, non_blocking=True)
        moved = moved.contiguous(memory_format=torch.channels_last) if device.type == "cuda" else moved
        stepper.accumulate(moved, targets.to(device, non_blocking=True), 1.0, True)
        stepper.finish(update)

    def run(number: int) -> float:
        first = number * (steps + 1)
        step(first)
        _wait(device)
        started = time.perf_counter()
        for update in range(first + 1, first + 1 + steps):
            step(update)
        _wait(device)
        return 1e3 * (time.perf_counter() - started) / steps

    return run


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
