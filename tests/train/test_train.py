"""Stage two as a law: an interrupted run ends as an undisturbed one, and the student sees what the teacher saw."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from reinforce import ReinforcedDataset
from reinforce.cli import main
from reinforce.errors import (
    BusyError,
    DataError,
    Interrupted,
    ReinforceError,
    ReplayError,
    SettingsError,
    SourceError,
    TeacherError,
    UsageError,
)
from reinforce.generation.generate import Execution, generate
from reinforce.policy import Policy
from reinforce.replay.epoch_views import FreshViews, ReplayedViews
from reinforce.replay.loader import batch_plan, batches
from reinforce.replay.targets import Targets
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import TeacherSpec, load_teacher, teacher_of
from reinforce.train import tasks
from reinforce.train.checkpoint import load_checkpoint
from reinforce.train.evaluate import Validation
from reinforce.train.loop import BEST, LAST, METRICS, SUMMARY, train
from reinforce.train.losses import LossWeights
from reinforce.train.ranks import Ranks
from reinforce.train.recipe import Recipe, load_recipe
from reinforce.train.setup import TrainConfig, build
from reinforce.train.tasks import OnlineTask, ReplayTask
from reinforce.views.policy_text import parse_policy
from tests.conftest import CLASSES, SIZE, TEACHER, make_settings, picture, write_folder

TIMES = ("seconds", "images_per_second")
STEPS = 5  # 24 samples in batches of 5
RANDOM = {"drop": 0.3, "drop_path": 0.2, "model_ema": True, "model_ema_decay": 0.9}


CPU_RANK = Ranks(0, 1, torch.device("cpu"))


def config(images: Path, out: Path, labels: Path | None = None, **changes: Any) -> TrainConfig:
    """A run of 3 epochs of 5 steps; `changes` are fields of the recipe or of the config."""
    recipe = {"epochs": 3, "batch_size": 5, **{k: v for k, v in changes.items() if k in Recipe.model_fields}}
    rest = {k: v for k, v in changes.items() if k not in Recipe.model_fields}
    values = {"student": "test_vit", "workers": 0, "device": "cpu", "seed": 2, **rest}
    return TrainConfig(data=images, out=out, labels=labels, recipe=load_recipe("kd", recipe), **values)


def metrics_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """A nested state as one dict of bytes and scalars, without the fields that tell the time."""
    if isinstance(value, torch.Tensor):
        return {path: (str(value.dtype), tuple(value.shape), value.reshape(-1).view(torch.uint8).numpy().tobytes())}
    if isinstance(value, dict):
        return {k: v for name, item in value.items() if name not in TIMES for k, v in flat(item, f"{path}/{name}").items()}
    if isinstance(value, list):
        return {k: v for i, item in enumerate(value) for k, v in flat(item, f"{path}/{i}").items()}
    return {path: value}


def everything(out: Path) -> dict[str, Any]:
    """All that a finished run left behind."""
    files = {LAST: load_checkpoint(out / LAST), BEST: load_file(out / BEST), METRICS: metrics_of(out)}
    return flat({**files, SUMMARY: json.loads((out / SUMMARY).read_text())})


def differences(a: Path, b: Path) -> list[str]:
    one, other = everything(a), everything(b)
    return [k for k in {**one, **other} if one.get(k) != other.get(k)]


def at(when: tuple[int, int], act: Callable[[], object]) -> Callable[[int, int, int], None]:
    """An `on_step` that acts after one step of one epoch."""

    def on_step(epoch: int, done: int, total: int) -> None:
        if (epoch, done) == when:
            act()

    return on_step


def crash() -> None:
    raise RuntimeError("the power went")


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("val") / "val", per_class=3, first=200)


CASES = {
    "replay": {"student": "test_vit", **RANDOM},
    "plain": {"mode": "plain", "student": "test_efficientnet", "opt": "sgd", "lr": 0.01, "clip_grad": 1.0, **RANDOM},
    "online": {"mode": "online", "student": "test_resnet", "sched": "step", "amp": True, "task_loss_weight": 0.5, **RANDOM},
}


@pytest.fixture(scope="module")
def undisturbed(images, store, val, weights, tmp_path_factory) -> Callable[[str], TrainConfig]:
    """The config of a finished run of a mode, made at first use."""

    @cache
    def finished(mode: str) -> TrainConfig:
        out = tmp_path_factory.mktemp("undisturbed") / mode
        made = config(images, out, store, val=val, teacher_weights=[weights], save_every=2, **CASES[mode])
        train(made)
        return made

    return finished


def resumed(reference: TrainConfig, out: Path) -> TrainConfig:
    return dataclasses.replace(reference, out=out, resume=True)


# Resuming


@pytest.mark.parametrize("mode", CASES)
@pytest.mark.parametrize("when", [(0, 1), (0, STEPS), (1, 3)], ids=["first step", "end of an epoch", "mid-epoch"])
def test_a_run_that_is_stopped_and_resumed_ends_like_an_undisturbed_one(undisturbed, tmp_path, mode, when) -> None:
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
    undisturbed, tmp_path, mode, save_every, redone
) -> None:
    reference = undisturbed(mode)
    with pytest.raises(RuntimeError, match="power"):
        train(dataclasses.replace(reference, out=tmp_path / "run", save_every=save_every), at((1, 3), crash))
    steps = []
    train(resumed(reference, tmp_path / "run"), lambda epoch, done, total: steps.append((epoch, done)))
    assert steps[0] == redone
    assert differences(reference.out, tmp_path / "run") == []


def test_a_run_that_is_stopped_after_every_single_step_ends_like_an_undisturbed_one(undisturbed, tmp_path) -> None:
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


def test_a_crash_before_the_first_checkpoint_begins_again(undisturbed, tmp_path) -> None:
    reference = undisturbed("replay")
    with pytest.raises(RuntimeError, match="power"):
        train(dataclasses.replace(reference, out=tmp_path / "run"), at((0, 1), crash))
    train(resumed(reference, tmp_path / "run"))
    assert differences(reference.out, tmp_path / "run") == []


def test_a_crash_between_metrics_and_checkpoint_leaves_no_line_twice(undisturbed, tmp_path, monkeypatch) -> None:
    import reinforce.train.loop as loop

    reference = undisturbed("replay")
    save = loop.save_checkpoint

    def failing(path: Path, state: dict[str, Any]) -> None:
        if state["epoch"] == 2:
            crash()
        save(path, state)

    monkeypatch.setattr(loop, "save_checkpoint", failing)
    with pytest.raises(RuntimeError, match="power"):
        train(dataclasses.replace(reference, out=tmp_path / "run", save_every=0))
    assert [line["epoch"] for line in metrics_of(tmp_path / "run")] == [0, 1]
    monkeypatch.setattr(loop, "save_checkpoint", save)
    train(resumed(reference, tmp_path / "run"))
    assert differences(reference.out, tmp_path / "run") == []


def test_a_second_interrupt_stops_at_once_and_the_run_still_resumes(undisturbed, tmp_path) -> None:
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
def test_timms_other_optimisers_resume_too(images, store, tmp_path, opt) -> None:
    reference = config(images, tmp_path / "reference", store, epochs=2, opt=opt, drop=0.3)
    train(reference)
    with pytest.raises(Interrupted):
        train(dataclasses.replace(reference, out=tmp_path / "run"), at((0, 3), lambda: signal.raise_signal(signal.SIGINT)))
    train(resumed(reference, tmp_path / "run"))
    assert differences(reference.out, tmp_path / "run") == []


def test_training_works_outside_the_main_thread(undisturbed, tmp_path) -> None:
    reference = undisturbed("replay")
    thread = threading.Thread(target=train, args=[dataclasses.replace(reference, out=tmp_path / "run")])
    thread.start()
    thread.join()
    assert differences(reference.out, tmp_path / "run") == []


def test_resuming_may_change_the_number_of_workers(undisturbed, tmp_path) -> None:
    reference = undisturbed("plain")
    with pytest.raises(Interrupted):
        train(
            dataclasses.replace(reference, out=tmp_path / "run", workers=2),
            at((1, 2), lambda: signal.raise_signal(signal.SIGINT)),
        )
    train(dataclasses.replace(resumed(reference, tmp_path / "run"), workers=1))
    assert differences(reference.out, tmp_path / "run") == []


def test_resuming_a_finished_run_changes_nothing(undisturbed, tmp_path) -> None:
    reference = undisturbed("replay")
    shutil.copytree(reference.out, tmp_path / "run")
    steps = []
    summary = train(resumed(reference, tmp_path / "run"), lambda *step: steps.append(step))
    assert steps == []
    assert summary["best_epoch"] == json.loads((reference.out / SUMMARY).read_text())["best_epoch"]
    assert differences(reference.out, tmp_path / "run") == []


def test_the_random_state_matters_to_these_runs(undisturbed, tmp_path) -> None:
    """Guards the tests above: with another dropout mask the weights would not be equal."""
    reference = undisturbed("replay")
    torch_state = "reinforce.train.loop.torch.manual_seed"
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


@pytest.mark.parametrize(("number", "code", "said"), [(signal.SIGINT, 130, "state is saved"), (signal.SIGKILL, -9, "")])
def test_a_signalled_process_is_continued_by_resume(undisturbed, tmp_path, monkeypatch, number, code, said) -> None:
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


# What the student sees


def recorded(monkeypatch: pytest.MonkeyPatch, kind: type) -> list[tuple[torch.Tensor, Targets]]:
    """Batches that a task's forward was given, from now on."""
    seen: list[tuple[torch.Tensor, Targets]] = []
    forward = kind.forward

    def recording(self: Any, images: torch.Tensor, targets: Targets) -> dict[str, torch.Tensor]:
        seen.append((images.clone(), targets))
        return forward(self, images, targets)

    monkeypatch.setattr(kind, "forward", recording)
    return seen


