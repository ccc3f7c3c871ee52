"""`reinforce bench generate`: how much longer stage one takes than its teacher alone."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import typer

from reinforce.cli import options as o
from reinforce.cli.generation import GenerationOptions

NAME = "generate"


@dataclass(frozen=True, kw_only=True)
class _Options(GenerationOptions):
    """The options of `generate`, with defaults that make a short run."""

    limit: o.Limit = 100
    views: o.Views = 8
    batch_size: o.TeacherBatch = 64


def command(given: _Options, rounds: o.Rounds = 5, as_json: o.Json = False) -> None:
    """Compare generate, in seconds, with a bare loop of the same teacher over prepared batches; takes generate's options."""
    from reinforce.bench.generate_bench import contenders, precision_error
    from reinforce.bench.rounds import measure, table
    from reinforce.cli.generation import prepare
    from reinforce.errors import UsageError
    from reinforce.generation.estimate import in_this_process
    from reinforce.store.probes import environment

    if given.engine != "local" or given.processes > 1 or "," in given.device:
        raise UsageError(
            "`bench generate` compares one process on one device.",
            found=f"--engine {given.engine} --processes {given.processes} --device {given.device}",
            fix="`reinforce bench engines` compares processes, devices, shares and Ray",
        )
    source, teacher, settings, execution = prepare(given)
    execution = in_this_process(execution, teacher.device)  # on the first of several GPUs
    with tempfile.TemporaryDirectory() as scratch:
        runs = contenders(source, teacher, settings, execution, Path(scratch))
        rows = measure(runs, rounds, on_run=lambda text: typer.echo(text, err=True))
    error = precision_error(source, teacher, settings, execution.batch_size) if given.precision == "bf16" else None
    about = {
        "device": str(teacher.device),
        "teacher": ", ".join(t.name for t in settings.teachers),
        "precision": given.precision,
        "images": len(source),
        "views": settings.views,
        "size": settings.size,
        "batch_size": execution.batch_size,
        "workers": execution.workers,
        "rounds": rounds,
        **({"kl_to_fp32": error[0], "top1_as_fp32": error[1]} if error else {}),
        **environment().model_dump(),
    }
    if as_json:
        typer.echo(json.dumps({"conditions": about, "rows": rows}, indent=2))
        return
    typer.echo(table(rows, "seconds", digits=1))
    typer.echo(", ".join(f"{k} {v}" for k, v in about.items()))
