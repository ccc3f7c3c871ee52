"""CONTRIBUTING.md: its picture of the rooms is the table's, and what it names is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from typer.main import get_command

from reinforce.cli.app import bench
from tests.test_layout import rooms

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
BORDERS = set("┌┬┐├┼┤└┴┘─│")

Cell = set[tuple[int, int]]


def cells(picture: list[str]) -> dict[str, Cell]:
    """Each room of a picture by its name, and the places (line, column) inside of its borders."""
    free = {(y, x) for y, line in enumerate(picture) for x, character in enumerate(line) if character not in BORDERS}
    found: dict[str, Cell] = {}
    while free:
        waiting = [free.pop()]
        cell = set(waiting)
        while waiting:
            y, x = waiting.pop()
            near = {(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)} & free
            free -= near
            cell |= near
            waiting += near
        text = "".join(picture[y][x] for y, x in sorted(cell))
        found[text.split()[0]] = cell
    return found


def stands_on(picture: list[str]) -> dict[str, set[str]]:
    """The rooms below each room, the ones below those, and so on."""
    found = cells(picture)
    under = {
        upper: {lower for lower, cell in found.items() if lower != upper and cell & {(y + 2, x) for y, x in found[upper]}}
        for upper in found
    }

    def all_below(name: str) -> set[str]:
        return under[name].union(*(all_below(lower) for lower in under[name]))

    return {name: all_below(name) for name in under}


def test_the_picture_says_what_the_table_of_rooms_says() -> None:
    picture = [line for line in PAGE.splitlines() if line and line[0] in BORDERS]
    assert stands_on(picture) == {name: set(allowed) - {name} for name, allowed in rooms().items()}


def test_a_room_stands_on_what_touches_it_from_below() -> None:
    picture = ["┌─────┬───┐", "│ a   │ b │", "├───┬─┴───┤", "│ c │ d   │", "├───┴─────┤", "│ e       │", "└─────────┘"]
    assert stands_on(picture) == {"a": {"c", "d", "e"}, "b": {"d", "e"}, "c": {"e"}, "d": {"e"}, "e": set()}


def test_files_and_folders_that_it_names_are_there() -> None:
    named = set(re.findall(r"`((?:reinforce|train|cli|tests|\.github)/[\w./-]*)`", PAGE))
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize(("registry", "path"), sorted(set(re.findall(r"`([A-Z]{3,})`\s+of\s+`(reinforce/[\w/]+)\.py`", PAGE))))
def test_a_registry_is_where_it_says(registry: str, path: str) -> None:
    assert isinstance(getattr(importlib.import_module(path.replace("/", ".")), registry), dict)


@pytest.mark.parametrize(("law", "module"), re.findall(r"`(check_\w+)`\s+of\s+`(reinforce\.testing\.\w+)`", PAGE))
def test_a_law_is_where_it_says(law: str, module: str) -> None:
    assert callable(getattr(importlib.import_module(module), law))


def test_the_measurements_are_those_there_are() -> None:
    text = re.search(r"^`reinforce bench (.*?) measure,", PAGE, re.MULTILINE | re.DOTALL)
    assert text
    assert sorted(re.findall(r"\w+", text[1].replace(" and ", " "))) == sorted(get_command(bench).commands)  # type: ignore[attr-defined]
