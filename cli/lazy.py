"""Lazy: commands whose options are looked up only when the command is used, so that `reinforce --help` imports no library."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperCommand

from reinforce.cli.expand import expanded

SETTINGS = {"help_option_names": ["-h", "--help"]}


def built(module: ModuleType) -> Any:
    """The command of a module with all its options, in the form that click calls."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, context_settings=SETTINGS)
    app.command(module.NAME)(expanded(module.command))
    return typer.main.get_command(app)


def add_command(app: typer.Typer, module: ModuleType) -> None:
    """Add the command of a module, its `command` under its `NAME`."""

    class Lazy(TyperCommand):
        """Has only a name and a line of help; when it is called, the full command takes its place."""

        def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
            return built(module).make_context(info_name, args, parent, **extra)

    app.command(module.NAME, cls=Lazy, help=inspect.getdoc(module.command))(_nothing)


def _nothing() -> None:
    raise AssertionError("never called: `Lazy` calls the full command")
