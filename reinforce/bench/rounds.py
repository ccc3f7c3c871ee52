"""Rounds: measure all contenders in turn, round after round, so that a slow phase of the machine affects all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

Run = Callable[[int], float]
"""A function that does the work of the round with a given number and returns the measured value. Within one table all values
are rates, or all are times."""


def measure(
    contenders: Mapping[str, Run], rounds: int, on_run: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Run every contender once in each round; every second round runs them in reverse order.

    Args:
        contenders: Name to contender; the others are compared with the first one.
        rounds: Number of rounds.
        on_run: Called with a line of text after each run.

    Returns:
        A row per contender: `name`, `median`, `low` and `high` of its values, and `ratio`: in each round its value is divided
        by the first contender's value, and the ratio is the median over the rounds.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            found[name].append(contenders[name](number))
            on_run(f"round {number}, {name}: {found[name][-1]:.4g}")
    first = found[names[0]]
    return [
        {
            "name": name,
            "median": statistics.median(values),
            "low": min(values),
            "high": max(values),
            "ratio": statistics.median(a / b for a, b in zip(values, first, strict=True)),
        }
        for name, values in found.items()
    ]


def table(rows: list[dict[str, Any]], unit: str, digits: int = 0) -> str:
    """The rows as a Markdown table: median (lowest to highest), and the ratio to the first row."""
    lines = [f"| | {unit} | ratio to the first |", "|---|---|---|"]
    for row in rows:
        spread = f"{row['low']:.{digits}f} to {row['high']:.{digits}f}"
        lines.append(f"| {row['name']} | {row['median']:.{digits}f} ({spread}) | {row['ratio']:.2f} |")
    return "\n".join(lines)