@pytest.mark.parametrize("workers", [0, 2])
def test_the_student_sees_the_stored_views_and_labels_and_every_sample_once_per_epoch(
    images, store, tmp_path, monkeypatch, workers
) -> None:
    seen = recorded(monkeypatch, ReplayTask)
    train(config(images, tmp_path / "run", store, epochs=2, student="test_resnet", workers=workers))
    dataset = ReinforcedDataset(store, images, seed=2)
    opened = Store(store)
    assert len(seen) == 2 * STEPS
    for epoch in range(2):
        dataset.set_epoch(epoch)
        plan = batch_plan(2, epoch, len(dataset), 5)
        assert sorted(np.concatenate(plan)) == list(range(24))
        for indices, (pixels, targets) in zip(plan, seen[epoch * STEPS : (epoch + 1) * STEPS], strict=True):
            assert pixels.dtype == torch.uint8
            assert pixels.shape == (len(indices), 3, SIZE, SIZE)
            assert targets.hard.tolist() == [opened.samples.labels[i] for i in indices]
            for row, index in enumerate(indices):
                view = dataset.view_of(index)
                assert torch.equal(pixels[row], dataset.replay(index, view))
                ids, probs, remainder, _ = opened.label_of(int(dataset.samples[index]), view)
                assert targets.soft.class_ids[row].tolist() == ids.tolist()
                assert targets.soft.probs[row].tolist() == probs.tolist()
                assert targets.soft.remainder[row] == np.float32(remainder)


