"""What the tests of the command line have in common: a command run in this process, and what it finds on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from reinforce.cli import main
from tests.conftest import write_folder


@dataclass
class Said:
    code: int
    out: str
    err: str


Cli = Callable[..., Said]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run the command in this process: what a fresh one would take five seconds for. An uncaught exception fails the test."""

    def call(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["reinforce", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "220")
        monkeypatch.setenv("NO_COLOR", "1")
        capsys.readouterr()
        code: object = 0
        try:
            main.main()
        except SystemExit as done:
            code = done.code or 0
        captured = capsys.readouterr()
        assert isinstance(code, int)
        assert "Traceback" not in captured.err
        return Said(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("val") / "val", per_class=2, first=200)


@pytest.fixture
def places(images: Path, store: Path, weights: Path, val: Path, tmp_path: Path) -> dict[str, str]:
    """Words that a command line of the tests may use in braces."""
    root = tmp_path / "places"
    root.mkdir()
    (root / "empty").mkdir()
    (root / "loose").mkdir()
    (root / "loose" / "notes.txt").write_text("no image")
    (root / "classes.json").write_text('["apple"]')
    (root / "bad.toml").write_text("epoch = 3")
    (root / "pickle.pt").write_bytes(b"\x80\x04N.")
    named = {"images": images, "store": store, "weights": weights, "val": val, "root": root, "out": root / "out"}
    return {k: str(v) for k, v in named.items()}


def check(said: Said, code: int, *texts: str) -> None:
    flat = " ".join(said.err.split())  # long lines are wrapped in boxes
    assert said.code == code, said.err
    for text in texts:
        assert text in flat
    assert said.out == ""
