"""`reinforce generate`: stage one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reinforce.cli import options as o
from reinforce.cli.generation import GenerationOptions
from reinforce.cli.progress import Progress

if TYPE_CHECKING:
    from reinforce.generation.share import Share

NAME = "generate"


def command(
    given: GenerationOptions,
    out: Annotated[
        str,
        typer.Option(
            help="Folder to write, or s3://BUCKET/PATH; if it has an interrupted run, that run is continued.",
            rich_help_panel=o.OUTPUT,
        ),
    ],
    share: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Make the Ith of N shares of the blocks; other jobs make the others, into the same --out.",
            rich_help_panel=o.RUNNING,
        ),
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Run the teacher once over augmented views of every image; store soft labels and the exact params of each view."""
    from reinforce.cli.generation import prepare
    from reinforce.generation.generate import generate, generate_share
    from reinforce.generation.share import Share
    from reinforce.labels.label_kind import kind_of
    from reinforce.sharing.remote_place import open_place
    from reinforce.sources.location import is_remote
    from reinforce.store.folder_place import FolderPlace
    from reinforce.verification.summary import summarise

    place = open_place(out) if is_remote(out) else FolderPlace(Path(out))
    part = None if share is None else Share.parse(share)
    source, teacher, settings, execution = prepare(given)
    progress = Progress("generate", "images", quiet=as_json)
    if part is None:
        manifest = generate(source, teacher, settings, place, execution, progress, progress.rates)
    else:
        found = generate_share(source, teacher, settings, place, part, execution, progress, progress.rates)
        if found is None:
            missing = settings.num_blocks - len(place.committed(settings))
            _tell_share(out, part, settings.num_blocks, missing, as_json)
            return
        manifest = found
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


def _tell_share(out: str, share: Share, blocks: int, missing: int, as_json: bool) -> None:
    """What one share says when it has made its blocks and the data set is not complete yet."""
    if as_json:
        typer.echo(json.dumps({"share": str(share), "blocks": blocks, "missing_blocks": missing}))
    elif missing:
        typer.echo(f"{out}: share {share} is made; {missing} of {blocks} blocks belong to shares that are not")
    else:
        typer.echo(f"{out}: share {share} is made; another job is finishing the data set")
