"""Lint: the rules that ruff and import-linter are configured for fire, each on a line that breaks it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
FORBIDDEN = {  # a line of a module of the library, and the rule that names it
    "import pickle": "TID251",
    "import dill": "TID251",
    "import joblib": "TID251",
    "import marshal": "TID251",
    "import shelve": "TID251",
    "from torch import load": "TID251",
    "from train import loop": "TID251",
    "import cli.main": "TID251",
    "from os import replace": "TID251",
    "from os import rename": "TID251",
    "from os import fsync": "TID251",
    "from shutil import move": "TID251",
    "from . import block": "TID252",
    "print(1)": "T201",
    "exit(1)": "PLR1722",
    "def f(): ...": "D103",
}


def ruff(name: str, text: str) -> dict[int, set[str]]:
    """The rules that a file of this name and text breaks, by line."""
    command = [str(Path(sys.executable).parent / "ruff"), "check", "--output-format", "json"]
    command += ["--stdin-filename", str(ROOT / name), "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode in (0, 1), done.stderr
    found: dict[int, set[str]] = {}
    for one in json.loads(done.stdout):
        found.setdefault(one["location"]["row"], set()).add(one["code"])
    return found


def test_what_the_library_must_not_do_is_a_finding_of_ruff() -> None:
    found = ruff("reinforce/store/new.py", "\n".join(FORBIDDEN))
    missed = {line: code for row, (line, code) in enumerate(FORBIDDEN.items(), 1) if code not in found.get(row, set())}
    assert missed == {}
    assert "D100" in found[1]  # a module says what it is


def test_the_command_line_may_print_and_nothing_more() -> None:
    found = ruff("cli/new.py", '"""A command."""\n\nimport pickle\n\nprint(pickle)\n')
    assert found == {3: {"TID251"}}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code with its symlinks, and what lints it."""
    for folder in ("reinforce", "train", "cli"):
        shutil.copytree(ROOT / folder, tmp_path / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(root: Path) -> tuple[int, str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    env = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=env)
    return done.returncode, done.stdout + done.stderr


def test_imports_that_no_contract_allows_are_named(copy: Path) -> None:
    code, said = lint_imports(copy)
    assert (code, "0 broken" in said) == (0, True), said
    for name, line in {
        "reinforce/views/draw.py": "    import reinforce.store.block",  # to a room above it
        "reinforce/policy.py": "    import reinforce.views.params",  # from the ground
        "reinforce/peers/fkd.py": "    import reinforce.replay.epoch",  # between neighbours
        "train/loop.py": "    import reinforce.cli.main",  # behind a symlink
        "reinforce/verification/verify.py": "    import reinforce.peers.fkd",
        "reinforce/generation/generate.py": "    import reinforce.sharing.pull",
        "reinforce/store/store.py": "    import rich",
        "reinforce/views/mix.py": "    import reinforce.files",  # which reaches files
        "reinforce/views/ops.py": "    import reinforce.views.seeds",
    }.items():
        with (copy / name).open("a") as file:
            file.write(f"\n\ndef inside() -> None:\n{line}\n")
    (copy / "reinforce" / "notes.py").write_text('"""A module of the ground that is not in the table."""\n')
    code, said = lint_imports(copy)
    assert code == 1
    assert "- reinforce.notes\n" in said  # every module has its place in the table
    (copy / "reinforce" / "notes.py").unlink()
    code, said = lint_imports(copy)
    assert code == 1
    assert "6 broken" in said, said
    for arrow in (
        "reinforce.views is not allowed to import reinforce.store",
        "reinforce.policy is not allowed to import reinforce.views",
        "reinforce.peers is not allowed to import reinforce.replay",
        "reinforce.train is not allowed to import reinforce.cli",
        "reinforce.verification is not allowed to import reinforce.peers",
        "reinforce.generation is not allowed to import reinforce.sharing",
        "reinforce.store is not allowed to import rich",
        "reinforce.views.mix is not allowed to import",
        "reinforce.views.ops is not allowed to import reinforce.views.seeds",
    ):
        assert arrow in said, arrow
