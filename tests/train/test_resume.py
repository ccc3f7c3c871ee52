"""Resuming: a run that was stopped, killed or broken off at any moment ends as an undisturbed one."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from reinforce.cli import main
from reinforce.errors import Interrupted
from reinforce.train.checkpoint import load_checkpoint, save_checkpoint
from reinforce.train.loop import train
from reinforce.train.metrics import SUMMARY
from reinforce.train.run import LAST
from tests.train.conftest import CASES, STEPS, Undisturbed, at, config, differences, metrics_of, resumed

pytestmark = pytest.mark.unit


def crash() -> None:
    raise RuntimeError("the power went")


@pytest.mark.parametrize("mode", CASES)
@pytest.mark.parametrize("when", [(0, 1), (0, STEPS), (1, 3)], ids=["first step", "end of an epoch", "mid-epoch"])
def test_a_run_that_is_stopped_and_resumed_ends_like_an_undisturbed_one(
    undisturbed: Undisturbed, tmp_path: Path, mode: str, when: Any
) -> None:
    reference = undisturbed(mode)
    stopped = dataclasses.replace(reference, out=tmp_path / "run")
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match="state is saved"):
        train(stopped, at(when, lambda: signal.raise_signal(signal.SIGINT)))
    assert signal.getsignal(signal.SIGINT) is before
    saved = load_checkpoint(tmp_path / "run" / LAST)
    assert (saved["epoch"], saved["step"]) == divmod(when[0] * STEPS + when[1], STEPS)
    steps = []
    train(resumed(reference, tmp_path / "run"), lambda epoch, done, total: steps.append((epoch, done)))
    assert steps == [(e, s) for e in range(3) for s in range(1, STEPS + 1) if (e, s) > when]
    assert differences(reference.out, tmp_path / "run") == []


@pytest.mark.parametrize("mode", CASES)
@pytest.mark.parametrize(("save_every", "redone"), [(2, (1, 3)), (0, (1, 1))])
def test_a_crash_costs_the_steps_since_the_last_checkpoint_and_nothing_else(
    undisturbed: Undisturbed, tmp_path: Path, mode: str, save_every: int, redone: Any
) -> None:
    reference = undisturbed(mode)
    with pytest.raises(RuntimeError, match="power"):
        train(dataclasses.replace(reference, out=tmp_path / "run", save_every=save_every), at((1, 3), crash))
    steps = []
    train(resumed(reference, tmp_path / "run"), lambda epoch, done, total: steps.append((epoch, done)))
    assert steps[0] == redone
    assert differences(reference.out, tmp_path / "run") == []


def test_a_run_that_is_stopped_after_every_single_step_ends_like_an_undisturbed_one(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    reference = undisturbed("replay")
    going_on, stops = True, 0
    while going_on:
        try:
            train(resumed(reference, tmp_path / "run"), lambda *step: signal.raise_signal(signal.SIGTERM))
            going_on = False
        except Interrupted:
            stops += 1
    assert stops == 3 * STEPS - 1
    assert differences(reference.out, tmp_path / "run") == []


def test_a_crash_before_the_first_checkpoint_begins_again(undisturbed: Undisturbed, tmp_path: Path) -> None:
    reference = undisturbed("replay")
    with pytest.raises(RuntimeError, match="power"):
        train(dataclasses.replace(reference, out=tmp_path / "run"), at((0, 1), crash))
    train(resumed(reference, tmp_path / "run"))
    assert differences(reference.out, tmp_path / "run") == []


def test_a_crash_between_metrics_and_checkpoint_leaves_no_line_twice(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reinforce.train.run as run_module

    reference = undisturbed("replay")

    def failing(path: Path, state: dict[str, Any]) -> None:
        if state["epoch"] == 2:
            crash()
        save_checkpoint(path, state)

    monkeypatch.setattr(run_module, "save_checkpoint", failing)
    with pytest.raises(RuntimeError, match="power"):
        train(dataclasses.replace(reference, out=tmp_path / "run", save_every=0))
    assert [line["epoch"] for line in metrics_of(tmp_path / "run")] == [0, 1]
    monkeypatch.setattr(run_module, "save_checkpoint", save_checkpoint)
    train(resumed(reference, tmp_path / "run"))
    assert differences(reference.out, tmp_path / "run") == []


def test_a_second_interrupt_stops_at_once_and_the_run_still_resumes(undisturbed: Undisturbed, tmp_path: Path) -> None:
    reference = undisturbed("replay")

    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(dataclasses.replace(reference, out=tmp_path / "run"), at((1, 3), twice))
    assert load_checkpoint(tmp_path / "run" / LAST)["step"] == 2
    train(resumed(reference, tmp_path / "run"))
    assert differences(reference.out, tmp_path / "run") == []


@pytest.mark.parametrize("opt", ["lamb", "muon", "adafactorbv"])
def test_timms_other_optimisers_resume_too(images: Path, store: Path, tmp_path: Path, opt: str) -> None:
    reference = config(images, tmp_path / "reference", store, epochs=2, opt=opt, drop=0.3)
    train(reference)
    with pytest.raises(Interrupted):
        train(dataclasses.replace(reference, out=tmp_path / "run"), at((0, 3), lambda: signal.raise_signal(signal.SIGINT)))
    train(resumed(reference, tmp_path / "run"))
    assert differences(reference.out, tmp_path / "run") == []


def test_training_works_outside_the_main_thread(undisturbed: Undisturbed, tmp_path: Path) -> None:
    reference = undisturbed("replay")
    thread = threading.Thread(target=train, args=[dataclasses.replace(reference, out=tmp_path / "run")])
    thread.start()
    thread.join()
    assert differences(reference.out, tmp_path / "run") == []


@pytest.mark.process
def test_resuming_may_change_the_number_of_workers(undisturbed: Undisturbed, tmp_path: Path) -> None:
    reference = undisturbed("plain")
    with pytest.raises(Interrupted):
        train(
            dataclasses.replace(reference, out=tmp_path / "run", workers=2),
            at((1, 2), lambda: signal.raise_signal(signal.SIGINT)),
        )
    train(dataclasses.replace(resumed(reference, tmp_path / "run"), workers=1))
    assert differences(reference.out, tmp_path / "run") == []


def test_resuming_a_finished_run_changes_nothing(undisturbed: Undisturbed, tmp_path: Path) -> None:
    reference = undisturbed("replay")
    shutil.copytree(reference.out, tmp_path / "run")
    steps = []
    summary = train(resumed(reference, tmp_path / "run"), lambda *step: steps.append(step))
    assert steps == []
    assert summary["best_epoch"] == json.loads((reference.out / SUMMARY).read_text())["best_epoch"]
    assert differences(reference.out, tmp_path / "run") == []


def test_the_random_state_matters_to_these_runs(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Guards the tests above: with another dropout mask the weights would not be equal."""
    reference = undisturbed("replay")
    torch_state = "reinforce.train.run.torch.manual_seed"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_state, lambda seed: None)
        train(dataclasses.replace(reference, out=tmp_path / "run"))
    assert f"/{LAST}/model/head.weight" in differences(reference.out, tmp_path / "run")


