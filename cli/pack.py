"""`reinforce pack`: write images, with labels beside them, as webdataset shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o
from reinforce.cli.progress import Progress

NAME = "pack"


def command(
    out: Annotated[Path, typer.Option(help="Folder to write; if it has an interrupted run, that run is continued.")],
    data: Annotated[str, typer.Option(help="Images: any source that `generate` takes.")],
    labels: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Reinforced dataset; its labels are stored beside the images.")
    ] = None,
    shard_size: Annotated[float, typer.Option(min=0.001, help="Approximate size of a shard in megabytes.")] = 500.0,
    resize: Annotated[
        int | None, typer.Option(min=8, help="Resize images to this shorter side in pixels; only without labels.")
    ] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Quality of the JPEGs that --resize makes.")] = 92,
    as_json: o.Json = False,
) -> None:
    """Write webdataset shards: KEY.jpg and KEY.cls, and KEY.rein with params and labels of all views."""
    from reinforce.files import check_beside
    from reinforce.packs.pack import Options, pack
    from reinforce.sources.open_source import open_source

    check_beside(out, labels, "the data set")
    options = Options(round(shard_size * 1e6), resize, quality)
    made = pack(open_source(data), labels, out, options, Progress("pack", "samples", quiet=as_json))
    last, size = made.shards[-1].name.removesuffix(".tar")[-6:], sum(s.bytes for s in made.shards)
    pattern = str(out / (f"shards-{{000000..{last}}}.tar" if len(made.shards) > 1 else made.shards[0].name))
    result = {"data": pattern, "samples": made.num_samples, "shards": len(made.shards), "bytes": size}
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    typer.echo(f"{out}: {made.num_samples} samples in {len(made.shards)} shards, {size:,} bytes")
    typer.echo(f"next: --data '{pattern}'" + (", with its labels in it" if labels else ""))
