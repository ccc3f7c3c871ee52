"""Recipes: what ships is whole and says where it comes from; a typing error never trains."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm

from reinforce.cli import generate as generate_command
from reinforce.cli import train as train_command
from reinforce.cli.lazy import built
from reinforce.errors import UsageError
from reinforce.teachers.short_names import timm_name
from reinforce.train import recipe as module
from reinforce.train.recipe import Recipe, about_recipe, load_recipe, shipped_recipes
from reinforce.views.policy_text import parse_policy

pytestmark = pytest.mark.unit

FOLDER = Path(module.__file__).parent / "recipes"


def write(path: Path, text: str) -> str:
    file = path / "mine.toml"
    file.write_text(text)
    return str(file)


def test_the_shipped_recipes_are_the_files() -> None:
    assert shipped_recipes() == sorted(p.stem for p in FOLDER.glob("*.toml"))
    assert "kd" in shipped_recipes()


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_loads_and_says_where_it_comes_from(name: str) -> None:
    text = (FOLDER / f"{name}.toml").read_text()
    recipe = load_recipe(name, {})
    assert recipe.model_dump(exclude_unset=True) == tomllib.loads(text)
    head = [line for line in text.splitlines() if line.startswith("#")]
    assert head[0].startswith(f"# {name}: ")
    for label in ("Source", "Command", "Published", "Measured"):
        assert re.search(rf"^# {label}: +\S", text, re.MULTILINE), label


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_commands_in_a_recipe_are_ones_that_exist(name: str) -> None:
    text = re.sub(r"\n# {13,}", " ", (FOLDER / f"{name}.toml").read_text())
    commands = re.findall(r"^# (?:Command:)? +(reinforce .*)$", text, re.MULTILINE)
    assert any(c.startswith("reinforce train ") for c in commands)
    for line in commands:
        words = line.split()
        command = {"train": train_command, "generate": generate_command}[words[1]]
        options = {o.removeprefix("--").replace("-", "_") for o in words if o.startswith("--")}
        assert options <= {option.name for option in built(command).params}, line
        for option, value in pairwise(words):
            if option == "--policy":
                parse_policy(value)
            if option in ("--teacher", "--student") and value.islower():
                assert timm.is_model(timm_name(value)), value
            if option == "--recipe":
                assert value == name
    if name != "kd":  # the default
        assert f"--recipe {name} " in text


def test_every_field_of_a_recipe_can_be_given_on_the_command_line() -> None:
    assert set(Recipe.model_fields) <= {option.name for option in built(train_command).params}


@pytest.mark.parametrize(("content", "text"), [
    ("cosub = true", "cosub=true needs drop_path"),
    ("cosub = true\ndrop_path = 0.1\nalpha = 0.3", "no alpha"),
    ("cosub = true\ndrop_path = 0.1\ndiscriminator_loss_weight = 1.0", "no discriminator"),
    ("alpha_ramp_epochs = 1.0", "no alpha to ramp"),
    ("alpha = 1.5", "less than or equal to 1"),
    ('distill_type = "medium"', "distill_type"),
    ('sched = "multistep"', "sched=multistep would never decay: it needs decay_milestones below 100 epochs"),
    ('sched = "multistep"\nepochs = 9\ndecay_milestones = [9, 12]', "would never decay"),
    ('sched = "multistep"\ndecay_milestones = [9, 5]', "rising order"),
    ('sched = "multistep"\ndecay_milestones = "9,x"', "decay_milestones.1"),
    ("decay_milestones = [9]", "belong to sched=multistep, not to sched=cosine"),
    ("aug_repeats_off_epoch = 3", "no aug_repeats to end"),
    ('drop_path_shape = "constant"', "no drop_path to shape"),
    ("opt_betas = []", "opt_betas"), ("opt_betas = [0.9, 1.0]", "opt_betas.1"), ("layer_decay = 1.1", "layer_decay"),
])  # fmt: skip
def test_fields_that_contradict_each_other_or_would_do_nothing_are_refused(tmp_path: Path, content: str, text: str) -> None:
    with pytest.raises(UsageError) as error:
        load_recipe(write(tmp_path, content), {})
    assert text in str(error.value)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_recipe_is_described_in_a_line(name: str) -> None:
    assert 20 < len(about_recipe(name)) < 130


def test_the_default_of_a_recipe_is_valid() -> None:
    assert load_recipe("kd", {}).epochs == 100
    Recipe.model_validate(Recipe().model_dump())


def test_overrides_win_and_none_is_no_override(tmp_path: Path) -> None:
    path = write(tmp_path, "epochs = 7\nlr = 0.5\nmodel_ema = true\n")
    recipe = load_recipe(path, {"epochs": 9, "lr": None, "model_ema": False, "clip_grad": 2.0})
    assert (recipe.epochs, recipe.lr, recipe.model_ema, recipe.clip_grad) == (9, 0.5, False, 2.0)


def test_several_numbers_are_a_list_in_a_file_and_a_text_with_commas_on_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, 'sched = "multistep"\ndecay_milestones = [30, 60]\nopt_betas = [0.9, 0.95]\n')
    recipe = load_recipe(path, {"decay_milestones": "40,80"})
    assert (recipe.decay_milestones, recipe.opt_betas) == ((40, 80), (0.9, 0.95))


def test_a_recipe_can_be_a_file_of_ones_own(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, 'epochs = 3\nopt = "sgd"\n'), {})
    assert (recipe.epochs, recipe.opt) == (3, "sgd")
    assert recipe.batch_size == Recipe().batch_size


def test_an_unknown_recipe_names_those_that_ship(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is no recipe 'usual'") as error:
        load_recipe("usual", {})
    for name in shipped_recipes():
        assert name in str(error.value)
    assert "path of a TOML file" in str(error.value)
    with pytest.raises(UsageError, match="There is no recipe"):
        load_recipe(str(tmp_path), {})


def test_an_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, "epochs = 3\nlearning_rate = 0.1\n")
    with pytest.raises(UsageError, match=r"mine.toml is not valid.\n.*learning_rate: Extra inputs") as error:
        load_recipe(path, {})
    assert "weight_decay" in str(error.value)  # what is known
    with pytest.raises(UsageError, match="wings: Extra inputs"):
        load_recipe("kd", {"wings": 2})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("epochs", v) for v in (0, -1, 2.5, "many")],
        *[("batch_size", v) for v in (0, "big")],
        *[("lr", v) for v in (0, -1e-3, float("nan"), float("inf"), "fast")],
        *[("weight_decay", v) for v in (-0.1, float("inf"))],
        *[("smoothing", v) for v in (-0.1, 1.0)],
        *[("drop", v) for v in (-0.1, 1.0)],
        *[("drop_path", v) for v in (-0.1, 1.0)],
        *[("model_ema_decay", v) for v in (-0.1, 1.0)],
        *[("crop_pct", v) for v in (0, 1.1)],
        *[("clip_grad", v) for v in (0, -1)],
        *[("momentum", v) for v in (-0.1, 1.0)],
        *[("warmup_epochs", -1), ("warmup_lr", -1), ("min_lr", -1), ("cooldown_epochs", -1)],
        *[("distill_loss_weight", -1), ("task_loss_weight", -1), ("amp_dtype", "float8"), ("model_ema", "maybe")],
    ],
)
def test_a_value_out_of_range_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(UsageError, match=rf"Recipe kd is not valid.\n  found: +{key}: "):
        load_recipe("kd", {key: value})


@pytest.mark.parametrize("text", ["epochs = ", "epochs: 3", "[a\n", "epochs = 3\nepochs = 4\n"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="is no TOML"):
        load_recipe(write(tmp_path, text), {})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00lr")
    with pytest.raises(UsageError, match="is no TOML"):
        load_recipe(str(tmp_path / "mine.toml"), {})


def test_a_table_where_a_value_belongs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lr: "):
        load_recipe(write(tmp_path, "[lr]\nbase = 1\n"), {})


@pytest.mark.parametrize(
    ("epochs", "wanted", "warmup"), [(100, 5, 5), (25, 5, 5), (24, 5, 4), (10, 5, 2), (4, 5, 0), (100, 0, 0)]
)
def test_warm_up_is_cut_to_a_fifth_of_the_run(epochs: int, wanted: int, warmup: int) -> None:
    assert load_recipe("kd", {"epochs": epochs, "warmup_epochs": wanted}).warmup == warmup


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("kd", {}).lr = 1.0  # type: ignore[misc]