def test_epochs_differ_in_order_and_views_and_seeds_too(images, store, tmp_path, monkeypatch) -> None:
    seen = recorded(monkeypatch, ReplayTask)
    for seed in (2, 3):
        train(config(images, tmp_path / str(seed), store, epochs=2, student="test_resnet", seed=seed))
    epochs = [torch.cat([pixels for pixels, _ in seen[i : i + STEPS]]) for i in range(0, len(seen), STEPS)]
    assert len(epochs) == 4
    assert all(not torch.equal(epochs[i], epochs[j]) for i in range(4) for j in range(i))


def test_fewer_views_than_stored_are_used_on_demand(images, store, tmp_path, monkeypatch) -> None:
    seen = recorded(monkeypatch, ReplayTask)
    train(config(images, tmp_path / "run", store, epochs=3, student="test_resnet", views=1))
    dataset = ReinforcedDataset(store, images)
    plan = batch_plan(2, 2, 24, 5)
    last = torch.cat([pixels for pixels, _ in seen[2 * STEPS :]])
    assert torch.equal(last, torch.stack([dataset.replay(int(i), 0) for i in np.concatenate(plan)]))


@pytest.fixture
def gappy(own_images, teacher, tmp_path) -> tuple[Path, Path]:
    """Images of which one is corrupt and one was missing, and their labels."""
    (own_images / "bread" / "004.jpg").write_bytes(b"\xff\xd8\xff garbage")
    source = ImageFolder.open(own_images)
    (own_images / "apple" / "002.jpg").unlink()
    generate(source, teacher, make_settings(source, teacher), tmp_path / "gappy", Execution(workers=0))
    return own_images, tmp_path / "gappy"


def test_the_modes_share_samples_order_and_initial_weights(gappy, weights, tmp_path, monkeypatch) -> None:
    images, labels = gappy
    keys: dict[str, list[str]] = {mode: [] for mode in CASES}
    replayed, fresh = ReplayedViews.items, FreshViews.items

    def replayed_items(self: ReplayedViews, index: int, size: int | None = None) -> Any:
        keys["replay"].append(self.dataset.store.samples.keys[self.dataset.samples[index]])
        return replayed(self, index, size)

    def fresh_items(self: FreshViews, index: int, size: int | None = None) -> Any:
        keys[mode].append(self.source.keys[self.samples[index]])
        return fresh(self, index, size)

    monkeypatch.setattr(ReplayedViews, "items", replayed_items)
    monkeypatch.setattr(FreshViews, "items", fresh_items)
    initial = {}
    for mode in CASES:
        run = config(images, tmp_path / mode, labels, mode=mode, epochs=2, teacher_weights=[weights], student="test_resnet")
        initial[mode] = flat(build(run).student.state_dict())
        assert train(run)["samples"] == 22
    assert len(set(keys["replay"])) == 22
    assert {"bread/004", "apple/002"}.isdisjoint(keys["replay"])
    assert keys["replay"] == keys["plain"] == keys["online"]
    assert initial["replay"] == initial["plain"] == initial["online"]


def test_another_seed_gives_other_initial_weights_and_another_order(images, store, tmp_path) -> None:
    one, other = (build(config(images, tmp_path / "run", store, seed=s)).student.state_dict() for s in (1, 2))
    assert flat(one) != flat(other)
    assert any((a != b).any() for a, b in zip(batch_plan(1, 0, 20, 5), batch_plan(2, 0, 20, 5), strict=True))


