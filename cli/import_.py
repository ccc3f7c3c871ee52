"""`reinforce import`: make a reinforced dataset from labels that others published."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from reinforce.cli import options as o
from reinforce.cli.progress import Progress

NAME = "import"


def command(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help="imagenet-plus, fkd, tinyvit or relabel.")],
    files: Annotated[Path, typer.Argument(metavar="FILES", help="A tar, a tar.gz or a folder; for tinyvit a folder.")],
    data: Annotated[str, typer.Option(help="The images that the labels were made from, as in generate.")],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    num_classes: Annotated[int, typer.Option(min=1, help="Classes of the labels.")] = 1000,
    teacher: Annotated[list[str] | None, typer.Option(help="Name of the teacher, as most files do not state it.")] = None,
    size: Annotated[
        int, typer.Option(min=8, max=4096, help="Size of the views in pixels, as the files do not state it: what students see.")
    ] = 224,
    tail: Annotated[
        Literal["uniform", "renorm"],
        typer.Option(help="fkd: spread the mass not listed evenly, or scale the listed mass to one."),
    ] = "uniform",
    axes: Annotated[
        Literal["wh", "hw"],
        typer.Option(help="relabel: last two axes of a map, which no file tells: wh as its own loader reads them, or hw."),
    ] = "wh",
    missing: Annotated[
        Literal["refuse", "skip"], typer.Option(help="What to do with labels of images that --data does not have.")
    ] = "refuse",
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that parse; default: one per core.")] = None,
    as_json: o.Json = False,
) -> None:
    """Read soft labels in the format of ImageNet+ (ml-dr), FKD, TinyViT or ReLabel; no code in the files is run."""
    from reinforce.files import check_beside
    from reinforce.peers.formats import open_reader
    from reinforce.peers.importer import import_labels
    from reinforce.peers.reader import ReadOptions
    from reinforce.sources.open_source import open_source

    check_beside(out, files, "the labels")
    reader = open_reader(kind, files, ReadOptions(num_classes, teacher or None, size, tail, axes, out.absolute().parent))
    progress = Progress("import", "samples", quiet=as_json)
    processes = (os.cpu_count() or 1) if workers is None else workers
    made = import_labels(reader, open_source(data), out, processes, progress, missing == "skip")
    counts, settings = made.manifest.counts, made.manifest.settings
    origin = settings.origin
    assert origin is not None
    if as_json:
        unmatched = {"images_without_labels": made.without_labels, "labels_without_images": made.without_image}
        about = {"out": str(out), **counts.model_dump(), **unmatched, "views": settings.views, **origin.model_dump()}
        typer.echo(json.dumps(about))
        return
    rest = f"{made.without_labels} without labels, {counts.corrupt} corrupt"
    if unread := counts.missing - made.without_labels:
        rest += f", {unread} that could not be read"
    if made.without_image:
        rest += f"; left out: labels of {made.without_image} images that are not in {data}"
    typer.echo(f"{out}: {counts.ok} samples x {settings.views} views, {rest}")
    if made.by_number and made.without_labels:
        typer.echo(
            "the files count the images: if those without labels are not among the images that the labels were made from, "
            "labels after them belong to other images"
        )
    views = settings.codec["name"] != "map" and origin.replay == "approximate"
    kept = "boxes and ops are replayed, pixels are not the teacher's" if views else "there are no views to replay"
    typer.echo(f"pixels were made by {origin.pixels}: {kept}")
    if origin.replay_error is not None:
        typer.echo(str(origin.replay_error))
    elif views:
        typer.echo(
            "how far the pixels are from those of the authors' loader was not measured: how it makes them is not known here"
        )
