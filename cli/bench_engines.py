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
    """Compare one process with several, with as many shares, and with Ray, in images per second; takes generate's options.

    On GPUs the first of them is compared with all, --processes on each; on the CPU one process with --processes.
    """
    from reinforce.bench.engines_bench import contenders, ways
    from reinforce.bench.rounds import measure, table
    from reinforce.errors import UsageError
    from reinforce.store.probes import environment
    from reinforce.teachers.device import resolve_devices

    if given.engine != "local":
        raise UsageError(f"--engine {given.engine} is of no use here.", found="all engines are compared", fix="leave it out")
    devices = list(map(str, resolve_devices(given.device)))
    address = [] if given.ray_address is None else ["--ray-address", given.ray_address]
    of = ways(devices, given.processes, address if importlib.util.find_spec("ray") else None)
    with tempfile.TemporaryDirectory() as scratch:
        skipped = 2 * given.processes * len(devices)
        runs = contenders(_line(given), of, Path(scratch), lambda text: typer.echo(text, err=True), skipped)
        rows = measure(runs, rounds)
    about = {
        "device": ",".join(devices),
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
        if field.name in ("device", "processes", "engine", "ray_address") or value is None or value is False:
            continue
        option = "--" + field.name.replace("_", "-")
        for each in value if isinstance(value, list) else [value]:
            line += [option] if each is True else [option, str(each)]
    return line
