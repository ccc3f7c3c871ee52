"""The shape of the code: imports point one way, pure modules open nothing, files stay short."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import reinforce

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "reinforce").rglob("*.py"))
TRAIN = sorted((ROOT / "train").glob("*.py"))
CLI = sorted((ROOT / "cli").glob("*.py"))
PURE = (
    "views/params",
    "policy",
    "settings",
    "views/layout",
    "views/status",
    "sources/pack_manifest",
    "views/operation",
    "views/operations",
    "views/torchvision_ops",
    "views/augment",
    "views/blur",
    "views/erase",
    "views/draw",
    "views/mix",
    "views/rescale",
    "views/apply",
    "views/ops",
    "views/warp",
    "labels/sparse",
    "labels/codec",
    "labels/topk",
    "labels/sqrt",
    "labels/sqrt_selection",
    "labels/label_map",
    "labels/codecs",
    "labels/label_kind",
    "labels/fidelity",
    "views/seeds",
    "store/manifest",
)
IO_MODULES = {"zarr", "pyarrow", "os", "io", "pathlib", "shutil", "tempfile", "fcntl", "mmap", "socket", "subprocess", "PIL"}
DEPENDENCIES = {"errors", "teachers/short_names"}  # neither of them does anything


def imports(path: Path) -> set[str]:
    """Full names of everything that a file imports, wherever in it: `from a import b` is a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_lists_of_this_file_are_not_empty() -> None:
    assert {"dataset.py", "store.py"} <= {p.name for p in PACKAGE}
    assert "loop.py" in {p.name for p in TRAIN}
    assert "main.py" in {p.name for p in CLI}
    assert {f"reinforce/{name}.py" for name in PURE} <= {name_of(p) for p in PACKAGE}


# Rooms: the table of the design page


def rooms() -> dict[str, list[str]]:
    """Each room in the order of the table, and the rooms that it may import."""
    page = (ROOT / "reinforce" / "design" / "rooms.md").read_text()
    rows = re.findall(r"^\| ([a-z]+) \| [^|]+ \| ([a-z, -]+) \|$", page, re.MULTILINE)[1:]  # without the heading
    order = [name for name, _ in rows]
    allowed: dict[str, list[str]] = {}
    for place, (name, told) in enumerate(rows):
        named = [] if told == "-" else order[:place] if told == "all" else told.split(", ")
        assert set(named) <= set(order[:place]), f"{name} may import {told}, which does not stand above it"
        allowed[name] = [*order[: max((order.index(n) for n in named), default=-1) + 1], name]
    return allowed


def room_of(module: str) -> str:
    """The room of a module of ours by its full name."""
    first = module.removeprefix("reinforce.").partition(".")[0]
    return first if first in rooms() else "ground"


def arrows_back(module: str, imported: set[str]) -> list[str]:
    """Imports of a module that the table does not allow."""
    known = {full_name(path) for path in PACKAGE + TRAIN + CLI}
    ours = {name for name in imported if name in known and name != "reinforce"}
    return sorted(f"{module} imports {name}" for name in ours if room_of(name) not in rooms()[room_of(module)])


