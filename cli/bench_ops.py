"""`reinforce bench ops`: what each op costs on one view, in numpy and compiled, beside Pillow's and torchvision's."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from reinforce.cli import options as o

NAME = "ops"


def command(
    size: Annotated[int, typer.Option(min=8, max=4096, help="Height and width of the view in pixels.")] = 224,
    rounds: o.Rounds = 7,
    as_json: o.Json = False,
) -> None:
    """Milliseconds of each op on one view, one thread: in numpy, compiled, by Pillow as timm calls it, by torchvision."""
    import torch

    from reinforce.bench.ops_bench import bench
    from reinforce.store.probes import environment

    torch.set_num_threads(1)
    rows = list(bench(size, rounds))
    about = {"size": size, "rounds": rounds, "threads": 1, **environment().model_dump()}
    if as_json:
        typer.echo(json.dumps({"conditions": about, "ops": rows}, indent=2))
        return
    names = ("numpy", "compiled", "pillow", "torchvision")
    typer.echo(f"| ms | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for row in rows:
        typer.echo(f"| {row['op']} | " + " | ".join("-" if row[n] is None else f"{row[n]:.2f}" for n in names) + " |")
    typer.echo(", ".join(f"{k} {v}" for k, v in about.items()))
