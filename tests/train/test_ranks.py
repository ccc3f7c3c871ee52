"""Several processes: the same samples, views and metrics as one, nothing lost, nothing doubled; through the real torchrun."""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reinforce.errors import UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.packs.open_labels import open_labels
from reinforce.packs.pack import Options, pack
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.teacher import Teacher
from reinforce.train.checkpoint import load_checkpoint
from reinforce.train.config import TrainConfig
from reinforce.train.loop import train
from reinforce.train.ranks import AnyRank, Ranks
from reinforce.train.recipe import load_recipe
from reinforce.train.run import BEST, LAST
from reinforce.views.policy_text import parse_policy
from tests.conftest import Cli, make_settings, write_folder
from tests.train.conftest import metrics_of
from tests.train.torchrun import ROOT, run

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def data(images: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images, labels of mixed views of them, and images to evaluate on."""
    root = tmp_path_factory.mktemp("ranks")
    source = ImageFolder.open(images)
    generate(
        source, teacher, make_settings(source, teacher, policy=parse_policy("usi"), views=3), root / "labels", Execution(16, 0)
    )
    return [images, root / "labels", write_folder(root / "val", per_class=3, first=300)]


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("where", ["folder", "shards"])
def test_two_processes_see_and_learn_what_one_does(where: str, data: list[Path], tmp_path: Path) -> None:
    if where == "shards":
        pack(ImageFolder.open(data[0]), data[1], tmp_path / "shards", Options(shard_bytes=30_000))
        data = [tmp_path / "shards", tmp_path / "shards", data[2]]
    one = run(1, data, tmp_path / "one", model_ema=True)
    two = run(2, data, tmp_path / "two", model_ema=True)
    assert (one[0], two[0]) == (0, 0), two[1]
    labels = open_labels(data[1])
    assert len(two[2]) == 2
    for step, alone in enumerate(one[2][0]):
        shares = [steps[step] for steps in two[2]]
        assert list(chain.from_iterable(shares)) == alone  # the same samples and views, each at one rank
        assert all(share for share in shares)
        for share in shares:  # pairs whole
            samples = {s for s, _ in share}
            for sample, view in share:
                partner = int(labels.params_of(sample, view)[-6])
                assert int(labels.samples_of(int(labels.samples.block[sample]))[partner]) in samples
    everyone = [s for step in one[2][0][: len(one[2][0]) // 2] for s, _ in step]
    assert sorted(everyone) == list(range(24))
    for a, b in zip(metrics_of(tmp_path / "one"), metrics_of(tmp_path / "two"), strict=True):
        for name in a.keys() - {"seconds", "images_per_second"}:
            assert b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-4), name
    a, b = load_file(tmp_path / "one" / BEST), load_file(tmp_path / "two" / BEST)
    assert a.keys() == b.keys()  # names without a wrapper's
    assert all(torch.allclose(a[k], b[k], atol=1e-4) for k in a)
    assert json.loads((tmp_path / "two" / "summary.json").read_text())["processes"] == 2
    # What two began, one continues.
    state = load_checkpoint(tmp_path / "two" / LAST)
    assert state["epoch"] == 2


@pytest.mark.process
@pytest.mark.slow
def test_a_discriminator_learns_the_same_from_two_processes(data: list[Path], tmp_path: Path) -> None:
    found = []
    for world in (1, 2):
        out = tmp_path / str(world)
        code, said, _ = run(world, data, out, discriminator_loss_weight=1.0)
        assert code == 0, said
        found.append(load_checkpoint(out / LAST)["loss"])
    one, two = found
    assert one.keys() == two.keys()
    assert one
    assert all(torch.allclose(one[k], two[k], atol=1e-4) for k in one)


@pytest.mark.process
@pytest.mark.slow
def test_when_one_process_dies_the_others_end_and_the_run_resumes_with_another_number(data: list[Path], tmp_path: Path) -> None:
    code, said, _ = run(2, data, tmp_path / "run", save_every=1, die=[1, 5])
    assert code != 0
    assert load_checkpoint(tmp_path / "run" / LAST)["epoch"] >= 1
    code, said, _ = run(1, data, tmp_path / "run", save_every=1, resume=True)
    assert code == 0, said
    reference = run(1, data, tmp_path / "undisturbed", save_every=1)
    assert reference[0] == 0
    for a, b in zip(metrics_of(tmp_path / "undisturbed"), metrics_of(tmp_path / "run"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)


@pytest.mark.process
@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_and_leaves_a_checkpoint(data: list[Path], tmp_path: Path) -> None:
    code, said, seen = run(2, data, tmp_path / "run", epochs=400, stop=[0, 2])
    assert code != 0
    assert len(seen) == 2
    assert load_checkpoint(tmp_path / "run" / LAST)["epoch"] < 400
    assert "state is saved" in said
    assert 'Traceback (most recent call last):\n  File "' + str(ROOT) not in said


def cpu_config(data: list[Path], out: Path, **changes: Any) -> TrainConfig:
    recipe: dict[str, Any] = {k: changes.pop(k) for k in ("epochs", "batch_size", "amp") if k in changes}
    values = {"student": "test_vit", "workers": 0, "device": "cpu", **changes}
    return TrainConfig(
        data=data[0], labels=data[1], val=data[2], out=out, recipe=load_recipe("kd", {"epochs": 2, **recipe}), **values
    )


def test_accumulated_batches_make_the_update_of_one_large_batch(data: list[Path], tmp_path: Path) -> None:
    train(cpu_config(data, tmp_path / "large", batch_size=24))
    train(cpu_config(data, tmp_path / "small", batch_size=8, grad_accum_steps=3))
    a, b = (load_file(tmp_path / n / BEST) for n in ("large", "small"))
    assert all(torch.allclose(a[k], b[k], atol=2e-4) for k in a)
    plain = tmp_path / "plain"
    train(cpu_config(data, plain, batch_size=8))
    c = load_file(plain / BEST)
    assert any(not torch.allclose(a[k], c[k], atol=2e-4) for k in a)


def test_accumulation_stops_and_resumes_between_updates_only(data: list[Path], tmp_path: Path) -> None:
    reference = cpu_config(data, tmp_path / "whole", batch_size=4, grad_accum_steps=4, save_every=1)
    train(reference)

    def stop(epoch: int, done: int, total: int) -> None:
        if (epoch, done) == (1, 3):
            raise RuntimeError("the power went")

    import dataclasses

    broken = dataclasses.replace(reference, out=tmp_path / "broken", resume=True)
    with pytest.raises(RuntimeError):
        train(broken, stop)
    train(broken)
    a, b = (load_file(tmp_path / n / BEST) for n in ("whole", "broken"))
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_channels_last_changes_the_layout_and_not_the_result(data: list[Path], tmp_path: Path) -> None:
    for name, flag in (("on", True), ("off", False)):
        train(cpu_config(data, tmp_path / name, batch_size=8, student="test_resnet", channels_last=flag))
    a, b = (load_file(tmp_path / n / BEST) for n in ("on", "off"))
    assert all(torch.allclose(a[k], b[k], atol=1e-3) for k in a)


@pytest.mark.slow
def test_a_compiled_student_learns_the_same_and_is_saved_under_its_own_names(
    data: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, original = [], torch.compile

    def compile_(module: torch.nn.Module, *args: object, **kwargs: object) -> object:
        compiled.append(module)
        return original(module, backend="aot_eager")  # the graph without a C++ compiler, which a machine may lack

    monkeypatch.setattr(torch, "compile", compile_)
    train(cpu_config(data, tmp_path / "compiled", batch_size=8, torchcompile=True))
    assert len(compiled) == 1
    train(cpu_config(data, tmp_path / "eager", batch_size=8))
    a, b = (load_file(tmp_path / n / BEST) for n in ("compiled", "eager"))
    assert a.keys() == b.keys()
    assert all(torch.allclose(a[k], b[k], atol=1e-3) for k in a)


def test_synchronised_batch_statistics_want_cuda(data: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--sync-bn needs CUDA"):
        train(cpu_config(data, tmp_path / "run", sync_bn=True))


def test_one_process_needs_no_other() -> None:
    alone = Ranks(0, 1, torch.device("cpu"))
    rows = torch.arange(6.0).view(3, 2)
    assert torch.equal(alone.sum(rows), rows)
    stop = AnyRank(alone)
    assert not stop.ask(False)
    assert stop.ask(True)
    assert alone.writes


# Curves


def test_curves_without_tensorboard_are_wrong_usage(data: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match="--tensorboard needs TensorBoard"):
        train(cpu_config(data, tmp_path / "run", tensorboard=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.network
def test_curves_have_the_numbers_of_the_metrics(data: list[Path], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(cpu_config(data, tmp_path / "run", tensorboard=True))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([line["loss"] for line in metrics_of(tmp_path / "run")])


# Several validation sets


def test_further_validation_sets_are_evaluated_over_their_own_classes(data: list[Path], tmp_path: Path, cli: Cli) -> None:
    few = write_folder(tmp_path / "few", per_class=2, first=400)
    for image in (few / "bread").iterdir():
        image.unlink()
    (few / "bread").rmdir()
    out = tmp_path / "run"
    code, _, said = cli(
        "train", "--student", "test_vit", "--data", data[0], "--labels", data[1], "--val", data[2], "--val", f"few={few}",
        "--out", out, "--epochs", 1, "--batch-size", 8, "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    assert code == 0, said
    line = metrics_of(out)[0]
    assert {"top1", "nll", "ece", "few_top1", "few_nll", "few_ece"} <= line.keys()
    from reinforce.teachers.models import create
    from reinforce.train.evaluate import Validation

    model = create("test_vit", weights=out / BEST, size=32, kwargs={}, pretrained=False).eval()
    assert line["few_nll"] < 5
    names = ["apple", "bread", "cheese"]
    source, rank = ImageFolder.open(few), Ranks(0, 1, torch.device("cpu"))
    logits = torch.arange(12.0).view(4, 3).flip(1)
    restricted = Validation(source, names, 3, 32, 0.875, subset=True).evaluate(lambda x: logits, rank, 4, 0)
    whole = Validation(source, names, 3, 32, 0.875).evaluate(lambda x: logits, rank, 4, 0)
    expected = torch.nn.functional.cross_entropy(logits[:, [0, 2]], torch.tensor([0, 0, 1, 1]))
    assert restricted["nll"] == pytest.approx(float(expected))
    assert whole["nll"] > restricted["nll"]
    assert model.num_classes == 3


def test_folders_named_by_class_index_are_matched_by_it(tmp_path: Path) -> None:
    from reinforce.train.evaluate import Validation

    folder = write_folder(tmp_path / "v2", per_class=1)
    for number, name in ((2, "apple"), (0, "bread"), (1, "cheese")):
        (folder / name).rename(folder / str(number))
    check = Validation(ImageFolder.open(folder), ["x", "y", "z"], 3, 32, 0.875)
    assert np.array_equal(check.class_of, [0, 1, 2])


@pytest.mark.parametrize("given", [["{0}", "{0}"], ["a={0}", "a={0}"]])
def test_validation_sets_of_one_name_are_wrong_usage(data: list[Path], tmp_path: Path, cli: Cli, given: Any) -> None:
    options = [word for value in given for word in ("--val", value.format(data[2]))]
    code, _, said = cli(
        "train", "--student", "test_vit", "--data", data[0], "--labels", data[1], *options, "--out", tmp_path / "run"
    )
    assert code == 2
    assert "need names of their own" in said
