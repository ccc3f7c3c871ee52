"""Options that classes define are those of the command, with type, default, bounds and help; none is written twice."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Annotated, Any

import pytest

from reinforce.cli import bench_generate, estimate, generate, train
from reinforce.cli.expand import FieldsOf, expanded
from reinforce.cli.generation import GenerationOptions
from reinforce.cli.lazy import built
from reinforce.train import config as configs
from reinforce.train.recipe import Recipe

pytestmark = pytest.mark.unit


def options(module: Any) -> dict[str, Any]:
    return {p.name: p for p in built(module).params}


def test_every_field_of_a_recipe_is_an_option_as_the_recipe_says() -> None:
    found = options(train)
    for name, field in Recipe.model_fields.items():
        option = found[name]
        assert option.help == field.description, name
        assert option.default is None, "what is not given is the recipe's"
        assert option.rich_help_panel == "Recipe"
        for bound in field.metadata:
            assert getattr(bound, "ge", None) in (None, option.min), name
            assert getattr(bound, "le", None) in (None, option.max), name


PARTS = [
    c for c in vars(configs).values() if dataclasses.is_dataclass(c) and isinstance(c, type) and c is not configs.TrainConfig
]


@pytest.mark.parametrize("part", [p for p in PARTS if p.__module__ == configs.__name__], ids=lambda p: p.__name__)
def test_what_is_described_in_a_config_is_an_option_with_its_default(part: Any) -> None:
    found, described = options(train), 0
    for name, field in part.__pydantic_fields__.items():
        if field.description is None:
            continue
        described += 1
        assert found[name].help == field.description
        assert found[name].required == field.is_required()
        assert field.is_required() or found[name].default == field.default
    assert described


def test_generate_estimate_and_its_bench_take_the_same_options() -> None:
    shared = {field.name for field in dataclasses.fields(GenerationOptions)}
    for module in (generate, estimate, bench_generate):
        assert shared <= set(options(module))
    assert (options(generate)["views"].default, options(bench_generate)["views"].default) == (None, 8)


def test_a_command_gets_what_was_given() -> None:
    seen: dict[str, Any] = {}
    overrides = FieldsOf("reinforce.train.recipe:Recipe", "Recipe", overrides=True)

    def train_(recipe: Annotated[dict[str, Any], overrides], own: int = 3) -> None:
        seen.update(recipe=recipe, own=own)

    def generate_(given: GenerationOptions) -> None:
        seen.update(given=given)

    train_.__annotations__["recipe"] = Annotated[dict[str, Any], overrides]  # a local name, which text cannot reach
    expanded(train_)(**{**dict.fromkeys(Recipe.model_fields), "lr": 0.5}, own=4)
    defaults = {f.name: f.default for f in dataclasses.fields(GenerationOptions)}
    expanded(generate_)(**{**defaults, "data": "images", "teacher": ["vit"]})
    assert seen == {"recipe": {"lr": 0.5}, "own": 4, "given": GenerationOptions(data="images", teacher=["vit"])}


@pytest.mark.process
@pytest.mark.parametrize(("words", "expected"), [
    ("reinforce tr", "train"), ("reinforce train --stud", "--student-kwargs"), ("reinforce bench ge", "generate"),
    ("reinforce train --alpha-r", "--alpha-ramp-epochs"), ("reinforce train --mode re", "replay"),
])  # fmt: skip
def test_the_shell_completes_commands_options_and_choices(words: str, expected: str) -> None:
    env = {**os.environ, "_REINFORCE_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    program = "import sys; sys.argv = ['reinforce']; from reinforce.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert expected in done.stdout.split(), done.stderr
