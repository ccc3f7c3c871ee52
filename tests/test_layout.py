"""The shape of the code, where neither a rule of ruff nor a contract of import-linter says it: one test for each rule."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import pytest

import reinforce

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "reinforce").rglob("*.py"))  # without the symlinks train/ and cli/
CODE = PACKAGE + sorted((ROOT / "train").glob("*.py")) + sorted((ROOT / "cli").glob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
CONTRACTS = {contract["name"]: contract for contract in PROJECT["importlinter"]["contracts"]}
PURE = CONTRACTS["A pure module reaches no file, not even through others"]["source_modules"]
WITHOUT_GENERATOR = CONTRACTS["What makes pixels and labels reaches no generator"]["source_modules"]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def full_name(path: Path) -> str:
    """How a file of ours is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("reinforce",) * (parts[0] != "reinforce") + parts).removesuffix(".__init__")


BY_NAME = {full_name(path): path for path in CODE}


@cache
def expressions(path: Path) -> list[ast.expr]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.expr)]


def breaks(paths: Iterable[Path], rule: Callable[[ast.expr], bool]) -> list[str]:
    """Where an expression of these files is what the rule does not want."""
    found = [(path, node) for path in paths for node in expressions(path) if rule(node)]
    return [f"{name_of(path)}:{node.lineno}: {ast.unparse(node)}" for path, node in found]


def calls(node: ast.expr, *names: str) -> bool:
    """Is it a call of a function of one of these plain names?"""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names


def reads(node: ast.expr, *names: str) -> bool:
    """Is it an attribute of one of these names, of whatever object?"""
    return isinstance(node, ast.Attribute) and node.attr in names


def test_the_files_that_are_looked_at_are_there() -> None:
    assert {"reinforce.replay.dataset", "reinforce.store.store", "reinforce.train.loop", "reinforce.cli.main"} <= set(BY_NAME)
    assert name_of(Path(__file__)) in map(name_of, TESTS)
    assert set(PURE) | set(WITHOUT_GENERATOR) <= set(BY_NAME)


def test_a_rule_that_is_broken_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "a.py").write_text("x = 1\ny = np.random.default_rng(x)\nopen('f')\n")
    assert breaks([tmp_path / "a.py"], lambda node: reads(node, "default_rng")) == ["a.py:2: np.random.default_rng"]
    assert breaks([tmp_path / "a.py"], lambda node: calls(node, "open")) == ["a.py:3: open('f')"]


# Rooms: the table of the design page, and the contracts that import-linter checks


def rooms() -> dict[str, set[str]]:
    """Each room in the order of the table, and the rooms that it may import."""
    page = (ROOT / "reinforce" / "design" / "rooms.md").read_text()
    rows = re.findall(r"^\| ([a-z]+) \| [^|]+ \| ([a-z, -]+) \|$", page, re.MULTILINE)[1:]  # without the heading
    order = [name for name, _ in rows]
    allowed: dict[str, set[str]] = {}
    for place, (name, told) in enumerate(rows):
        named = [] if told == "-" else order[:place] if told == "all" else told.split(", ")
        assert set(named) <= set(order[:place]), f"{name} may import {told}, which does not stand above it"
        allowed[name] = set(order[: max((order.index(n) for n in named), default=-1) + 1])
    return allowed


def contracts() -> dict[str, set[str]]:
    """What the contracts of pyproject.toml let each room import."""
    layered = CONTRACTS["A room imports what stands below it"]
    *layers, ground = [re.findall(r"\w+", layer) for layer in layered["layers"]]
    assert {f"reinforce.{name}" for name in ground} == {full_name(p) for p in GROUND}
    allowed = {room: {"ground"}.union(*layers[place + 1 :]) for place, layer in enumerate(layers) for room in layer}
    for contract in CONTRACTS.values():
        if contract["type"] == "forbidden":
            for source in contract["source_modules"]:
                banned = {name.removeprefix("reinforce.") for name in contract["forbidden_modules"]}
                allowed.get(source.removeprefix("reinforce."), set()).difference_update(banned)
    return {"ground": set(), **allowed}


GROUND = [p for p in (ROOT / "reinforce").glob("*.py") if p.name != "__init__.py"]
FOLDERS = {p.parent.name for p in CODE if p.parent != ROOT / "reinforce"}