@pytest.mark.parametrize(("samples", "size"), [(24, 5), (24, 24), (24, 100), (7, 1), (1, 5), (23, 6)])
def test_a_plan_visits_every_sample_once_in_batches_of_nearly_one_size(samples, size) -> None:
    plan = batch_plan(0, 3, samples, size)
    assert sorted(np.concatenate(plan)) == list(range(samples))
    sizes = {len(b) for b in plan}
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(plan) == -(-samples // size)


def test_plain_views_are_drawn_from_the_policy_of_the_labels_anew_in_every_epoch(images, store, tmp_path) -> None:
    views = build(config(images, tmp_path / "run", store, mode="plain")).views
    assert views.policy == Store(store).settings.policy
    views.set_epoch(0)
    first, again = views.items(3)[0].image, views.items(3)[0].image
    views.set_epoch(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, views.items(3)[0].image)
    stored = ReinforcedDataset(store, images)
    assert not any(torch.equal(first, stored.replay(3, v)) for v in range(5))


def test_a_replayed_loss_is_the_online_loss_up_to_the_codec(images, store, weights, tmp_path) -> None:
    parts = build(config(images, tmp_path / "run", store))
    teacher = teacher_of(Store(store).settings, [weights], torch.device("cpu"))
    loss_weights = LossWeights(distill=1.0, task=0.3, smoothing=0.1)
    replay = ReplayTask(parts.student, loss_weights, CPU_RANK.device).eval()
    online = OnlineTask(parts.student, teacher, loss_weights, CPU_RANK.device).eval()
    with torch.no_grad():
        parts.student.get_classifier().weight.mul_(30)  # far from the teacher, so that the loss tells labels apart
    parts.views.set_epoch(4)
    for pixels, targets in batches(parts.views, batch_plan(0, 4, 24, 8), workers=0):
        a, b = replay(pixels, targets), online(pixels, targets)
        for name in ("loss", "kd_loss", "task_loss"):
            assert torch.allclose(a[name], b[name], atol=5e-4), name
        assert torch.equal(a["output"], b["output"])
        shuffled = dataclasses.replace(targets.soft, **{k: getattr(targets.soft, k).roll(1, 0) for k in ("class_ids", "probs")})
        wrong = replay(pixels, dataclasses.replace(targets, soft=shuffled))
        assert abs(wrong["kd_loss"] - b["kd_loss"]) > 2e-3


# What a run leaves behind


def test_a_run_writes_a_line_per_epoch_and_a_summary(undisturbed) -> None:
    out = undisturbed("replay").out
    lines = metrics_of(out)
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    measures = {"loss", "kd_loss", "top1", "top5", "nll", "ece", "ema_top1", "ema_top5", "ema_nll", "ema_ece"}
    assert set(lines[0]) == {"epoch", "lr", *TIMES, *measures}
    assert all(0 <= line["top1"] <= 100 and line["images_per_second"] > 0 for line in lines)
    assert lines[0]["lr"] > lines[2]["lr"] > 0
    summary = json.loads((out / SUMMARY).read_text())
    assert summary["teachers"] == [TEACHER]
    assert summary["policy"].startswith("rrc-ra:")
    expected = {"student": "test_vit", "mode": "replay", "size": SIZE, "seed": 2, "samples": 24, "num_classes": 3, "epochs": 3}
    assert {k: summary[k] for k in expected} == expected
    assert summary["last"] == {k: lines[2][k] for k in measures}
    assert summary["best"] == {k: lines[summary["best_epoch"]][k] for k in measures}
    assert summary["recipe"]["drop_path"] == 0.2
    assert summary["environment"]["torch"] == version("torch")
    assert {"parameters", "stored_views", "images_per_second", "device"} <= set(summary)
    assert sorted(p.name for p in out.iterdir()) == sorted([LAST, BEST, METRICS, SUMMARY])


def test_callbacks_hear_of_every_step_and_epoch(images, store, tmp_path) -> None:
    steps, lines = [], []
    train(config(images, tmp_path / "run", store, epochs=2), lambda *step: steps.append(step), lines.append)
    assert steps == [(epoch, done, STEPS) for epoch in range(2) for done in range(1, STEPS + 1)]
    assert lines == metrics_of(tmp_path / "run")


def test_the_loss_of_a_line_is_the_mean_over_samples(images, store, tmp_path, monkeypatch) -> None:
    losses = []
    forward = ReplayTask.forward

    def recording(self: Any, pixels: torch.Tensor, targets: Any) -> dict[str, torch.Tensor]:
        result = forward(self, pixels, targets)
        losses.append((float(result["loss"].detach()), len(pixels)))
        return result

    monkeypatch.setattr(ReplayTask, "forward", recording)
    train(config(images, tmp_path / "run", store, epochs=1, student="test_resnet"))
    assert metrics_of(tmp_path / "run")[0]["loss"] == pytest.approx(sum(v * n for v, n in losses) / 24, rel=1e-5)


def test_the_loss_falls(images, store, tmp_path) -> None:
    train(config(images, tmp_path / "run", store, epochs=8, student="test_resnet", lr=3e-3))
    losses = [line["loss"] for line in metrics_of(tmp_path / "run")]
    assert losses[-1] < 0.7 * losses[0]


def test_the_best_weights_are_plain_timm_weights_that_score_as_reported(undisturbed, val) -> None:
    out = undisturbed("replay").out
    model = timm.create_model("test_vit", img_size=SIZE, num_classes=3)
    model.load_state_dict(load_file(out / BEST))
    with safe_open(out / BEST, framework="pt") as file:
        about = json.loads(file.metadata()["reinforce"])
    assert about["class_names"] == list(CLASSES)
    assert about["student"] == "test_vit"
    assert about["num_classes"] == 3
    mean, std = (255 * torch.tensor(model.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    check = Validation(ImageFolder.open(val), list(CLASSES), 3, SIZE, 0.875)
    metrics = check.evaluate(lambda x: model.eval()((x.float() - mean) / std), CPU_RANK, 5, 0)
    assert metrics == {k: metrics_of(out)[about["epoch"]][f"ema_{k}"] for k in metrics}


def test_the_best_weights_can_teach(undisturbed, images, tmp_path) -> None:
    out = undisturbed("replay").out
    spec = TeacherSpec("test_vit", out / BEST)
    teacher = load_teacher(
        [spec], size=SIZE, class_names=list(CLASSES), class_map=None, device=torch.device("cpu"), precision="fp32"
    )
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, views=2)
    assert generate(source, teacher, settings, tmp_path / "labels", Execution(workers=0)).counts.ok == 24
    summary = train(config(images, tmp_path / "run", tmp_path / "labels", epochs=1, student="test_resnet"))
    assert summary["teachers"] == ["test_vit"]


@pytest.mark.parametrize("tops", [[50.0, 50.0, 50.0], [20.0, 50.0, 50.0], [50.0, 20.0, 50.0], [50.0, 20.0, 30.0]])
def test_the_best_epoch_of_the_summary_is_the_one_whose_weights_were_kept(
    images, store, val, tmp_path, monkeypatch, tops
) -> None:
    results = iter(tops)
    monkeypatch.setattr(Validation, "evaluate", lambda self, *a: {"top1": next(results), "nll": 1.0})
    summary = train(config(images, tmp_path / "run", store, val=val, student="test_resnet"))
    with safe_open(tmp_path / "run" / BEST, framework="pt") as file:
        kept = json.loads(file.metadata()["reinforce"])["epoch"]
    assert tops[kept] == max(tops)
    assert summary["best"]["top1"] == max(tops)
    assert summary["best_epoch"] == kept


def test_without_a_validation_set_the_last_epoch_is_the_best(images, store, tmp_path) -> None:
    summary = train(config(images, tmp_path / "run", store, student="test_resnet"))
    assert summary["best_epoch"] == 2
    assert flat(load_file(tmp_path / "run" / BEST)) == flat(load_checkpoint(tmp_path / "run" / LAST)["model"])


def test_evaluation_leaves_the_weights_as_they_are(images, store, val, tmp_path) -> None:
    for name, folder in (("with", val), ("without", None)):
        train(config(images, tmp_path / name, store, val=folder, student="test_resnet", **RANDOM))
    one, other = (flat(load_checkpoint(tmp_path / name / LAST)["model"]) for name in ("with", "without"))
    assert one == other


# Refused before anything is written


def refused(error: type[Exception], match: str, run: TrainConfig) -> str:
    """The text of the error; nothing was written."""
    with pytest.raises(error, match=match) as caught:
        train(run)
    assert not run.out.exists()
    return str(caught.value)


def test_a_folder_that_holds_a_run_is_not_overwritten(undisturbed, tmp_path) -> None:
    reference = undisturbed("replay")
    before = {p: p.read_bytes() for p in reference.out.iterdir()}
    with pytest.raises(UsageError, match="already holds a run") as error:
        train(reference)
    assert error.value.exit_code == 2
    assert "--resume to continue it, or another --out" in str(error.value)
    assert {p: p.read_bytes() for p in reference.out.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"lr": 0.01}, r"recipe\.lr = 0\.001 in the checkpoint, 0\.01 asked for"),
        ({"seed": 9}, "seed = 2 in the checkpoint, 9 asked for"),
        ({"epochs": 4}, r"recipe\.epochs = 3 in the checkpoint, 4 asked for"),
        ({"batch_size": 6}, r"recipe\.batch_size = 5 in the checkpoint, 6 asked for"),
        ({"model_ema": False}, r"recipe\.model_ema = True in the checkpoint, False asked for"),
        ({"student": "test_resnet"}, "student = 'test_vit' in the checkpoint, 'test_resnet' asked for"),
        (
            {"student_kwargs": {"qkv_bias": False}},
            "student_kwargs = {} in the checkpoint, .*'qkv_bias': False",
        ),
        ({"mode": "plain"}, "mode = 'replay' in the checkpoint, 'plain' asked for"),
        ({"views": 4}, "views = None in the checkpoint, 4 asked for"),
    ],
)
def test_resuming_with_another_setting_names_both_values(undisturbed, changes, text) -> None:
    reference = undisturbed("replay")
    before = {p: p.read_bytes() for p in reference.out.iterdir()}
    values = {**CASES["replay"], "val": reference.val, **changes}
    wanted = config(reference.data, reference.out, reference.labels, resume=True, **values)
    with pytest.raises(SettingsError, match=text) as error:
        train(wanted)
    assert error.value.exit_code == 2
    assert "give the option its old value" in str(error.value)
    assert {p: p.read_bytes() for p in reference.out.iterdir()} == before


