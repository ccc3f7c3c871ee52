"""The commands in the file of every recipe run as they stand there, on small images: labels and training fit each other."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reinforce.policy import PRESETS
from reinforce.train import recipe as module
from reinforce.train.recipe import load_recipe, shipped_recipes
from reinforce.views.policy_text import parse_policy
from tests.conftest import SIZE, TEACHER, Cli

pytestmark = pytest.mark.unit

SMALL = ["--workers", 0, "--device", "cpu"]
SMALLER = {"generate": SMALL, "train": [*SMALL, "--epochs", 1, "--batch-size", 12, "--no-pretrained", "--no-amp"]}


def commands(name: str) -> list[list[str]]:
    """The words of the commands in the head of a recipe, without `reinforce`."""
    head = (Path(module.__file__).parent / "recipes" / f"{name}.toml").read_text()
    head = re.sub(r"\n# {13,}(?!reinforce )", " ", head)
    return [line.split()[1:] for line in re.findall(r"^# (?:Command:)? +(reinforce .*)$", head, re.MULTILINE)]


def small(words: list[str], images: Path, weights: Path, root: Path) -> list[object]:
    """The same command, for other images, models and folders and fewer views; whatever else it says stays as it is."""
    made: list[object] = []
    for option, word in zip(["", *words], words, strict=False):
        if option in ("--teacher", "--student"):
            own = option == "--teacher" and "--teacher-weights" not in words
            made += [TEACHER, *(["--teacher-weights", weights] if own else [])]
        else:
            replaced = {"--data": images, "--size": SIZE, "--views": 4}.get(option)
            made.append(root / word if word.startswith("runs/") else word if replaced is None else replaced)
    return [*made, *(["--size", SIZE] if words[0] == "generate" and "--size" not in words else []), *SMALLER[words[0]]]


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_commands_of_a_recipe_run_one_after_the_other(
    name: str, images: Path, weights: Path, tmp_path: Path, cli: Cli
) -> None:
    found = commands(name)
    assert any(words[:3] == ["train", "--recipe", name] for words in found)
    for words in found:
        code, _, said = cli(*small(words, images, weights, tmp_path))
        assert code == 0, f"{' '.join(words)}\n{said}"
        if words[0] == "train":
            assert (
                json.loads((tmp_path / words[words.index("--out") + 1] / "summary.json").read_text())["recipe"]["epochs"] == 1
            )


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_labels_of_a_recipes_policy_fit_it(name: str) -> None:
    assert name in PRESETS
    mix, recipe = parse_policy(name).mix, load_recipe(name, {})
    assert mix is None or mix.repeats % recipe.aug_repeats == 0
    assert not recipe.mixup_off_epoch or any("map" in words for words in commands(name)), "stored views stay mixed"
    for words in commands(name):
        if "--policy" in words:
            assert words[words.index("--policy") + 1] == name


def test_labels_of_one_recipe_do_not_silently_train_another(images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    """What the commands above must never come to: labels without the partners that the recipe's repeats need."""
    words = [word.replace("usi", "usi:repeats=1") if word == "usi" else word for word in commands("usi")[0]]
    assert cli(*small(words, images, weights, tmp_path))[0] == 0
    code, _, said = cli(*small(commands("usi")[1], images, weights, tmp_path))
    assert code == 2
    assert "need their partners" in said


@pytest.mark.parametrize(
    ("recipe", "policy"), [("cosub", "cosub"), ("relabel-cutmix", "relabel-cutmix"), ("own.toml", "rrc-ra")]
)
def test_fresh_views_have_the_policy_named_like_the_recipe(
    recipe: str, policy: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.toml").write_text("epochs = 1\n")
    line = [
        "train",
        "--recipe",
        recipe,
        "--mode",
        "plain",
        "--data",
        images,
        "--size",
        SIZE,
        "--student",
        TEACHER,
        "--out",
        "run",
    ]
    assert cli(*line, *SMALLER["train"])[0] == 0
    assert json.loads(Path("run/summary.json").read_text())["policy"] == str(parse_policy(policy))
    assert cli(*line, *SMALLER["train"], "--policy", "rrc", "--out", "other")[0] == 0
    assert json.loads(Path("other/summary.json").read_text())["policy"] == str(parse_policy("rrc"))
