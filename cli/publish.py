"""`reinforce publish`: copy a reinforced dataset to a place from which others can pull it."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from reinforce.cli import options as o
from reinforce.cli.progress import Progress

NAME = "publish"


def command(
    root: o.Dataset,
    to: Annotated[str, typer.Option(help="A folder, s3://BUCKET/PATH, or hf://datasets/USER/NAME.")],
    name: Annotated[str | None, typer.Option(help="Name of the data set; default: the last part of --to.")] = None,
    license_labels: Annotated[str, typer.Option(help="Licence of the labels and params, such as cc-by-4.0.")] = "not stated",
    license_images: Annotated[str, typer.Option(help="Licence of the images.")] = "not stated",
    license_teacher: Annotated[str, typer.Option(help="Licence of the teacher's weights.")] = "not stated",
    with_images: Annotated[
        bool, typer.Option("--with-images", help="DIR holds shards with images: publish the images too.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the files that would be sent, and stop.")] = False,
    as_json: o.Json = False,
) -> None:
    """Publish labels and params, with a dataset card, Croissant metadata, a preview and all hashes; images only on request."""
    import re

    from reinforce.errors import UsageError
    from reinforce.sharing.publication import NAME as VALID
    from reinforce.sharing.publication import PUBLICATION, Licences, name_of
    from reinforce.sharing.publish import list_pack, list_publication, publish
    from reinforce.sharing.publish_pack import publish_pack
    from reinforce.sources.pack_manifest import PACK

    called = name if name is not None else name_of(to)
    if not re.fullmatch(VALID, called):
        raise UsageError(
            f"{called!r} is no name of a data set.", expected="a-z, 0-9, dot, dash and underscore", fix="--name NAME"
        )
    licences = Licences(labels=license_labels, images=license_images, teacher=license_teacher)
    packed = (root / PACK).is_file()
    if packed and not with_images:
        fix = "--with-images, if their licence allows it; or publish the labels alone"
        raise UsageError(f"The shards in {root} have images in them.", found=PACK, fix=fix)
    if with_images and not packed:
        fix = "reinforce pack DIR --data SOURCE --out SHARDS, then publish SHARDS"
        raise UsageError(f"There are no images in {root}.", expected="shards that have them", fix=fix)
    listed = list_pack(root) if packed else list_publication(root)
    pixels = "with the images" if packed else "no pixels"
    if dry_run:
        if as_json:
            typer.echo(json.dumps({"to": to, "name": called, "files": listed.files, "bytes": listed.total}, indent=2))
            return
        for path, size in listed.files.items():
            typer.echo(f"{size:>12,}  {path}" if size else f"{'made then':>12}  {path}")
        typer.echo(f"{listed.total:>12,}  bytes in {len(listed.files)} files would go to {to}; {pixels}")
        return
    if packed:
        sizes = list(publish_pack(root, to, called, licences, Progress("publish", "files", quiet=as_json)).values())
    else:
        publication = publish(root, to, called, licences, Progress("publish", "bundles", quiet=as_json))
        sizes = [e.bytes for e in publication.files.values()] + [b.bytes for b in publication.bundles]
    result = {"to": to, "name": called, "files": len(sizes) + (not packed), "bytes": sum(sizes), "images": packed}
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    typer.echo(
        f"{to}: {result['files']} files, {result['bytes']:,} bytes, {PACK if packed else PUBLICATION} written last; {pixels}"
    )
    unstated = [k for k, v in licences.model_dump().items() if v == "not stated"]
    if unstated:
        typer.echo("licences not stated: " + ", ".join(f"--license-{k}" for k in unstated))
