"""`reinforce export`: a reinforced dataset in the format of another loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from reinforce.cli import options as o
from reinforce.cli.progress import Progress

NAME = "export"


def command(
    root: o.Dataset,
    kind: Annotated[Literal["ml-dr", "fkd"], typer.Option("--format", help="Whose loader it is for.")],
    out: Annotated[Path, typer.Option(help="New folder to write.")],
    topk: Annotated[int, typer.Option(min=1, max=1000, help="Classes per view.")] = 10,
    as_json: o.Json = False,
) -> None:
    """Write a torch file per image, as the loaders of ml-dr or FKD read them; their pixels will differ a little from ours."""
    from reinforce.files import check_output, replacing, writing
    from reinforce.packs.open_labels import open_labels
    from reinforce.peers.fkd import fkd_files
    from reinforce.peers.ml_dr import ml_dr_files

    store = open_labels(root)
    check_output(out)
    k = min(topk, store.settings.num_classes)
    progress, done = Progress("export", "files", quiet=as_json), 0
    with writing(out), replacing(out) as staging:
        staging.mkdir(parents=True)
        for name, content in ml_dr_files(store, k) if kind == "ml-dr" else fkd_files(store, k):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(content)
            done += 1
            progress(done, len(store.ok_samples) + (kind == "ml-dr"))
    if as_json:
        typer.echo(json.dumps({"out": str(out), "files": done, "topk": k}))
    else:
        typer.echo(f"{out}: {done} files for {kind}, the {k} likeliest classes of each view")
