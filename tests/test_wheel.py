"""The wheel: what a clean checkout gives as sdist and wheel, and that the wheel works where nothing else of the project is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import reinforce

ROOT = Path(__file__).parents[1]
FOLDERS = {"reinforce": "reinforce", "train": "reinforce/train", "cli": "reinforce/cli", "manifests": "reinforce/manifests"}
C_FILES = {f"reinforce/{name}" for name in ("views/_kernels.c", "views/_kernels.h", "views/_warps.c", "labels/_records.c")}
EXTENSIONS = ("reinforce/views/_kernels.", "reinforce/labels/_records.")
DIST_INFO = f"reinforce-{reinforce.__version__}.dist-info"

pytestmark = [pytest.mark.process, pytest.mark.slow]


def tracked() -> list[str]:
    """Files of the checkout, with their content as it is in the working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and os.path.lexists(ROOT / name)]


def installed_names() -> set[str]:
    """What the wheel has to hold of the tracked files, under the names that it has there."""
    inside = [Path(name) for name in tracked() if not (ROOT / name).is_symlink()]
    chosen = [
        p for p in inside if p.parts[0] in FOLDERS and p.parts[:2] != ("reinforce", "design") and p.suffix not in (".c", ".h")
    ]
    return {str(Path(FOLDERS[p.parts[0]], *p.parts[1:])) for p in chosen}


def run(*command: object, cwd: Path, **environment: str) -> str:
    """A process, its output; the test fails with its words if it fails."""
    env = {**os.environ, **environment}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from it."""
    checkout, dist = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name, follow_symlinks=False)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, checkout, cwd=checkout)
    return dist


@pytest.fixture(scope="module")
def target(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel alone is installed into."""
    folder = tmp_path_factory.mktemp("target")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder)
    run(*pip, next(built.glob("*.whl")), cwd=folder)
    return folder


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built: Path) -> None:
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    compiled = {n for n in names if n.startswith(EXTENSIONS)}  # where there is a compiler
    assert {n for n in names if not n.startswith(f"{DIST_INFO}/")} - compiled == installed_names()
    assert not [n for n in compiled if not n.endswith(".so")]
    assert len(compiled) == (len(EXTENSIONS) if shutil.which("cc") else 0)
    some = {"FORMAT.md", "py.typed", "train/loop.py", "train/recipes/usi.toml", "cli/main.py", "manifests/schema.json"}
    assert {f"reinforce/{name}" for name in some} <= names
    assert f"{DIST_INFO}/entry_points.txt" in names


def test_the_sdist_holds_the_same_and_no_tests(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"pyproject.toml", "README.md", "CHANGELOG.md", *C_FILES} <= names
    assert {FOLDERS.get(n.partition("/")[0], "") + "/" + n.partition("/")[2] for n in names} >= installed_names()
    assert not [name for name in names if name.startswith("tests")]


def test_the_installed_command_answers(target: Path, tmp_path: Path) -> None:
    command = (sys.executable, target / "bin" / "reinforce")
    assert "Knowledge distillation" in run(*command, "--help", cwd=tmp_path, PYTHONPATH=str(target))
    assert run(*command, "--version", cwd=tmp_path, PYTHONPATH=str(target)).strip() == reinforce.__version__
    assert "imagenet-plus" in run(*command, "list", "recipes", cwd=tmp_path, PYTHONPATH=str(target))


def test_every_module_imports_from_what_was_installed(target: Path, tmp_path: Path) -> None:
    modules = sorted(
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in installed_names()
        if name.endswith(".py")
    )
    program = (
        "import importlib, sys\n"
        "found = [importlib.import_module(name).__file__ for name in sys.argv[2:]]\n"
        "print(*[path for path in found if not path.startswith(sys.argv[1])])"
    )
    assert len(modules) > 100
    assert run(sys.executable, "-c", program, target, *modules, cwd=tmp_path, PYTHONPATH=str(target)).split() == []