def test_resuming_with_other_labels_or_other_images_is_refused(undisturbed, own_images, teacher, tmp_path) -> None:
    reference = undisturbed("replay")
    source = ImageFolder.open(own_images)
    generate(source, teacher, make_settings(source, teacher, seed=4), tmp_path / "other", Execution(workers=0))
    with pytest.raises(
        SettingsError, match=r"made with another labels.\n.*labels = '[0-9a-f]{64}' in the check.*, '[0-9a-f]{64}'"
    ):
        train(dataclasses.replace(reference, labels=tmp_path / "other", resume=True))
    (own_images / "bread" / "more.jpg").write_bytes((own_images / "bread" / "000.jpg").read_bytes())
    with pytest.raises(SettingsError, match="made with another data"):
        train(dataclasses.replace(reference, data=own_images, resume=True))


def test_resuming_a_plain_run_with_another_policy_is_refused(images, tmp_path) -> None:
    run = config(images, tmp_path / "run", mode="plain", policy="rrc", size=SIZE, epochs=2, student="test_resnet")
    with pytest.raises(Interrupted):
        train(run, at((0, 2), lambda: signal.raise_signal(signal.SIGINT)))
    with pytest.raises(SettingsError, match="another policy"):
        train(dataclasses.replace(run, policy="none", resume=True))


