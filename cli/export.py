"""`reinforce export`: write a reinforced dataset in the format of another project's loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o
from reinforce.cli.progress import Progress

NAME = "export"


def command(
    root: o.Dataset,
    kind: Annotated[str, typer.Option("--format", help="Project whose loader will read the files: ml-dr or fkd.")],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    topk: Annotated[int, typer.Option(min=1, max=1000, help="Classes per view.")] = 10,
    as_json: o.Json = False,
) -> None:
    """Write a torch file per image for the loader of ml-dr or FKD; the pixels that it makes differ slightly from ours."""
    from reinforce.files import check_beside, writing
    from reinforce.locks import new_folder
    from reinforce.packs.open_labels import open_labels
    from reinforce.peers.formats import USAGES, writer_of

    writer = writer_of(kind)
    check_beside(out, root, "the data set")
    store = open_labels(root)
    k = min(topk, store.settings.num_classes)
    progress, done = Progress("export", "files", quiet=as_json), 0
    with writing(out), new_folder(out) as staging:
        for name, content in writer(store, k):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(content)
            done += 1
            progress(done, max(done, len(store.ok_samples)))
    if as_json:
        typer.echo(json.dumps({"out": str(out), "files": done, "topk": k}))
    else:
        typer.echo(f"{out}: {done} files for {kind}, the {k} likeliest classes of each view")
        if kind in USAGES:
            typer.echo(f"to read them: {USAGES[kind](out, k)}")
