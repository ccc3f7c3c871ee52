"""The front door opens: the demo runs, and every code block of the README runs where the demo left its files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reinforce.train import demo

pytestmark = pytest.mark.unit

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def short_demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The demo with fewer epochs: half of its time, and every step of it. `make demo` runs the whole."""
    where = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "TEACHER_EPOCHS", 8)
        patch.setattr(demo, "STUDENT_EPOCHS", 30)
        return where, demo.run_demo(where / "runs" / "demo", [0], say=lambda text: None)


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_demo_measures_what_it_prints(short_demo: tuple[Path, dict[str, Any]]) -> None:
    _, result = short_demo
    assert result["teacher_top1"] > 90
    assert result["views_checked"] >= 1000
    assert result["checks"]["stripes replayed"][0] >= 100
    assert all(done == total for done, total in result["checks"].values())
    assert [row["mode"] for row in result["rows"]] == ["replay", "plain"]
    text = demo.table(result)
    for row in result["rows"]:
        assert 50 < row["top1"]["value"] <= 100
        assert f"| {row['mode']} | {row['top1']['value']:.1f} |" in text
    assert 1 < result["bytes_per_view"]["labels"] < 6


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_blocks_of_the_readme_run(short_demo: tuple[Path, dict[str, Any]]) -> None:
    where, _ = short_demo
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ran = []
    for language, block in BLOCKS:
        if language not in ("bash", "python"):
            continue
        command = ["bash", "-euo", "pipefail", "-c", block] if language == "bash" else [sys.executable, "-c", block]
        done = subprocess.run(command, cwd=where, env={**os.environ, "PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        ran.append(language)
    assert ran.count("bash") >= 5
    assert ran.count("python") == 3


def test_the_two_commands_stand_in_the_first_screen_and_in_the_makefile() -> None:
    first_screen = "\n".join(README.splitlines()[:30])
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for command in ("make demo", "make test"):
        assert command in first_screen
        assert re.search(rf"^{command.split()[1]}:", makefile, re.MULTILINE)
    assert "make test" in (Path(__file__).parents[1] / ".ci" / "run").read_text()


def test_links_of_the_documentation_lead_somewhere() -> None:
    root = Path(__file__).parents[1]
    pages = [root / "README.md", root / "CONTRIBUTING.md", root / "tests" / "bench" / "README.md"]
    for page in pages + sorted((root / "reinforce" / "design").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