def test_resuming_an_online_run_with_another_teacher_is_refused(images, weights, undisturbed, tmp_path) -> None:
    changes = {"mode": "online", "size": SIZE, "epochs": 2, "student": "test_resnet"}
    run = config(images, tmp_path / "run", teachers=[TeacherSpec(TEACHER, weights)], **changes)
    with pytest.raises(Interrupted):
        train(run, at((0, 2), lambda: signal.raise_signal(signal.SIGINT)))
    other = [TeacherSpec("test_vit", undisturbed("replay").out / BEST)]
    with pytest.raises(SettingsError, match="another teacher"):
        train(dataclasses.replace(run, teachers=other, resume=True))


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_checkpoint_that_is_none_is_refused(undisturbed, tmp_path, content) -> None:
    reference = undisturbed("replay")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LAST).write_bytes((reference.out / BEST).read_bytes() if content is None else content)
    with pytest.raises(DataError, match="is no checkpoint"):
        train(resumed(reference, tmp_path / "run"))


def test_replay_without_labels_is_refused(images, store, tmp_path) -> None:
    assert "no --labels" in refused(UsageError, "--mode replay needs stored labels", config(images, tmp_path / "run"))
    refused(DataError, "is not a reinforced dataset", config(images, tmp_path / "run", tmp_path / "nothing"))


def test_a_changed_image_is_refused(own_images, store, tmp_path) -> None:
    path = own_images / "bread" / "001.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    run = config(own_images, tmp_path / "run", store)
    refused(ReplayError, "Image bread/001 is not the one that the teacher saw", run)
    assert ReplayError.exit_code == 1


def test_validation_classes_that_the_student_does_not_have_are_refused(images, store, val, tmp_path) -> None:
    other = Path(shutil.copytree(val, tmp_path / "val"))
    (other / "apple").rename(other / "zebra")
    run = config(images, tmp_path / "run", store, val=other)
    text = refused(SourceError, "has classes that the student does not learn", run)
    assert "1 of 3, such as 'zebra'" in text
    (tmp_path / "flat").mkdir()
    picture(1).save(tmp_path / "flat" / "a.png")
    refused(
        SourceError, "has no class folders to evaluate against", config(images, tmp_path / "run", store, val=tmp_path / "flat")
    )
    refused(SourceError, "There is no image folder", config(images, tmp_path / "run", store, val=tmp_path / "nowhere"))


def test_another_size_replays_the_same_boxes_and_says_that_pixels_differ(images, store, tmp_path, monkeypatch, cli) -> None:
    seen = recorded(monkeypatch, ReplayTask)
    arguments = [
        "--student",
        "test_resnet",
        "--data",
        images,
        "--labels",
        store,
        "--epochs",
        1,
        "--workers",
        0,
        "--device",
        "cpu",
    ]
    code, out, _ = cli("train", *arguments, "--size", 48, "--out", tmp_path / "run")
    assert code == 0
    assert "the pixels are not what the teacher saw" in out
    summary = json.loads((tmp_path / "run" / SUMMARY).read_text())
    assert (summary["size"], summary["teacher_size"]) == (48, SIZE)
    dataset = ReinforcedDataset(store, images, size=48)
    plan = batch_plan(0, 0, 24, 128)
    assert torch.equal(seen[0][0], torch.stack([dataset.replay(int(i), dataset.view_of(int(i))) for i in plan[0]]))


def test_several_sizes_come_in_turn_and_evaluation_is_at_the_largest(images, store, val, tmp_path, monkeypatch) -> None:
    seen = recorded(monkeypatch, ReplayTask)
    run = config(images, tmp_path / "run", store, student="test_resnet", sizes=(32, 48, 40), epochs=2, val=val)
    assert build(run).size == build(run).validations[""].views.size == 48
    train(run)
    assert [pixels.shape[-1] for pixels, _ in seen] == [(32, 48, 40)[i % 3] for i in range(2 * STEPS)]
    refused(
        UsageError,
        "built for one input size",
        config(images, tmp_path / "vit", store, student="vit_tiny_patch16_224", sizes=(32, 48)),
    )
    refused(UsageError, "beside --sizes", config(images, tmp_path / "both", store, student="test_resnet", sizes=(32,), size=32))


