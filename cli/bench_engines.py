"""`reinforce bench engines`: stage one in one process, in several, and in shares."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import typer

from reinforce.cli import options as o
from reinforce.cli.generation import GenerationOptions

NAME = "engines"


@dataclass(frozen=True, kw_only=True)
class _Options(GenerationOptions):
    """The options of `generate`, with defaults that make a short run."""

    limit: o.Limit = 160
    views: o.Views = 8
    block_size: o.BlockSize = 4
    workers: o.Workers = 0
    processes: o.Processes = 2


def command(given: _Options, rounds: o.Rounds = 3, as_json: o.Json = False) -> None:
    """Compare one process with several and with as many shares, in images per second; takes generate's options."""
    from reinforce.bench.engines_bench import contenders
    from reinforce.bench.rounds import measure, table
    from reinforce.store.probes import environment

    many = given.processes
    several = {
        f"{many} processes": [["--processes", str(many)]],
        f"{many} shares": [["--share", f"{i + 1}/{many}"] for i in range(many)],
    }
    if importlib.util.find_spec("ray"):
        several[f"ray, {many} actors"] = [["--engine", "ray", "--processes", str(many)]]
    with tempfile.TemporaryDirectory() as scratch:
        runs = contenders(_line(given), several, Path(scratch), lambda text: typer.echo(text, err=True), 2 * many)
        rows = measure(runs, rounds)
    about = {
        "device": given.device,
        "teacher": ", ".join(given.teacher),
        "policy": given.policy or "default",
        "images": given.limit,
        "views": given.views,
        "size": given.size,
        "block_size": given.block_size,
        "workers": given.workers,
        "threads": 1,
        "rounds": rounds,
        **environment().model_dump(),
    }
    if as_json:
        typer.echo(json.dumps({"conditions": about, "rows": rows}, indent=2))
        return
    typer.echo(table(rows, "images/s", digits=2))
    typer.echo(", ".join(f"{k} {v}" for k, v in about.items()))


def _line(given: _Options) -> list[str]:
    """The options as they are typed, without those that the contenders differ in."""
    line: list[str] = []
    for field in dataclasses.fields(given):
        value = getattr(given, field.name)
        if field.name in ("processes", "engine") or value is None or value is False:
            continue
        option = "--" + field.name.replace("_", "-")
        for each in value if isinstance(value, list) else [value]:
            line += [option] if each is True else [option, str(each)]
    return line
