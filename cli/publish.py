"""`reinforce publish`: bring a reinforced dataset to where others can pull it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli.progress import Progress

NAME = "publish"


def command(
    root: Annotated[Path, typer.Argument(metavar="DIR", help="Reinforced dataset.")],
    to: Annotated[str, typer.Option(help="A folder, s3://BUCKET/PATH, or hf://datasets/USER/NAME.")],
    name: Annotated[str | None, typer.Option(help="What it is called; default: the last part of --to.")] = None,
    license_labels: Annotated[str, typer.Option(help="Licence of the labels and params, such as cc-by-4.0.")] = "not stated",
    license_images: Annotated[str, typer.Option(help="Licence of the images, which stay where they are.")] = "not stated",
    license_teacher: Annotated[str, typer.Option(help="Licence of the teacher's weights.")] = "not stated",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Publish labels and params, with a dataset card, Croissant metadata, a preview and hashes of everything; no pixels."""
    import re

    from reinforce.errors import UsageError
    from reinforce.publication import NAME as VALID
    from reinforce.publication import PUBLICATION, Licences
    from reinforce.publish import list_publication, publish

    called = name if name is not None else re.sub(r"[^a-z0-9._-]+", "-", to.rstrip("/").rpartition("/")[2].lower())
    if not re.fullmatch(VALID, called):
        raise UsageError(
            f"{called!r} is no name of a data set.", expected="a-z, 0-9, dot, dash and underscore", fix="--name NAME"
        )
    listed = list_publication(root)
    if dry_run:
        if as_json:
            typer.echo(json.dumps({"to": to, "name": called, "files": listed.files, "bytes": listed.total}, indent=2))
            return
        for path, size in listed.files.items():
            typer.echo(f"{size:>12,}  {path}" if size else f"{'made then':>12}  {path}")
        typer.echo(f"{listed.total:>12,}  bytes in {len(listed.files)} files would go to {to}; no pixels")
        return
    licences = Licences(labels=license_labels, images=license_images, teacher=license_teacher)
    publication = publish(root, to, called, licences, Progress("publish", "bundles", quiet=as_json))
    sizes = [e.bytes for e in publication.files.values()] + [b.bytes for b in publication.bundles]
    result = {"to": to, "name": called, "files": len(sizes) + 1, "bytes": sum(sizes)}
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    typer.echo(f"{to}: {result['files']} files, {result['bytes']:,} bytes, {PUBLICATION} written last; no pixels")
    unstated = [k for k, v in publication.licences.model_dump().items() if v == "not stated"]
    if unstated:
        typer.echo("licences not stated: " + ", ".join(f"--license-{k}" for k in unstated))
