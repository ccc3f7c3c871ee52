"""`reinforce list`: the recipes, policies, codecs, students or data sets to choose from, a line each."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from reinforce.cli import options as o

NAME = "list"


def command(
    what: Annotated[
        Literal["recipes", "policies", "codecs", "students", "datasets"],
        typer.Argument(help="What to list; default: data sets."),
    ] = "datasets",
    as_json: o.Json = False,
) -> None:
    """List recipes, policies, codecs, students or known data sets, a line each."""
    found = _LISTS[what]()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    for name, about in found.items():
        typer.echo(f"{name:<{width}}  {about}")
    typer.echo(f"\n{_MORE[what]}", err=True)


def _recipes() -> dict[str, str]:
    from reinforce.train.recipe import about_recipe, shipped_recipes

    return {name: about_recipe(name) for name in shipped_recipes()}


def _policies() -> dict[str, str]:
    from reinforce.policy import PRESETS

    return {name: preset.description for name, preset in PRESETS.items()}


def _codecs() -> dict[str, str]:
    from reinforce.labels.codecs import CODECS, NAMED_CODECS

    about = {name: codec.about for name, codec in NAMED_CODECS.items()}
    about["sqrt"] += " (default)"
    return about | {kind.form: kind.description for kind in CODECS.values()}


def _students() -> dict[str, str]:
    from reinforce.teachers.short_names import SHORT_NAMES

    return SHORT_NAMES


def _datasets() -> dict[str, str]:
    from reinforce.sharing.known_datasets import known_datasets

    how = {"pull": "pull", "import": "import, in the format of its authors", "demo": "reinforce demo"}
    return {name: f"{known.description} [{how[known.get]}]" for name, known in known_datasets().items()}


_LISTS = {"recipes": _recipes, "policies": _policies, "codecs": _codecs, "students": _students, "datasets": _datasets}
_MORE = {
    "recipes": "--recipe takes a TOML file too; every field can be given on the command line.",
    "policies": "--policy NAME:option=value changes an option; a TOML file defines your own policy.",
    "codecs": "reinforce bench codec measures them on your own logits.",
    "datasets": "reinforce pull takes these names, and any folder or URL with a published data set.",
    "students": "Short names; any name of timm.list_models() works.",
}
