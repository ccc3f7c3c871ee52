"""`reinforce plan`: hours, bytes and break-even of a reinforced dataset, before it is made."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

NAME = "plan"


def command(
    data: Annotated[str, typer.Option(help="As in generate.")],
    teacher: Annotated[list[str], typer.Option(help="timm model or short name.")],
    views: Annotated[int, typer.Option(min=1, max=65535, help="Views per image.")] = 10,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs that a student trains for.")] = 100,
    samples: Annotated[int | None, typer.Option(min=1, help="Images in all; default: those of --data.")] = None,
    gpu_hours: Annotated[float | None, typer.Option(min=0, help="Hours of another device that there are.")] = None,
    gpu_rate: Annotated[float | None, typer.Option(min=0.001, help="Views per second of the teacher on that device.")] = None,
    policy: Annotated[str, typer.Option(help="As in generate.")] = "rrc-ra",
    size: Annotated[int, typer.Option(min=8, max=4096, help="Height and width of a view in pixels.")] = 224,
    teacher_weights: Annotated[list[Path] | None, typer.Option(help="As in generate.")] = None,
    teacher_kwargs: Annotated[list[str] | None, typer.Option(help="As in generate.")] = None,
    class_map: Annotated[str | None, typer.Option(help="As in generate.")] = None,
    codec: Annotated[str, typer.Option(help="As in generate.")] = "sqrt",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Views per teacher batch; default: 64, on a GPU what fits, up to 512.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes; default: by device.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i")] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Arithmetic of the teacher.")] = "fp32",
    seconds: Annotated[float, typer.Option(min=1, help="How long to measure, about.")] = 45,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Try stage one on a few images, and say what all of them would take and when it pays."""
    from reinforce.cli.job import prepare
    from reinforce.errors import UsageError
    from reinforce.generation.generate import Execution
    from reinforce.generation.plan import affordable_views, cost, measure_rates
    from reinforce.teachers.batch_size import find_batch_size
    from reinforce.teachers.device import default_workers
    from reinforce.teachers.teacher import label_of

    if (gpu_hours is None) != (gpu_rate is None):
        raise UsageError("--gpu-hours and --gpu-rate belong together.", fix="--gpu-hours 24 --gpu-rate 4000")
    job = prepare(
        data=data,
        teacher=teacher,
        teacher_weights=teacher_weights,
        teacher_kwargs=teacher_kwargs,
        class_map=class_map,
        policy=policy,
        size=size,
        views=views,
        codec=codec,
        device=device,
        precision=precision,
        limit=None,
    )
    batch_size = batch_size or find_batch_size(label_of(job.teacher, job.settings), job.settings.size, job.teacher.device)
    execution = Execution(batch_size, default_workers(job.teacher.device) if workers is None else workers)
    rates = measure_rates(*job, execution, seconds)
    count = samples or len(job.source)
    found = cost(rates, count, views, epochs)
    fit = None if gpu_hours is None or gpu_rate is None else affordable_views(gpu_hours, gpu_rate, count)
    if as_json:
        result = {"samples": count, "views": views, "epochs": epochs, "affordable_views": fit}
        typer.echo(json.dumps({**result, "rates": dataclasses.asdict(rates), "cost": dataclasses.asdict(found)}, indent=2))
        return
    typer.echo(f"measured     {rates.images} images x {views} views on {job.teacher.device}")
    typer.echo(f"generate     {rates.generate:.1f} views/s, the teacher alone {rates.teacher:.1f}")
    typer.echo(
        f"bytes/view   labels {rates.label_bytes:.1f}, params {rates.params_bytes:.1f}; params take less in whole blocks"
    )
    typer.echo(f"in all       {count} images x {views} views: {found.hours:.2f} hours, {found.gigabytes:.3f} GB")
    typer.echo(f"live teacher {found.online_hours:.2f} hours more for each student of {epochs} epochs")
    typer.echo(f"break-even   {found.students:.2f} students")
    if fit is not None:
        typer.echo(f"elsewhere    {gpu_hours:g} hours at {gpu_rate:g} views/s make {fit} views of each image")
