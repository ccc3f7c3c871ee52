"""The table of recipes beside their sources says what the files and presets say: every field, every value, every source."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from reinforce.policy import PRESETS
from reinforce.train import recipe as module
from reinforce.train.recipe import shipped_recipes
from reinforce.views.policy_text import parse_policy

pytestmark = pytest.mark.unit

FOLDER = Path(module.__file__).parent / "recipes"
TABLE = Path(__file__).parents[2] / "reinforce" / "design" / "recipes.md"
PARTS = {part.split("\n")[0]: part for part in TABLE.read_text().split("\n## ")[1:]}


def rows(name: str) -> list[list[str]]:
    """Field, theirs, ours and source of each row of a recipe."""
    lines = [line.strip("| ").split(" | ") for line in PARTS[name].splitlines() if line.startswith("| ")]
    assert lines[0] == ["field", "theirs", "ours", "source"]
    assert all(len(line) == 4 for line in lines), [line for line in lines if len(line) != 4]
    return [[cell.strip() for cell in line] for line in lines[1:]]


def differences(name: str, text: str) -> list[str]:
    """What the table says differently from the text of a recipe's file."""
    said = {f.strip("`"): (ours.strip("`"), source) for f, _, ours, source in rows(name) if not f.startswith("policy: ")}
    there = {f: (value, source) for f, value, source in re.findall(r"^(\w+) = (.+?)(?:  # (.+))?$", text, re.MULTILINE)}
    assert set(there) == set(tomllib.loads(text))
    return sorted(f for f in {*said, *there} if said.get(f) != there.get(f) or not there[f][1])


def test_there_is_a_table_for_every_recipe() -> None:
    assert [name for name in PARTS if name != "What differs in all recipes"] == shipped_recipes()
    for name in shipped_recipes():
        assert re.search(r"\nDiffers:\n\n- \S", PARTS[name]), name


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_table_has_every_field_of_a_recipe_with_its_value_and_source(name: str) -> None:
    assert not differences(name, (FOLDER / f"{name}.toml").read_text())
    assert all(theirs or source == "ours" for _, theirs, _, source in rows(name))


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_table_has_every_option_of_a_recipes_policy_with_its_value(name: str) -> None:
    said: dict[str, str] = {}
    for field, _, ours, _ in rows(name):
        if field.startswith("policy: "):
            said |= zip(field.removeprefix("policy: ").split(", "), ours.strip("`").split(", "), strict=True)
    text = str(parse_policy(name)).partition(":")[2]
    there: dict[str, Any] = dict(item.split("=") for item in text.split(","))
    assert said == {option: there[option] for option in PRESETS[name].options}


def test_a_changed_value_a_missing_source_and_a_new_field_are_found() -> None:
    text = (FOLDER / "usi.toml").read_text()
    assert differences("usi", text.replace("lr = 2e-3", "lr = 3e-3")) == ["lr"]
    assert differences("usi", re.sub(r"(weight_decay = 0.02).*", r"\1", text)) == ["weight_decay"]
    assert differences("usi", text + "clip_grad = 1.0  # train.py:137\n") == ["clip_grad"]
    assert differences("usi", re.sub(r"\ncrop_pct.*", "", text)) == ["crop_pct"]
