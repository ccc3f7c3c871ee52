"""Progress: a line now and then in a log, one that is rewritten on a terminal, none when told."""

from __future__ import annotations

import io
import sys
from types import SimpleNamespace

import pytest

from reinforce.cli import progress
from reinforce.cli.progress import Progress

pytestmark = pytest.mark.unit


class Stream(io.StringIO):
    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Time that a test sets by hand."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_progress_in_a_log_is_a_line_now_and_then_with_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    stream = Stream(terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("generate", "images")
    for done in range(1001):
        clock.seconds = 100.0 + done / 40
        shown(done, 1000)
    assert stream.getvalue().splitlines() == [
        "generate: 400/1000 images, 40.0/s, 0:15 left",
        "generate: 800/1000 images, 40.0/s, 0:05 left",
        "generate: 1000/1000 images, 40.0/s",
    ]


def test_progress_does_not_count_what_was_already_there_as_fast(
    monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace
) -> None:
    stream = Stream(terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("generate", "images")
    clock.seconds = 130.0  # loading took its time
    shown(5000, 10000)
    stream.truncate(0)
    clock.seconds = 150.0
    shown(5020, 10000)
    assert "5020/10000 images, 1.0/s, 1:23:00 left" in stream.getvalue()


def test_progress_on_a_terminal_rewrites_its_line(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    stream = Stream(terminal=True)
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("verify", "files")
    for done in range(5):
        clock.seconds += 1.0
        shown(done, 4)
    text = stream.getvalue()
    assert text.count("\r\033[K") == 5
    assert text.count("\n") == 1
    assert text.endswith("verify: 4/4 files, 1.0/s\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_quiet_when_told(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace, terminal: bool) -> None:
    stream = Stream(terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    shown = Progress("generate", "images", quiet=True)
    for done in range(100):
        clock.seconds += 60.0
        shown(done, 99)
    assert stream.getvalue() == ""