@pytest.mark.parametrize("text", ["96,", "96,x", "4,8", "-3", "9999"])
def test_sizes_that_are_none_are_refused(images, store, tmp_path, cli, text) -> None:
    code, _, err = cli(
        "train", "--student", "test_resnet", "--data", images, "--labels", store, f"--sizes={text}", "--out", tmp_path / "r"
    )
    assert code == 2
    assert "is not valid" in err


def test_options_that_contradict_each_other_are_refused(images, store, tmp_path) -> None:
    out = tmp_path / "run"
    refused(UsageError, "--policy is given beside --labels", config(images, out, store, policy="rrc"))
    refused(UsageError, "6 views are asked for", config(images, out, store, views=6))
    refused(UsageError, "--mode online needs a teacher", config(images, out, mode="online"))
    refused(UsageError, "timm has no model 'test_nothing'", config(images, out, store, student="test_nothing"))
    refused(UsageError, "does not take these arguments", config(images, out, store, student_kwargs={"wings": 2}))
    refused(UsageError, "num_classes is not for the user", config(images, out, store, student_kwargs={"num_classes": 7}))


def test_an_online_teacher_with_other_weights_than_the_labels_is_refused(images, store, undisturbed, tmp_path) -> None:
    train(config(images, tmp_path / "other", store, student=TEACHER, epochs=1))
    run = config(images, tmp_path / "run", store, mode="online", teacher_weights=[tmp_path / "other" / BEST])
    refused(TeacherError, "are not those that made the labels", run)


@pytest.mark.parametrize(("changes", "text"), [({"opt": "nonsense"}, "nonsense"), ({"sched": "nonsense"}, "nonsense")])
def test_an_unknown_optimiser_or_schedule_is_refused(images, store, tmp_path, changes, text) -> None:
    assert text in refused(UsageError, "timm does not know this", config(images, tmp_path / "run", store, **changes))


