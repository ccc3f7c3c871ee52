"""`reinforce estimate`: hours, bytes and break-even of a reinforced dataset, before it is made."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated

import typer

from reinforce.cli import options as o
from reinforce.cli.generation import GenerationOptions

if TYPE_CHECKING:
    from reinforce.generation.estimate import Throughput

NAME = "estimate"
_ESTIMATE = "Estimate"


def command(
    given: GenerationOptions,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs that a student trains for.", rich_help_panel=_ESTIMATE)] = 100,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Number of images to estimate for; default: all of --data.", rich_help_panel=_ESTIMATE),
    ] = None,
    gpu_hours: Annotated[
        float | None, typer.Option(min=0, help="Hours that you have on another device.", rich_help_panel=_ESTIMATE)
    ] = None,
    gpu_rate: Annotated[
        float | None,
        typer.Option(min=0.001, help="Views per second that the teacher labels on that device.", rich_help_panel=_ESTIMATE),
    ] = None,
    devices: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=4096,
            help="Estimate for so many devices like this one, in one machine; default: those of --device.",
            rich_help_panel=_ESTIMATE,
        ),
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(min=1, help="Cores of that machine, for decoding; default: of this one.", rich_help_panel=_ESTIMATE),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Approximate time to measure for.", rich_help_panel=_ESTIMATE)] = 45,
    as_json: o.Json = False,
) -> None:
    """Run stage one on a few images; print the hours and bytes for all, and when it pays off. Takes the options of generate.

    The trial runs in one process here, with --engine ray too, whose devices it cannot know: --devices says for how many.
    """
    from reinforce.cli.generation import prepare
    from reinforce.errors import UsageError
    from reinforce.generation.estimate import affordable_views, cost, measure_rates, throughput
    from reinforce.teachers.device import usable_cores

    if (gpu_hours is None) != (gpu_rate is None):
        raise UsageError("--gpu-hours and --gpu-rate belong together.", fix="--gpu-hours 24 --gpu-rate 4000")
    source, teacher, settings, execution = prepare(given)
    rates = measure_rates(source, teacher, settings, execution, seconds)
    if devices is None and execution.engine == "local" and len(gpus := set(execution.devices) - {"cpu"}) > 1:
        devices = len(gpus)
    count, views = samples or len(source), settings.views
    decoding, on_cpu = cores or usable_cores(), teacher.device.type == "cpu"
    reached = throughput(rates, devices or 1, decoding, on_cpu) if devices or cores else None
    found = cost(rates, count, views, epochs, reached)
    fit = None if gpu_hours is None or gpu_rate is None else affordable_views(gpu_hours, gpu_rate, count)
    if as_json:
        result: dict[str, object] = {"samples": count, "views": views, "epochs": epochs, "affordable_views": fit}
        several = None if reached is None else {"devices": devices or 1, "views_per_second": dataclasses.asdict(reached)}
        result |= {"rates": dataclasses.asdict(rates), "cost": dataclasses.asdict(found), "several": several}
        typer.echo(json.dumps(result, indent=2))
        return
    typer.echo(f"measured     {rates.images} images x {views} views on {teacher.device}, in one process")
    typer.echo(
        f"generate     {rates.generate:.1f} views/s, the teacher alone {rates.teacher:.1f}, a core decodes {rates.decode:.1f}"
    )
    if reached is not None:
        typer.echo(f"devices      {devices or 1}: {reached.devices:.1f} views/s" + _limit(reached, decoding))
    typer.echo(
        f"bytes/view   labels {rates.label_bytes:.1f}, params {rates.params_bytes:.1f}; params take less in whole blocks"
    )
    typer.echo(f"in all       {count} images x {views} views: {found.hours:.2f} hours, {found.gigabytes:.3f} GB")
    typer.echo(f"live teacher {found.online_hours:.2f} hours more for each student of {epochs} epochs")
    typer.echo(f"break-even   {found.students:.2f} students")
    if fit is not None:
        typer.echo(f"elsewhere    {gpu_hours:g} hours at {gpu_rate:g} views/s make {fit} views of each image")


def _limit(reached: Throughput, cores: int) -> str:
    """Which of both is the limit, in words."""
    if reached.cores is None:
        return ", each with cores of its own"
    limit = "decoding" if reached.cores < reached.devices else "the teacher"
    return f", decoding on {cores} cores {reached.cores:.1f}: {limit} is the limit"
