"""`reinforce generate`: stage one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o
from reinforce.cli.generation import GenerationOptions
from reinforce.cli.progress import Progress

NAME = "generate"


def command(
    given: GenerationOptions,
    out: Annotated[
        Path,
        typer.Option(help="Folder to write; if it has an interrupted run, that run is continued.", rich_help_panel=o.OUTPUT),
    ],
    as_json: o.Json = False,
) -> None:
    """Run the teacher once over augmented views of every image; store soft labels and the exact params of each view."""
    from reinforce.cli.generation import prepare
    from reinforce.generation.generate import generate
    from reinforce.labels.label_kind import kind_of
    from reinforce.verification.summary import summarise

    source, teacher, settings, execution = prepare(given)
    manifest = generate(source, teacher, settings, out, execution, Progress("generate", "images", quiet=as_json))
    if as_json:
        typer.echo(json.dumps(summarise(out), indent=2))
        return
    counts = manifest.counts
    agreement = manifest.statistics.hard_label_agreement
    made = f"{counts.ok} samples x {settings.views} views"
    typer.echo(f"{out}: {made}, {counts.missing} missing, {counts.corrupt} corrupt images")
    if agreement is not None:
        unit = kind_of(settings.codec).unit
        typer.echo(f"the teacher's top class is the hard label in {100 * agreement:.1f} % of the {unit}")
