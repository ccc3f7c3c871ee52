"""`reinforce bench loader`: how fast one process decodes and makes views, compared with timm's loader on the same files."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o

NAME = "loader"


def command(
    data: Annotated[Path, typer.Option(help="Image folder.")],
    policy: Annotated[
        list[str] | None, typer.Option(help="rrc, rrc-ra, three-augment or usi, may be repeated; default: all.")
    ] = None,
    size: o.Size = 224,
    batch_size: Annotated[int, typer.Option(min=1, help="Views in a batch.")] = 64,
    images: Annotated[int, typer.Option(min=2, help="Least number of views in a round.")] = 700,
    rounds: o.Rounds = 5,
    as_json: o.Json = False,
) -> None:
    """Views per second of one decoding process: timm's loader, fresh views, replayed views, and decoding alone."""
    import torch

    from reinforce.bench.rounds import measure, table
    from reinforce.store.probes import environment
    from reinforce.train.loader_bench import POLICIES, contenders

    torch.set_num_threads(1)
    results = {}
    for name in policy or POLICIES:
        with tempfile.TemporaryDirectory() as scratch:
            runs = contenders(data, name, size, batch_size, images, Path(scratch))
            results[name] = measure(runs, rounds, on_run=lambda text: typer.echo(text, err=True))
    about = {"data": str(data), "size": size, "images": images, "rounds": rounds, **environment().model_dump()}
    if as_json:
        typer.echo(json.dumps({"conditions": about, "policies": results}, indent=2))
        return
    for name, rows in results.items():
        typer.echo(f"{name}\n\n{table(rows, 'views/s of one process')}\n")
    typer.echo(", ".join(f"{k} {v}" for k, v in about.items()))
