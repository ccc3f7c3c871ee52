"""The tree of errors is as drawn, with the exit codes that are stated, and every error says more than one thing."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from reinforce import errors

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
CODE = sorted(path for folder in ("reinforce", "train", "cli") for path in (ROOT / folder).rglob("*.py"))


def drawn() -> dict[str, str | None]:
    """Parent of each class in the drawing, by the column it starts in."""
    tree: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([|` -]*)([A-Z][A-Za-z]+Error|Interrupted)(?:  |$)", line)
        if match:
            column, name = match.start(2), match[2]
            path = [(c, n) for c, n in path if c < column]
            tree[name] = path[-1][1] if path else None
            path.append((column, name))
    return tree


def defined() -> dict[str, type[object]]:
    return {
        n: c
        for n, c in inspect.getmembers(errors, inspect.isclass)
        if c.__module__ == errors.__name__ and issubclass(c, Exception)
    }


def test_the_drawn_tree_of_errors_is_the_defined_one() -> None:
    classes = defined()
    bases = {name: kind.__base__.__name__ for name, kind in classes.items() if name != "ReinforceError"}
    assert drawn() == {"ReinforceError": None, **bases}
    assert sorted(errors.__all__) == sorted(classes)
    assert issubclass(errors.ReinforceError, Exception)


def test_exit_codes_are_those_that_are_stated() -> None:
    stated = dict(re.findall(r"([A-Z][A-Za-z]+) +exit code (\d+)", errors.__doc__ or ""))
    assert {k: int(v) for k, v in stated.items()} == {"ReinforceError": 1, "Interrupted": 130, "UsageError": 2}
    tree = drawn()
    for name, kind in defined().items():
        ancestor: str | None = name
        while ancestor not in stated:
            ancestor = tree[ancestor]
        assert issubclass(kind, errors.ReinforceError)
        assert kind.exit_code == int(stated[ancestor]), name


def test_what_is_raised_for_users_says_more_than_one_thing() -> None:
    """Every error names beside the problem what was found, expected, the cause, or what to do."""
    names = set(defined()) - {"ImageError"}  # its reason is all there is to say; it is noted beside the sample
    raised = [
        (f"{path.relative_to(ROOT)}:{node.lineno}", node.exc)
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in names
    ]
    assert len(raised) > 100
    assert [where for where, call in raised if not call.keywords] == []


def test_no_part_of_an_error_is_longer_than_anyone_reads() -> None:
    error = errors.StoreError("w" * 100_000, found="f" * 100_000, expected=1 << 20_000, cause="c", fix="x" * 2000)
    assert len(str(error)) < 6500
    assert len(error.what) == 2000
    assert "f..." in str(error)
    assert "a number of 20001 bits" in str(error)
    assert "x" * 2000 in str(error)
