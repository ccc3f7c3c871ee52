"""`reinforce bench modes`: replay, plain and online training compared; tests/bench/README.md states the conditions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o

NAME = "modes"


def command(
    data: Annotated[str, typer.Option(help="The images that the labels were generated from.")],
    labels: Annotated[Path, typer.Option(help="Reinforced dataset.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs.")],
    val: Annotated[str | None, typer.Option(help="Labelled images to evaluate on.")] = None,
    student: o.Student = "mobilenetv3_small_050",
    student_kwargs: o.StudentKwargs = None,
    teacher_weights: Annotated[
        list[str] | None,
        typer.Option(help="The teacher's weights file, if it was a local one; of several teachers one each, or N:FILE."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 3,
    batch_size: Annotated[int, typer.Option(min=1)] = 64,
    lr: Annotated[float, typer.Option()] = 1e-3,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per mode.")] = 3,
    workers: o.Workers = None,
    device: o.Device = "auto",
    as_json: o.Json = False,
) -> None:
    """Train the same student by replay, plainly and with a live teacher; print images per second and accuracy of each."""
    from reinforce.store.probes import environment
    from reinforce.teachers.device import default_workers, resolve_device
    from reinforce.teachers.models import parse_kwargs
    from reinforce.train.compare import compare_modes, table
    from reinforce.train.config import TrainConfig
    from reinforce.train.recipe import load_recipe

    chosen = resolve_device(device)
    config = TrainConfig(
        student=student,
        data=data,
        out=out,
        recipe=load_recipe("kd", {"epochs": epochs, "batch_size": batch_size, "lr": lr}),
        labels=labels,
        val=val,
        student_kwargs=parse_kwargs(student_kwargs or [], "--student-kwargs"),
        teacher_weights=list(teacher_weights or []),
        workers=default_workers(chosen) if workers is None else workers,
        device=device,
    )
    rows = compare_modes(config, list(range(seeds)), on_run=lambda text: typer.echo(text, err=True))
    about = {"device": str(chosen), "workers": config.workers, "seeds": seeds, "epochs": epochs, **environment().model_dump()}
    if as_json:
        typer.echo(json.dumps({"conditions": about, "rows": rows}, indent=2))
    else:
        typer.echo(table(rows))
        typer.echo("img/s against replay: " + ", ".join(f"{r['mode']} {r['relative']:.2f}" for r in rows))
        typer.echo(", ".join(f"{k} {v}" for k, v in about.items()))
