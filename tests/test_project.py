"""What stands in several files of the project says the same: versions, the commands of `make check`, the workflow's."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"


def requirements() -> list[Requirement]:
    """Everything that the project and its extras name, but for itself."""
    extras = PROJECT["optional-dependencies"].values()
    found = [Requirement(text) for text in [*PROJECT["dependencies"], *(text for extra in extras for text in extra)]]
    return [r for r in found if r.name != PROJECT["name"]]


def versions(name: str) -> dict[str, str]:
    """Version of each package in a file of constraints."""
    rows = [line.split("==") for line in (ROOT / name).read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(package): version for package, version in rows}


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, as a shell sees them."""
    text = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert text, target
    return [line.strip().replace("$(BIN)", ".venv/bin").replace("$$", "$") for line in text[1].splitlines()]


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("wanted", requirements(), ids=lambda r: r.name)
def test_a_lower_bound_is_the_version_that_the_lowest_tests_run_with(wanted: Requirement) -> None:
    (bound,) = [Version(s.version) for s in wanted.specifier if s.operator == ">="]
    assert Version(versions("constraints-lowest.txt")[canonicalize_name(wanted.name)]) == bound


@pytest.mark.parametrize("wanted", requirements(), ids=lambda r: r.name)
def test_the_pinned_version_is_allowed(wanted: Requirement) -> None:
    assert versions("constraints.txt")[canonicalize_name(wanted.name)] in wanted.specifier


def test_hooks_run_the_commands_of_make_check() -> None:
    (repository,) = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = repository["hooks"]
    entries = [shlex.split(hook["entry"]) for hook in hooks]
    assert [entry[2] if entry[0] == "sh" else shlex.join(entry) for entry in entries] == recipe("check")
    assert all(hook["language"] == "system" and hook["always_run"] and not hook["pass_filenames"] for hook in hooks)


@pytest.mark.process
def test_a_hook_fails_where_it_should(tmp_path: Path) -> None:
    hooks = {h["id"]: shlex.split(h["entry"]) for h in read_yaml(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]}

    def codes() -> list[int]:
        subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
        chosen = ("whitespace", "large-files")
        return [subprocess.run(hooks[name], cwd=tmp_path, capture_output=True).returncode for name in chosen]

    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / "a name.txt").write_text("clean\n")
    assert codes() == [0, 0]
    (tmp_path / "a name.txt").write_text("not clean \n")
    (tmp_path / "large one").write_bytes(bytes(600_000))
    assert all(code != 0 for code in codes())


def test_the_workflow_covers_the_pythons_and_versions_that_are_promised() -> None:
    jobs = read_yaml(WORKFLOW)["jobs"]
    runs = jobs["test"]["strategy"]["matrix"]["include"]
    lowest = PROJECT["requires-python"].removeprefix(">=")
    assert sorted({run["python"] for run in runs}) == ["3.11", "3.12", "3.13", "3.14"]
    assert {(run["python"], run["constraints"]) for run in runs} >= {
        (lowest, "constraints-lowest.txt"),
        (lowest, "constraints.txt"),
    }
    assert {run["constraints"] for run in runs} == {"", "constraints.txt", "constraints-lowest.txt"}
    assert all((ROOT / run["constraints"]).exists() for run in runs)


def test_the_workflow_calls_targets_of_the_makefile() -> None:
    called = re.findall(r"run: make (\S+)", WORKFLOW.read_text())
    assert set(called) == {"check", "test", "wheel"}
    assert all(recipe(target) for target in called)


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda p: p.stem)
def test_a_template_of_an_issue_is_a_form(path: Path) -> None:
    form = read_yaml(path)
    assert {"name", "description", "labels", "body"} == set(form)
    assert all({"type", "id", "attributes"} <= set(field) and field["attributes"]["label"] for field in form["body"])


def test_a_bug_is_reported_with_versions_command_and_output() -> None:
    fields = {f["id"]: f for f in read_yaml(ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    assert {"versions", "command", "output"} <= set(fields)
    assert all(fields[name]["validations"]["required"] for name in ("versions", "command", "output"))
    assert "reinforce --version" in fields["versions"]["attributes"]["description"]
