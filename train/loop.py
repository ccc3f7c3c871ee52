"""Loop: a training run, epoch by epoch and step by step.

The seed determines a run: order, views and torch's generator are derived from (seed, epoch). A checkpoint in the middle of an
epoch keeps the generator's state and the number of steps done, so on CPU a resumed run gives the same bits as one that was not
interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from reinforce.errors import ReinforceError, TooManyFilesError, UsageError, WorkerError
from reinforce.files import writing
from reinforce.locks import only_writer
from reinforce.memory import shortage
from reinforce.store.store import JOB, MANIFEST
from reinforce.train.config import TrainConfig
from reinforce.train.metrics import Line, LossSums
from reinforce.train.ranks import Ranks, joined
from reinforce.train.run import LAST, Position, Run, interrupted, saved_state
from reinforce.train.setup import build
from reinforce.train.stop import stop_flag

OnStep = Callable[[int, int, int], None]
"""Called with (epoch, steps done, steps of the epoch)."""
OnEpoch = Callable[[Line], None]
"""Called with the line that is written to metrics.jsonl."""


def train(
    config: TrainConfig, on_step: OnStep = lambda epoch, done, total: None, on_epoch: OnEpoch = lambda line: None
) -> dict[str, Any]:
    """Train a student; returns the content of `summary.json`.

    Raises:
        UsageError: the output folder already holds a run, and --resume is not given.
        SettingsError: --resume is given, but the settings differ from those of the checkpoint.
        ReplayError: images or pixels are not those that the teacher saw.
        DataError: losses or weights are no longer finite; the last checkpoint is from before that.
        Interrupted: by Ctrl-C or TERM; the state was saved.
    """
    with joined(config.device) as ranks:
        return _train(config, ranks, on_step, on_epoch)


def _train(config: TrainConfig, ranks: Ranks, on_step: OnStep, on_epoch: OnEpoch) -> dict[str, Any]:
    parts = build(config, ranks.device)
    if any((config.out / name).exists() for name in (MANIFEST, JOB)):
        raise UsageError(
            f"{config.out} is a reinforced dataset.", expected="a folder of its own for the run", fix="another --out"
        )
    state = saved_state(config, parts.identity)
    ranks.wait()  # until all ranks have looked into the folder; then rank 0 may write
    with stop_flag() as stop, _resumable(config):
        run = Run(config, parts, ranks, stop)
        if not ranks.writes:
            return _fit(run, run.restore(state), lambda epoch, done, total: None, lambda line: None)
        with writing(config.out):
            config.out.mkdir(parents=True, exist_ok=True)
            with only_writer(config.out):
                return _fit(run, run.restore(state), on_step, on_epoch)


@contextmanager
def _resumable(config: TrainConfig) -> Iterator[None]:
    """A run that ends for want of something of the machine's can go on: its error says how."""
    try:
        yield
    except (ReinforceError, MemoryError, RuntimeError) as error:
        short = error if isinstance(error, (WorkerError, TooManyFilesError)) else shortage(error)
        if short is None:
            raise
        kept = (config.out / LAST).exists()
        again = (
            "with --resume continues from the last checkpoint"
            if kept
            else "begins again; no checkpoint was made (--save-every)"
        )
        raise short.advised(f"the same command {again}") from error


def _fit(run: Run, start: Position, on_step: OnStep, on_epoch: OnEpoch) -> dict[str, Any]:
    run.metrics.write()
    for epoch in range(start.epoch, run.epochs):
        line = _epoch(run, start if epoch == start.epoch else Position(epoch), on_step)
        line |= run.evaluate(epoch)
        run.metrics.add(line)
        run.save_best(line)
        run.save(Position(epoch + 1))
        on_epoch(line)
        if epoch + 1 < run.epochs and run.stopping():
            raise interrupted()
    return run.summarise()


def _epoch(run: Run, start: Position, on_step: OnStep) -> Line:
    """Train one epoch, from step `start.step` on."""
    plan, stepper, sums, epoch = run.epoch_plan(start.epoch), run.stepper, LossSums(dict(start.sums)), start.epoch
    run.seed(epoch, start.step)
    run.task.train()
    started = time.perf_counter()
    for step, (images, targets) in plan.load(run.parts.views, run.ranks, start.step, run.config.workers):
        update = plan.update_of(step)
        if step == update.begin:
            stepper.begin(update.number)
        images, targets = run.on_device(images), targets.to(run.ranks.device, non_blocking=True)
        result = stepper.accumulate(images, targets, len(images) / update.views, update.ends)
        if update.ends:
            stepper.finish(update.number)
        sums.add(result, len(images))
        on_step(epoch, step + 1, plan.steps)
        if update.ends:
            _save_between(run, Position(epoch, step + 1, sums.sums), update.begin, plan.steps)
    seconds = time.perf_counter() - started
    run.require_finite(Position(epoch, plan.steps, sums.sums))
    losses = sums.means(run.ranks, plan.views_of(0, plan.steps))
    rate = plan.views_of(start.step, plan.steps) / seconds
    return {"epoch": epoch, "lr": stepper.lr, **losses, "seconds": seconds, "images_per_second": rate}


def _save_between(run: Run, at: Position, begin: int, steps: int) -> None:
    """Save between two updates if a save is due or the run must stop. Not after the last step: every epoch ends with a save."""
    every, stopping = run.config.save_every, run.stopping()
    due = every and at.step // every > begin // every
    if (stopping or due) and at.step < steps:
        run.require_finite(at)
        run.save(at)
        if stopping:
            raise interrupted()