def full_name(path: Path) -> str:
    """How a file of ours is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("reinforce",) * (parts[0] != "reinforce") + parts).removesuffix(".__init__")


def test_every_folder_is_a_room_of_the_table() -> None:
    folders = {p.parent.name for p in PACKAGE if p.parent != ROOT / "reinforce"} | {"train", "cli"}
    assert folders <= set(rooms())
    assert {"sources", "views", "train", "cli"} <= folders


def test_the_ground_is_small_and_imports_no_room() -> None:
    ground = {p.stem for p in (ROOT / "reinforce").glob("*.py")}
    assert ground == {"__init__", "errors", "files", "memory", "policy", "settings", "silence"}
    assert rooms()["ground"] == ["ground"]


@pytest.mark.parametrize("path", [p for p in PACKAGE + TRAIN + CLI if p != ROOT / "reinforce" / "__init__.py"], ids=name_of)
def test_no_arrow_between_rooms_runs_back(path) -> None:
    assert arrows_back(full_name(path), imports(path)) == []


def test_an_arrow_that_runs_back_is_named() -> None:
    assert arrows_back("reinforce.views.draw", {"reinforce.store.block", "numpy", "reinforce.policy"}) == [
        "reinforce.views.draw imports reinforce.store.block"
    ]
    assert arrows_back("reinforce.policy", {"reinforce.views.params"}) == ["reinforce.policy imports reinforce.views.params"]
    assert arrows_back("reinforce.peers.fkd", {"reinforce.replay.epoch"}) == [
        "reinforce.peers.fkd imports reinforce.replay.epoch"
    ]
    assert arrows_back("reinforce.cli.show", {"reinforce.replay.epoch"}) == []


@pytest.mark.parametrize(
    "path", [p for p in PACKAGE if p.name == "__init__.py" and p.parent.parent == ROOT / "reinforce"], ids=name_of
)
def test_a_room_says_what_comes_in_and_out_and_imports_nothing(path) -> None:
    tree = ast.parse(path.read_text())
    text = ast.get_docstring(tree) or ""
    assert len(text.splitlines()) <= 10
    assert all(f"\n{part}" in text for part in ("Comes in: ", "Goes out: ", "Read first: "))
    assert len(tree.body) == 1
    for name in re.findall(r"`(\w+\.py)`", text):
        assert (path.parent / name).exists(), name


def test_every_room_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {full_name(p) for p in PACKAGE + TRAIN + CLI if p.name == "__init__.py"}
    assert set(listed) == folders | {"reinforce.manifests"}


# Rules of single files


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_the_library_imports_neither_training_nor_the_command_line(path) -> None:
    assert not [name for name in imports(path) if below(name, "reinforce.train") or below(name, "reinforce.cli")]


@pytest.mark.parametrize("path", TRAIN, ids=name_of)
def test_training_does_not_import_the_command_line(path) -> None:
    assert not [name for name in imports(path) if below(name, "reinforce.cli") or below(name, "typer") or below(name, "rich")]


@pytest.mark.parametrize("path", PACKAGE, ids=name_of)
def test_the_library_prints_nothing_and_knows_no_command_line(path) -> None:
    calls = {
        n.func.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not calls & {"print", "input", "exit"}
    assert not [name for name in imports(path) if below(name, "typer") or below(name, "rich") or below(name, "argparse")]


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_reaches_no_file(name) -> None:
    path = ROOT / "reinforce" / f"{name}.py"
    imported = imports(path)
    assert not {n for n in imported if n.partition(".")[0] in IO_MODULES}
    allowed = {f"reinforce.{m}".replace("/", ".") for m in (*PURE, *DEPENDENCIES)}
    every = {name_of(p).removesuffix(".py").replace("/", ".") for p in PACKAGE}
    modules = {n for n in imported if n in every}
    assert modules <= allowed, "a pure module imports pure modules only"
    calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not [f for f in calls if isinstance(f, ast.Name) and f.id == "open"]
    assert not [f for f in calls if isinstance(f, ast.Attribute) and f.attr in ("fromfile", "tofile", "save", "load", "memmap")]


@pytest.mark.parametrize(
    "name",
    [
        "views/apply",
        "views/ops",
        "views/warp",
        "views/params",
        "labels/codec",
        "labels/topk",
        "labels/sqrt",
        "labels/sqrt_selection",
        "labels/label_map",
        "labels/sparse",
    ],
)
def test_what_makes_pixels_and_labels_reaches_no_generator(name) -> None:
    path = ROOT / "reinforce" / f"{name}.py"
    assert not {n for n in imports(path) if below(n, "random") or below(n, "secrets") or below(n, "reinforce.views.seeds")}
    attributes = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
    assert not attributes & {"random", "rand", "randn", "randint", "default_rng", "Generator", "manual_seed"}


@pytest.mark.parametrize("path", [p for p in PACKAGE + TRAIN + CLI if p.name != "seeds.py"], ids=name_of)
def test_generators_are_made_in_one_place(path) -> None:
    attributes = {n.attr for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Attribute)}
    assert not attributes & {"default_rng", "PCG64", "SeedSequence", "seed_everything"}
    assert not [n for n in imports(path) if below(n, "random")]


@pytest.mark.parametrize("path", PACKAGE + TRAIN + CLI + sorted((ROOT / "tests").rglob("*.py")), ids=name_of)
def test_the_folders_are_imported_by_their_installed_names(path) -> None:
    assert not [name for name in imports(path) if below(name, "train") or below(name, "cli")]


@pytest.mark.parametrize("path", PACKAGE + TRAIN + CLI, ids=name_of)
def test_nothing_is_pickled(path) -> None:
    assert not [n for n in imports(path) if n.partition(".")[0] in {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}]
    loads = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "torch.load"
    ]
    for call in loads:
        assert "weights_only=True" in ast.unparse(call)


@pytest.mark.parametrize("path", PACKAGE + TRAIN + CLI, ids=name_of)
def test_a_file_is_short_and_says_what_it_is(path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert ast.get_docstring(ast.parse(text))
    assert path.name != "utils.py"


def test_files_of_tests_are_short_too() -> None:
    assert [name_of(p) for p in (ROOT / "tests").rglob("*.py") if len(p.read_text().splitlines()) > 300] == []


def test_there_is_no_drawer_for_everything() -> None:
    assert not [
        p for p in ROOT.glob("[a-z]*/**/*.py") if p.name in ("utils.py", "util.py", "helpers.py", "common.py", "misc.py")
    ]


def test_the_folders_are_seen_under_their_installed_names() -> None:
    import reinforce.cli
    import reinforce.train

    for module, folder in ((reinforce.train, "train"), (reinforce.cli, "cli")):
        assert Path(module.__path__[0]).resolve() == ROOT / folder
        assert (ROOT / "reinforce" / folder).is_symlink()


def test_the_package_exports_exactly_these_names() -> None:
    assert sorted(reinforce.__all__) == ["ReinforcedDataset", "__version__"]
    assert reinforce.ReinforcedDataset.__module__ == "reinforce.replay.dataset"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", reinforce.__version__)
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = reinforce.Nothing


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import sys, reinforce, reinforce.errors; print({'torch', 'timm', 'zarr', 'numpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip() == "set()"
