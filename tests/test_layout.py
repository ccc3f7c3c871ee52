"""The shape of the code: imports point one way, pure modules open nothing, files stay short, errors are as drawn."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import reinforce
from reinforce import errors

ROOT = Path(__file__).parents[1]
PACKAGE = sorted((ROOT / "reinforce").rglob("*.py"))
TRAIN = sorted((ROOT / "train").glob("*.py"))
CLI = sorted((ROOT / "cli").glob("*.py"))
PURE = (
    "views/params",
    "presets",
    "policy",
    "views/augment",
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
    "labels/codec_names",
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


# The tree of errors


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


def defined() -> dict[str, type[errors.ReinforceError]]:
    return {n: c for n, c in inspect.getmembers(errors, inspect.isclass) if c.__module__ == errors.__name__}


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
        assert kind.exit_code == int(stated[ancestor]), name


@pytest.mark.parametrize("path", PACKAGE + TRAIN + CLI, ids=name_of)
def test_what_is_raised_for_users_says_more_than_one_thing(path) -> None:
    """Every error names beside the problem what was found, expected, the cause, or what to do."""
    names = set(defined()) - {"ImageError"}  # its reason is all there is to say; it is noted beside the sample
    bare = [
        f"{path.name}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in names
        and not node.exc.keywords
    ]
    assert bare == []