# The process sends the signal to itself, so that it comes in the middle of an epoch on a machine of any speed.
SIGNALLED = """
import os, sys
from reinforce.cli import main, progress
number = int(sys.argv.pop(1))
def call(self, done, total):
    if self.label == "epoch 1" and done == 3:
        os.kill(os.getpid(), number)
progress.Progress.__call__ = call
main.main()
"""


@pytest.mark.process
@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "state is saved"), (signal.SIGKILL, -9, "")])
def test_a_signalled_process_is_continued_by_resume(
    undisturbed: Undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: Any, code: int, said: str
) -> None:
    reference = undisturbed("replay")
    arguments = [
        *("train", "--student", "test_vit", "--data", reference.data, "--labels", reference.labels, "--val", reference.val),
        *("--out", tmp_path / "run", "--epochs", 3, "--batch-size", 5, "--seed", 2, "--save-every", 2, "--device", "cpu"),
        *("--drop", 0.3, "--drop-path", 0.2, "--model-ema", "--model-ema-decay", 0.9, "--workers", 1),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-c", SIGNALLED, str(int(number)), *map(str, arguments)]
    killed = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert killed.returncode == code, killed.stderr
    assert said in killed.stderr
    assert "Traceback" not in killed.stderr
    saved = load_checkpoint(tmp_path / "run" / LAST)
    assert (saved["epoch"], saved["step"]) == (1, 3 if number == signal.SIGINT else 2)
    monkeypatch.setattr(sys, "argv", ["reinforce", *map(str, arguments), "--resume"])
    with pytest.raises(SystemExit) as done:
        main.main()
    assert not done.value.code
    assert differences(reference.out, tmp_path / "run") == []
