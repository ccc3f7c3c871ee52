"""Commands that succeed: JSON alone on stdout, words for people, lists, tables and a picture of the views."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.cli.conftest import Cli, check
from tests.conftest import SIZE, TEACHER

pytestmark = pytest.mark.unit


def test_generate_inspect_verify_and_train_speak_json_alone_on_stdout(cli: Cli, places: dict[str, str], tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    common = ["--device", "cpu", "--workers", 0, "--json"]
    line = [
        "generate",
        "--data",
        places["images"],
        "--teacher",
        TEACHER,
        "--teacher-weights",
        places["weights"],
        "--out",
        labels,
    ]
    said = cli(*line, "--size", SIZE, "--views", 2, "--codec", "topk:2", "--limit", 9, *common)
    assert said.code == 0
    made = json.loads(said.out)
    assert (made["complete"], made["counts"]["ok"], made["views"], made["size"]) == (True, 9, 2, SIZE)
    assert said.err == ""

    said = cli("inspect", labels, "--json")
    assert json.loads(said.out) == made

    said = cli("verify", labels, "--data", places["images"], "--views", 3, "--teacher-weights", places["weights"], *common)
    checks = json.loads(said.out)
    assert said.code == 0
    assert checks["ok"]
    assert {"name", "total", "failed", "failures", "note"} <= set(checks["checks"][0])

    train = ["train", "--student", "test_resnet", "--data", places["images"], "--labels", labels, "--val", places["val"]]
    said = cli(*train, "--out", tmp_path / "run", "--epochs", 2, "--batch-size", 5, *common)
    assert said.code == 0
    assert said.err == ""
    summary = json.loads(said.out)
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["samples"] == 9
    assert summary["recipe"]["batch_size"] == 5

    said = cli(*train, "--out", tmp_path / "run", "--epochs", 2, "--batch-size", 5, *common)
    check(said, 2, "already holds a run", "--resume")

    record = next(labels.glob("blocks/*/records/c/0"))
    record.write_bytes(record.read_bytes()[:-1] + b"\xff")
    said = cli("verify", labels, "--json")
    assert said.code == 1
    assert not json.loads(said.out)["ok"]


def test_the_same_commands_speak_to_people(cli: Cli, places: dict[str, str], tmp_path: Path) -> None:
    common = ["--device", "cpu", "--workers", 0]
    line = ["generate", "--data", places["images"], "--teacher", TEACHER, "--teacher-weights", places["weights"]]
    said = cli(*line, "--out", tmp_path / "labels", "--size", SIZE, "--views", 2, "--codec", "topk:2", *common)
    assert "24 samples x 2 views, 0 missing, 0 corrupt images" in said.out
    assert "the teacher's top class is the hard label in" in said.out
    assert "generate: 24/24 images" in said.err

    said = cli("inspect", tmp_path / "labels")
    for text in (TEACHER, "rrc-ra", "2 per sample, 32x32 pixels", "topk", "3, with hard labels", "yes: 1 blocks", "bytes/view"):
        assert text in said.out

    said = cli("verify", tmp_path / "labels", "--data", places["images"], "--workers", 0)
    assert said.code == 0
    assert said.out.startswith("ok ")
    assert "FAILED" not in said.out

    train = ["train", "--student", "test_resnet", "--data", places["images"], "--labels", tmp_path / "labels"]
    said = cli(*train, "--out", tmp_path / "run", "--epochs", 2, "--batch-size", 8, *common)
    assert said.code == 0
    assert re.search(r"^epoch 0  lr \S+  loss \S+  kd_loss \S+  seconds \S+  images_per_second \S+$", said.out, re.MULTILINE)
    assert "best epoch 1: loss" in said.out
    assert "epoch 1: 3/3 steps" in said.err


def test_a_teachers_arguments_are_spread_and_recorded(cli: Cli, places: dict[str, str], tmp_path: Path) -> None:
    line: list[object] = ["generate", "--data", places["images"], "--teacher", TEACHER, "--teacher-weights", places["weights"]]
    line += [
        "--out",
        tmp_path / "labels",
        "--size",
        SIZE,
        "--views",
        1,
        "--limit",
        3,
        "--workers",
        0,
        "--device",
        "cpu",
        "--json",
    ]
    said = cli(*line, "--teacher-kwargs", "mean=0.1/0.2/0.3", "drop_rate=0.25", "std=0.5")
    teacher = json.loads(said.out)["teachers"][0]
    assert teacher["kwargs"] == {"mean": "0.1/0.2/0.3", "drop_rate": 0.25, "std": 0.5}
    assert (teacher["mean"], teacher["std"]) == ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])
    again = cli(*line, "--teacher-kwargs", "mean=0.1/0.2/0.3", "drop_rate=0.5", "std=0.5")
    check(again, 2, "was made with another", "drop_rate", "0.25", "0.5")


def test_bench_compares_the_modes_in_json_and_as_a_table(cli: Cli, places: dict[str, str], tmp_path: Path) -> None:
    line: list[object] = ["bench", "modes", "--data", places["images"], "--labels", places["store"], "--val", places["val"]]
    line += ["--student", "test_resnet", "--teacher-weights", places["weights"], "--epochs", 1, "--batch-size", 8]
    line += ["--workers", 0, "--device", "cpu"]
    said = cli(*line, "--seeds", 2, "--out", tmp_path / "json", "--json")
    assert said.code == 0
    result = json.loads(said.out)
    assert [row["mode"] for row in result["rows"]] == ["replay", "plain", "online"]
    assert result["conditions"]["seeds"] == 2
    assert result["rows"][0]["relative"] == 1.0
    assert all(row["top1"]["low"] <= row["top1"]["value"] <= row["top1"]["high"] for row in result["rows"])
    assert "replay, seed 0:" in said.err
    said = cli(*line, "--seeds", 1, "--out", tmp_path / "table")
    assert said.out.startswith("| mode | img/s | top-1 % | NLL | ECE % |\n|---|")
    assert "img/s against replay: replay 1.00, plain" in said.out


# What there is to choose from


@pytest.mark.parametrize(("what", "words"), [
    ("recipes", ["usi", "meal-v2", "cosub", "self", "kd"]), ("policies", ["usi", "tinyvit", "imagenet-plus-m-r", "none"]),
    ("codecs", ["sqrt-tiny", "sqrt ", "topk:K"]), ("students", ["vit_s", "tresnet_m"]),
])  # fmt: skip
def test_what_there_is_to_choose_from_is_listed_with_a_line_each(cli: Cli, what: str, words: tuple[str, ...]) -> None:
    said = cli("list", what)
    lines = said.out.splitlines()
    assert said.code == 0
    assert said.err.strip()
    assert all(any(line.startswith(word) for line in lines) for word in words)
    assert all(len(line.split("  ", 1)) == 2 and len(line) < 150 for line in lines)
    assert set(json.loads(cli("list", what, "--json").out)) == {line.split("  ")[0] for line in lines}


def test_a_list_of_something_else_is_wrong_usage(cli: Cli) -> None:
    assert cli("list", "teachers").code == 2


# A picture of the views


@pytest.mark.parametrize(("views", "columns", "rows"), [(16, 3, 2), (4, 2, 2), (1, 1, 1)])
def test_show_writes_a_picture_with_a_cell_per_view(
    cli: Cli, places: dict[str, str], tmp_path: Path, views: int, columns: int, rows: int
) -> None:
    out = tmp_path / "sheet.png"
    said = cli("show", places["store"], "--data", places["images"], "--sample", "bread/002", "--out", out, "--views", views)
    side, gap, line = 4 * SIZE, 8, 15  # views are shown at 128 pixels at least; a caption and three classes
    width, height = columns * (side + gap) + gap, rows * (side + 4 * line + gap) + gap
    assert said.code == 0
    assert said.out == f"{out}: {width}x{height} pixels\n"
    with Image.open(out) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (width, height))


def test_show_shows_the_pixels_that_the_teacher_saw(cli: Cli, places: dict[str, str], tmp_path: Path) -> None:
    from reinforce import ReinforcedDataset

    out = tmp_path / "sheet.png"
    cli("show", places["store"], "--data", places["images"], "--sample", "cheese/003", "--out", out, "--top", 1)
    dataset = ReinforcedDataset(places["store"], places["images"])
    index = dataset.source.keys.index("cheese/003")
    sheet = torch.frombuffer(bytearray(Image.open(out).tobytes()), dtype=torch.uint8)
    with Image.open(out) as image:
        sheet = sheet.view(image.height, image.width, 3).permute(2, 0, 1)
    side = 4 * SIZE
    for view, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
        y, x = 8 + row * (side + 2 * 15 + 8), 8 + column * (side + 8)
        assert torch.equal(sheet[:, y : y + side : 4, x : x + side : 4], dataset.replay(index, view))
