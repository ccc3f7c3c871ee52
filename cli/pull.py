"""`reinforce pull`: fetch a published data set, or a part of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o
from reinforce.cli.progress import Progress

NAME = "pull"


def command(
    what: Annotated[
        str, typer.Argument(metavar="NAME|LOCATION", help="A name from `reinforce list datasets`, a folder or a URL.")
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write; default: the last part of the location.")] = None,
    views: Annotated[
        int | None,
        typer.Option(min=1, help="Fetch this many views, the first ones, rounded up to whole stripes; default: all."),
    ] = None,
    blocks: Annotated[str | None, typer.Option(help="Numbers of blocks, such as 0-9,12; default: all.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Hash of publication.json, if someone you trust told you.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Files that are fetched at once.")] = 8,
    as_json: o.Json = False,
) -> None:
    """Fetch a published data set; every file is checked before it is used, and an interrupted pull is continued."""
    import hashlib

    from reinforce.errors import UsageError
    from reinforce.sharing.fetch import differs, published_pack, reachable
    from reinforce.sharing.known_datasets import find
    from reinforce.sharing.publish_pack import pull_pack
    from reinforce.sharing.pull import pull

    locations, expected = find(what)
    location = reachable(locations)
    target = out or Path(what if len(locations) > 1 else location.rpartition("/")[2])
    if out is None and target.exists() and target.resolve() == Path(location).resolve():
        raise UsageError(f"{what} is here already.", fix="--out DIR for a copy of it")
    if (pack := published_pack(location)) is not None:
        if views is not None or blocks is not None:
            raise UsageError(
                "Shards can only be pulled whole.",
                found="--views or --blocks",
                fix="leave the option out, or train from the URL of some shards",
            )
        if (sha256 or expected) not in (None, hashlib.sha256(pack).hexdigest()):
            raise differs("pack.json", hashlib.sha256(pack).hexdigest(), sha256 or expected or "")
        fetched = pull_pack(location, pack, target, jobs, Progress("pull", "files", quiet=as_json))
        told = json.dumps({"out": str(target), "fetched": fetched})
        typer.echo(told if as_json else f"{target}: {fetched:,} bytes fetched, every file checked; shards with images")
        return
    progress = Progress("pull", "bytes", quiet=as_json)
    pulled = pull(
        location, target, views=views, blocks=_numbers(blocks), jobs=jobs, expected=sha256 or expected, on_progress=progress
    )
    settings = pulled.manifest.settings
    result = {
        "out": str(target),
        "views": settings.views,
        "blocks": pulled.manifest.blocks,
        "fetched": pulled.fetched,
        "published": pulled.total,
    }
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    if views is not None and settings.views != views:
        typer.echo(f"views are stored by {settings.stripe_views}; `reinforce train --views {views}` uses {views} of them")
    typer.echo(f"{target}: {settings.views} views, {pulled.fetched:,} of {pulled.total:,} bytes fetched, every file checked")


def _numbers(text: str | None) -> list[int] | None:
    from reinforce.errors import UsageError

    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) > 999_999:
            raise UsageError(f"--blocks {text} is not valid.", expected="numbers and ranges with commas", fix="--blocks 0-9,12")
        found |= set(range(int(first), int(last or first) + 1))
    return sorted(found)
