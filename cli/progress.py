"""Progress of long work, on stderr: how much is done, how fast, and the time left."""

from __future__ import annotations

import sys
import time

_LOG_SECONDS = 10.0
_TERMINAL_SECONDS = 0.2


class Progress:
    """Callable with (done, total); `unit` names what is counted."""

    def __init__(self, label: str, unit: str, quiet: bool = False) -> None:
        self.label, self.unit, self.quiet = label, unit, quiet
        self.terminal = sys.stderr.isatty()
        self.started = self.shown = time.monotonic()
        self.first: int | None = None
        self.beside = ""

    def rates(self, rates: dict[str, float]) -> None:
        """Show the rate of each device beside that of all, from the next call on."""
        self.beside = " (" + ", ".join(f"{name} {rate:.1f}" for name, rate in rates.items()) + ")" if len(rates) > 1 else ""

    def __call__(self, done: int, total: int) -> None:
        """Show the progress, unless it was shown a moment ago."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.started = done, now
        due = now - self.shown >= (_TERMINAL_SECONDS if self.terminal else _LOG_SECONDS)
        if self.quiet or not (due or done >= total):
            return
        self.shown = now
        rate = (done - self.first) / max(now - self.started, 1e-9)
        left = "" if not rate or done >= total else f", {_clock((total - done) / rate)} left"
        text = f"{self.label}: {done}/{total} {self.unit}, {rate:.1f}/s{self.beside}{left}"
        ending = "\n" if not self.terminal or done >= total else ""
        print(f"\r\033[K{text}" if self.terminal else text, end=ending, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
