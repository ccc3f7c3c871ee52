"""Old names of options and commands: they work, and say the new one."""

from __future__ import annotations

import sys

import pytest
from packaging.version import Version

import reinforce
from reinforce.cli import app, main
from reinforce.cli.renamed import COMMANDS, LAST, OPTIONS, renamed

pytestmark = pytest.mark.unit


def test_old_names_become_new_ones_with_a_note_for_each() -> None:
    arguments, notes = renamed(["plan", "--record-views=32", "--record-views", "8", "--data", "plan"])
    assert arguments == ["estimate", "--stripe-views=32", "--stripe-views", "8", "--data", "plan"]
    assert len(notes) == 3
    assert "plan is called estimate now" in notes[0]


def test_old_names_are_gone_when_their_time_is_over() -> None:
    assert Version(reinforce.__version__).release[:2] <= Version(LAST).release, "remove the old names"


def test_what_is_no_old_name_stays() -> None:
    line = ["generate", "--data", "plan", "--stripe-views", "8", "--", "--record-views"]
    assert renamed(line) == (line, [])


@pytest.mark.parametrize("new", [*OPTIONS.values(), *COMMANDS.values()])
def test_new_names_are_there_and_old_ones_are_not_offered(new: str, capsys: pytest.CaptureFixture[str]) -> None:
    old = {v: k for k, v in {**OPTIONS, **COMMANDS}.items()}[new]
    with pytest.raises(SystemExit):
        app.app(["generate", "--help"] if new.startswith("-") else ["--help"])
    words = capsys.readouterr().out.split()
    assert new in words
    assert old not in words


def test_the_command_takes_an_old_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["reinforce", "plan", "--help"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 0
    streams = capsys.readouterr()
    assert "plan is called estimate now" in streams.err
    assert "--gpu-rate" in streams.out