def test_an_output_that_is_a_file_is_refused(images, store, tmp_path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(ReinforceError, match="run"):
        train(config(images, tmp_path / "run", store))


def test_the_folder_of_the_labels_is_no_place_for_a_run(images, own_store) -> None:
    before = sorted(own_store.rglob("*"))
    with pytest.raises(ReinforceError, match="own_store"):
        train(config(images, own_store, own_store, epochs=1, student="test_resnet"))
    assert sorted(own_store.rglob("*")) == before


def test_a_full_disk_is_an_error_that_says_so_and_keeps_the_last_checkpoint(undisturbed, tmp_path, monkeypatch) -> None:
    reference = undisturbed("replay")

    def full() -> None:
        def fsync(handle: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fsync)

    with pytest.raises(ReinforceError, match="No space left on device"):
        train(dataclasses.replace(reference, out=tmp_path / "run"), at((1, 1), full))
    monkeypatch.undo()
    train(resumed(reference, tmp_path / "run"))
    assert differences(reference.out, tmp_path / "run") == []


def test_a_second_run_into_the_same_folder_is_refused(images, store, tmp_path) -> None:
    program = (
        "import fcntl, os, sys; h = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.lockf(h, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", program, tmp_path / "run" / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match="is being written by another process"):
            train(config(images, tmp_path / "run", store))
        holder.stdin.close()
    assert not (tmp_path / "run" / METRICS).exists()


# Data that is not as it should be


@pytest.mark.parametrize("mode", ["replay", "plain"])
def test_a_loss_that_is_not_finite_stops_the_run(images, store, tmp_path, mode) -> None:
    with pytest.raises(DataError, match="The loss is not finite") as error:
        train(config(images, tmp_path / "run", store, mode=mode, lr=1e30, student="test_resnet", opt="sgd"))
    assert "a smaller --lr" in str(error.value)
    assert error.value.exit_code == 1
    assert not (tmp_path / "run" / BEST).exists()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named_where_nothing_noted_it_before(own_images, tmp_path, workers) -> None:
    (own_images / "cheese" / "005.jpg").write_bytes(b"\xff\xd8\xff garbage")
    run = config(own_images, tmp_path / "run", mode="plain", size=SIZE, workers=workers, student="test_resnet")
    with pytest.raises(DataError, match="Image cheese/005 cannot be used") as error:
        train(run)
    assert "Traceback" not in str(error.value)
    assert "cannot be decoded" in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_changes_during_training_stops_the_run(own_images, store, tmp_path, workers) -> None:
    path = own_images / "cheese" / "001.jpg"
    run = config(own_images, tmp_path / "run", store, student="test_resnet", workers=workers)
    with pytest.raises(ReplayError, match="Image cheese/001 is not the one that the teacher saw") as error:
        train(run, at((0, STEPS), lambda: path.write_bytes(path.read_bytes() + b"\0")))
    assert "Traceback" not in str(error.value)
    path.write_bytes(path.read_bytes()[:-1])
    assert train(dataclasses.replace(run, resume=True))["last"]["loss"] > 0


def test_an_image_that_is_gone_stops_a_plain_run(own_images, store, tmp_path) -> None:
    run = config(own_images, tmp_path / "run", store, mode="plain", student="test_resnet")
    with pytest.raises(DataError, match=r"Image apple/003 cannot be used.\n.*No such file"):
        train(run, at((0, STEPS), (own_images / "apple" / "003.png").unlink))


def test_a_corrupt_validation_image_is_named(images, store, val, tmp_path) -> None:
    other = Path(shutil.copytree(val, tmp_path / "val"))
    (other / "bread" / "001.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match="Image bread/001 cannot be used"):
        train(config(images, tmp_path / "run", store, val=other, student="test_resnet"))


@pytest.fixture(scope="module")
def unlabelled(images, weights, tmp_path_factory) -> tuple[Path, Path]:
    """12 images without class folders, and their labels."""
    root = tmp_path_factory.mktemp("unlabelled")
    (root / "data").mkdir()
    for i in range(12):
        picture(i).save(root / "data" / f"{i:03d}.png")
    source = ImageFolder.open(root / "data")
    spec = TeacherSpec(TEACHER, weights)
    teacher = load_teacher([spec], size=SIZE, class_names=[], class_map=None, device=torch.device("cpu"), precision="fp32")
    generate(source, teacher, make_settings(source, teacher), root / "labels", Execution(workers=0))
    return root / "data", root / "labels"


def test_images_without_labels_are_replayed(unlabelled, val, tmp_path, monkeypatch) -> None:
    data, labels = unlabelled
    seen = recorded(monkeypatch, ReplayTask)
    summary = train(config(data, tmp_path / "run", labels, val=val, student="test_resnet"))
    assert all(set(targets.hard.tolist()) == {-1} for _, targets in seen)
    assert summary["num_classes"] == 3
    assert 0 <= summary["last"]["top1"] <= 100


def test_images_without_labels_are_taught_online_and_refused_plainly(unlabelled, weights, tmp_path) -> None:
    data, labels = unlabelled
    run = config(data, tmp_path / "online", labels, mode="online", teacher_weights=[weights], student="test_resnet", epochs=1)
    assert train(run)["samples"] == 12
    text = refused(SourceError, "has no class folders", config(data, tmp_path / "run", labels, mode="plain"))
    assert "--mode replay or online" in text
    refused(SourceError, "has no class folders", config(data, tmp_path / "run", mode="plain", size=SIZE))
    run = config(data, tmp_path / "run", mode="online", size=SIZE, teachers=[TeacherSpec(TEACHER, weights)])
    assert "--labels DIR" in refused(SourceError, "number of classes is not known", run)


def test_a_hard_loss_on_images_without_labels_is_refused(unlabelled, tmp_path) -> None:
    data, labels = unlabelled
    run = config(data, tmp_path / "run", labels, task_loss_weight=0.5, student="test_resnet")
    text = refused((UsageError, SourceError), "label", run)
    assert "task" in text


# Classes are known by name


def test_a_validation_folder_with_fewer_classes_is_matched_by_name(val, tmp_path) -> None:
    shutil.copytree(val, tmp_path / "val")
    shutil.rmtree(tmp_path / "val" / "apple")
    check = Validation(ImageFolder.open(tmp_path / "val"), list(CLASSES), 3, SIZE, 0.875)
    labels = torch.cat([hard for _, hard in check.batches(4, 0, CPU_RANK)])
    assert labels.tolist() == [1, 1, 1, 2, 2, 2]
    ideal = iter(torch.nn.functional.one_hot(labels, 3).float().mul(20).split(4))
    metrics = check.evaluate(lambda images: next(ideal), CPU_RANK, 4, 0)
    assert metrics["top1"] == 100.0
    assert metrics["nll"] < 1e-6


def test_validation_images_are_resized_and_centre_cropped(val) -> None:
    check = Validation(ImageFolder.open(val), list(CLASSES), 3, SIZE, 1.0)
    assert check.views.policy == Policy(name="none", crop_pct=1.0)
    one, again = (torch.cat([images for images, _ in check.batches(size, 0, CPU_RANK)]) for size in (4, 9))
    assert one.shape == (9, 3, SIZE, SIZE)
    assert torch.equal(one, again)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("replay", ReplayTask), ("plain", tasks.PlainTask), ("online", OnlineTask)],
    ids=["replay", "plain", "online"],
)
def test_a_class_folder_that_came_later_does_not_move_the_hard_labels(
    own_images, store, weights, tmp_path, monkeypatch, mode, kind
) -> None:
    (own_images / "aardvark").mkdir()
    (own_images / "aardvark" / "000.jpg").write_bytes((own_images / "apple" / "000.jpg").read_bytes())
    seen = recorded(monkeypatch, kind)
    changes = {"mode": mode, "epochs": 1, "student": "test_resnet", "teacher_weights": [weights]}
    train(config(own_images, tmp_path / "run", store, **changes))
    hard = torch.cat([targets.hard for _, targets in seen])
    assert torch.equal(hard, torch.from_numpy(Store(store).samples.labels[np.concatenate(batch_plan(2, 0, 24, 5))]))


def test_plain_training_needs_no_labels_and_takes_a_policy(images, val, tmp_path) -> None:
    run = config(images, tmp_path / "run", mode="plain", policy="rrc:hflip=0", size=SIZE, val=val, epochs=1)
    summary = train(run)
    assert summary["policy"] == str(parse_policy("rrc:hflip=0"))
    assert summary["teachers"] == []
    assert summary["stored_views"] is None
