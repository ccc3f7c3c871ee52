"""An ensemble whose members differ in weights, arguments and normalisation, by the command line and by timm alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from reinforce import ReinforcedDataset
from reinforce.errors import UsageError
from reinforce.store.store import Store, read_manifest
from reinforce.teachers.open_teacher import teacher_of
from reinforce.teachers.teacher_spec import kwargs_of_each, weights_of_each
from tests.conftest import SIZE, Cli

pytestmark = pytest.mark.unit

NAMES = ("test_resnet", "test_byobnet")
MEANS = ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))
STDS = ((0.25, 0.25, 0.25), (1.0, 1.0, 1.0))
OPTIONS = (
    "--teacher", NAMES[0], "--teacher", NAMES[1], "--teacher-kwargs", "mean=0.5", "std=0.25", "2:mean=0.1/0.2/0.3", "2:std=1",
    "2:act_layer=relu",
)  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    paths = []
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        state = timm.create_model(name, num_classes=3).state_dict()
        state = {k: v * 60 if "fc.weight" in k else v for k, v in state.items()}
        paths.append(tmp_path_factory.mktemp("each") / f"{name}.safetensors")
        save_file(state, paths[-1])
    return paths


@pytest.fixture(scope="module")
def by_hand(files: list[Path]) -> Any:
    """The mean of both softmaxes, by timm and torch alone: uint8 `[B, 3, H, W]` to `[B, 3]`."""
    models = [
        timm.create_model(NAMES[0], num_classes=3, checkpoint_path=str(files[0])).eval(),
        timm.create_model(NAMES[1], num_classes=3, checkpoint_path=str(files[1]), act_layer="relu").eval(),
    ]

    @torch.no_grad()
    def answer(images: torch.Tensor, means: Any = MEANS, stds: Any = STDS) -> np.ndarray:
        x = images.double() / 255
        each = zip(models, means, stds, strict=True)
        probs = [
            m(((x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)).float()).softmax(dim=1)
            for m, mean, std in each
        ]
        return ((probs[0] + probs[1]) / 2).numpy()

    return answer


def generated(cli: Cli, images: Path, files: list[Path], out: Path, *weights: object) -> None:
    chosen = weights or ("--teacher-weights", files[0], "--teacher-weights", files[1])
    code, _, err = cli(
        "generate", "--data", images, *OPTIONS, *chosen, "--size", SIZE, "--views", 2, "--workers", 0, "--codec", "topk:3",
        "--out", out,
    )  # fmt: skip
    assert code == 0, err


def test_each_member_has_its_own_weights_arguments_and_normalisation(
    images: Path, files: list[Path], by_hand: Any, tmp_path: Path, cli: Cli
) -> None:
    generated(cli, images, files, tmp_path / "out")
    infos = read_manifest(tmp_path / "out").settings.teachers
    assert [(info.mean, info.std) for info in infos] == list(zip(MEANS, STDS, strict=True))
    assert infos[0].kwargs == {"mean": 0.5, "std": 0.25}
    assert infos[1].kwargs == {"mean": "0.1/0.2/0.3", "std": 1, "act_layer": "relu"}
    dataset, store = ReinforcedDataset(tmp_path / "out", images), Store(tmp_path / "out")
    pixels = torch.stack([dataset.replay(index, 1) for index in range(24)])
    stored = np.zeros((24, 3))
    for index in range(24):
        ids, probs, *_ = store.label_of(index, 1)
        stored[index, ids] = probs
    expected = by_hand(pixels)
    assert np.abs(stored - expected).max() < 1e-3
    assert np.abs(expected - by_hand(pixels, MEANS[:1] * 2, STDS[:1] * 2)).max() > 1e-2  # with one normalisation for both
    assert np.abs(expected - by_hand(pixels, MEANS[::-1], STDS[::-1])).max() > 1e-2

    # The same ensemble again, from the manifest; files in any order by their numbers.
    numbered = [f"2:{files[1]}", f"1:{files[0]}"]
    again = teacher_of(store.settings, numbered, torch.device("cpu"))
    assert np.abs(again(pixels).numpy() - expected).max() < 1e-5
    options = [item for file in numbered for item in ("--teacher-weights", file)]
    code, text, err = cli("verify", tmp_path / "out", "--data", images, *options, "--workers", 0)
    assert code == 0, text + err
    assert "ok     labels against the teacher" in text
    code, _, err = cli("verify", tmp_path / "out", "--data", images, "--teacher-weights", f"3:{files[0]}", "--workers", 0)
    assert code == 2
    assert f"--teacher-weights '3:{files[0]}' is for a teacher that is not there" in err
    assert "2 teachers: test_resnet, test_byobnet" in err


def test_numbers_and_order_say_the_same(images: Path, files: list[Path], tmp_path: Path, cli: Cli) -> None:
    generated(cli, images, files, tmp_path / "order")
    generated(
        cli, images, files, tmp_path / "number", "--teacher-weights", f"2:{files[1]}", "--teacher-weights", f"1:{files[0]}"
    )
    assert read_manifest(tmp_path / "order").settings == read_manifest(tmp_path / "number").settings


@pytest.mark.process
def test_a_live_ensemble_takes_the_same_options(images: Path, files: list[Path], tmp_path: Path, cli: Cli) -> None:
    generated(cli, images, files, tmp_path / "out")
    weights = ("--teacher-weights", files[0], "--teacher-weights", files[1])
    run = ("--student", "test_resnet", "--data", images, "--epochs", 1, "--batch-size", 8, "--workers", 0, "--mode", "online")
    losses = []
    for name, options in (
        ("labels", ("--labels", tmp_path / "out", *weights)),
        ("both", ("--labels", tmp_path / "out", *OPTIONS, *weights)),
        ("numbers", ("--labels", tmp_path / "out", "--teacher-weights", f"2:{files[1]}", "--teacher-weights", f"1:{files[0]}")),
    ):
        code, _, err = cli("train", *run, *options, "--out", tmp_path / name)
        assert code == 0, err
        losses.append(json.loads((tmp_path / name / "metrics.jsonl").read_text())["loss"])
    assert losses[0] == losses[1] == losses[2]
    code, _, err = cli("train", *run, "--labels", tmp_path / "out", "--teacher-kwargs", "mean=0", "--out", tmp_path / "no")
    assert code == 2
    assert "--teacher-kwargs needs --teacher" in err


@pytest.mark.parametrize("command", ["estimate", "bench generate"])
def test_other_commands_take_them_too(images: Path, files: list[Path], tmp_path: Path, cli: Cli, command: str) -> None:
    weights = ("--teacher-weights", f"1:{files[0]}", "--teacher-weights", f"2:{files[1]}")
    short = ("--seconds", 1) if command == "estimate" else ("--rounds", 1)
    line = ("--data", images, *OPTIONS, *weights, "--size", SIZE, "--views", 2, "--workers", 0, "--limit", 4, *short, "--json")
    code, out, err = cli(*command.split(), *line)
    assert code == 0, err
    assert json.loads(out)
    code, _, err = cli(*command.split(), *line, "--teacher-kwargs", "0:mean=1")
    assert code == 2
    assert "--teacher-kwargs '0:mean=1' is for a teacher that is not there" in err


def test_what_is_not_numbered_is_for_all_or_in_turn() -> None:
    names = ["a", "b", "c"]
    assert weights_of_each([], names) == [None, None, None]
    assert weights_of_each(["x", "y", "z"], names) == [Path("x"), Path("y"), Path("z")]
    assert weights_of_each(["3:x:y"], names) == [None, None, Path("x:y")]
    assert weights_of_each(["./2:x"], ["a"]) == [Path("2:x")]
    assert kwargs_of_each(["m=1", "2:m=2", "s=3"], names) == [["m=1", "s=3"], ["m=1", "s=3", "m=2"], ["m=1", "s=3"]]


@pytest.mark.parametrize(
    ("items", "text"),
    [
        (["x"], "2 teachers and 1 weights file"),
        (["x", "y", "z"], "2 teachers and 3 weights files"),
        (["x", "2:y"], "Some weights files have a teacher's number"),
        (["2:x", "2:y"], "Teacher 2 has two weights files"),
        (["3:x"], "for a teacher that is not there"),
        (["0:x"], "for a teacher that is not there"),
    ],
)
def test_files_that_do_not_fit_the_teachers_are_refused(items: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        weights_of_each(items, ["a", "b"])
    with pytest.raises(UsageError, match="counted from 1"):
        kwargs_of_each(["7:a=1"], ["a", "b"])
