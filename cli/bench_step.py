"""`reinforce bench step`: how much time replay adds to a training step, and how much a live teacher adds."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from reinforce.cli import options as o

NAME = "step"


def command(
    student: Annotated[list[str], typer.Option(help="timm model or short name, may be repeated.")],
    teacher: Annotated[
        str | None, typer.Option(help="Model to compare with as a live teacher; its weights are random.")
    ] = None,
    size: o.Size = 224,
    batch_size: Annotated[int, typer.Option(min=2, help="Views in a batch.")] = 32,
    classes: Annotated[int, typer.Option(min=2, help="Classes.")] = 1000,
    amp: Annotated[bool, typer.Option("--amp/--no-amp", help="bfloat16.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Steps in a round.")] = 5,
    rounds: o.Rounds = 7,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Milliseconds of a training step: plain, replayed, and with a live teacher, on the same batch."""
    from reinforce.bench.rounds import measure, table
    from reinforce.store.probes import environment
    from reinforce.train.ranks import joined
    from reinforce.train.step_bench import contenders

    results = {}
    with joined(device) as ranks:
        for name in student:
            how = {"size": size, "batch_size": batch_size, "num_classes": classes, "steps": steps}
            runs = contenders(name, teacher, ranks, amp=amp, **how)
            results[name] = measure(runs, rounds, on_run=lambda text: typer.echo(text, err=True))
        about = {"device": str(ranks.device), "amp": amp, "rounds": rounds, **how, **environment().model_dump()}
    if as_json:
        typer.echo(json.dumps({"conditions": about, "students": results}, indent=2))
        return
    for name, rows in results.items():
        typer.echo(f"{name}\n\n{table(rows, 'ms per step', digits=1)}\n")
    typer.echo(", ".join(f"{k} {v}" for k, v in about.items()))