def test_the_contracts_of_the_rooms_are_the_table() -> None:
    table, linted = rooms(), contracts()
    assert FOLDERS | {"ground"} <= set(table)
    assert set(linted) == set(table)
    for room in FOLDERS | {"ground"}:  # a room of the table without a folder cannot be named in a contract yet
        assert linted[room] & FOLDERS == table[room] & FOLDERS, f"what {room} may import"


def test_only_the_room_of_the_command_line_is_free_to_know_of_one() -> None:
    listed = CONTRACTS["Only the command line knows of a command line"]["source_modules"]
    assert set(listed) == {full_name(p) for p in GROUND} | {f"reinforce.{name}" for name in FOLDERS - {"cli"}}


def test_a_room_says_what_comes_in_and_out_and_imports_nothing() -> None:
    silent = []
    for path in PACKAGE:
        if path.name != "__init__.py" or path.parent == ROOT / "reinforce":
            continue
        tree = ast.parse(path.read_text())
        text = ast.get_docstring(tree) or ""
        told = all(f"\n{part}" in text for part in ("Comes in: ", "Goes out: ", "Read first: "))
        there = all((path.parent / name).exists() for name in re.findall(r"`(\w+\.py)`", text))
        if not (told and there and len(text.splitlines()) <= 10 and len(tree.body) == 1):
            silent.append(name_of(path))
    assert silent == []


def test_every_room_is_installed() -> None:
    folders = {full_name(p) for p in CODE if p.name == "__init__.py"}
    assert set(PROJECT["setuptools"]["packages"]) == folders | {"reinforce.manifests"}


def test_the_folders_are_seen_under_their_installed_names() -> None:
    import reinforce.cli
    import reinforce.train

    for module, folder in ((reinforce.train, "train"), (reinforce.cli, "cli")):
        assert Path(module.__path__[0]).resolve() == ROOT / folder
        assert (ROOT / "reinforce" / folder).is_symlink()


# Rules that name a call or an attribute


def test_a_pure_module_opens_no_file() -> None:
    def opens(node: ast.expr) -> bool:
        methods = ("fromfile", "tofile", "save", "load", "memmap")
        return calls(node, "open") or (isinstance(node, ast.Call) and reads(node.func, *methods))

    assert breaks([BY_NAME[name] for name in PURE], opens) == []


def test_what_makes_pixels_and_labels_makes_no_generator() -> None:
    names = ("random", "rand", "randn", "randint", "default_rng", "Generator", "manual_seed")
    assert breaks([BY_NAME[name] for name in WITHOUT_GENERATOR], lambda node: reads(node, *names)) == []


def test_generators_are_made_in_one_place() -> None:
    names = ("default_rng", "PCG64", "SeedSequence", "seed_everything")
    others = [path for path in CODE if path.name != "seeds.py"]
    assert breaks(others, lambda node: reads(node, *names)) == []
    assert not [name_of(p) for p in others if re.search(r"^\s*(import|from) random\b", p.read_text(), re.MULTILINE)]


def test_the_library_asks_no_questions() -> None:
    assert breaks(PACKAGE, lambda node: calls(node, "input")) == []


def test_torch_files_are_read_by_our_own_reader() -> None:
    def loads(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and reads(node.func, "load") and ast.unparse(node).startswith("torch.")

    # A program of torch.export is code that a user must name: tests/teachers/test_own.py.
    assert breaks([path for path in CODE if path.name != "exported.py"], loads) == []


# Rules of files


def test_files_are_short() -> None:
    assert [name_of(p) for p in CODE + TESTS if len(p.read_text().splitlines()) > 300] == []


def test_there_is_no_drawer_for_everything() -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
    assert [name_of(p) for p in CODE + TESTS if p.name in drawers] == []


# The front door


def test_the_package_exports_exactly_these_names() -> None:
    assert sorted(reinforce.__all__) == ["ReinforcedDataset", "__version__"]
    assert reinforce.ReinforcedDataset.__module__ == "reinforce.replay.dataset"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", reinforce.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = reinforce.Nothing


@pytest.mark.process
def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, reinforce, reinforce.errors; print({'torch', 'timm', 'zarr', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "set()"
