"""Renamed: options and commands that got a new name. The old name works up to version `LAST`, and a note states the new one."""

from __future__ import annotations

OPTIONS = {"--record-views": "--stripe-views"}
COMMANDS = {"plan": "estimate"}
LAST = "0.2"
"""The last version that accepts the old names: the minor version after the one that renamed them."""


def renamed(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Arguments with new names in place of old ones, and a note to print for each replaced name."""
    result, notes = list(arguments), []

    def replace(position: int, old: str, new: str) -> None:
        result[position] = new + result[position][len(old) :]
        notes.append(f"{old} is called {new} now; the old name works up to version {LAST}")

    for position, argument in enumerate(arguments):
        if argument == "--":
            break
        name = argument.partition("=")[0]
        if position == 0 and name in COMMANDS:
            replace(position, name, COMMANDS[name])
        elif name in OPTIONS:
            replace(position, name, OPTIONS[name])
    return result, notes
