"""`reinforce bench codec`: size, error and speed of codecs of soft labels, on your own logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o

NAME = "codec"


def command(
    logits: Annotated[Path | None, typer.Option(help="An .npz file with an array `logits` [images, views, classes].")] = None,
    classes: Annotated[
        int | None,
        typer.Option(min=1, max=1 << 24, help="Made-up labels of this many classes instead of --logits, to measure times."),
    ] = None,
    codec: Annotated[
        list[str] | None,
        typer.Option(help="Codec to measure, may be repeated; default: all named ones, and topk 5, 10 and 20."),
    ] = None,
    views: Annotated[int | None, typer.Option(min=1, help="Use only this many views of each image, the first ones.")] = None,
    top1: Annotated[
        float | None, typer.Option(help="Divide the logits by the temperature that gives this mean top-1 probability.")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Encode and decode soft labels; print bytes per view, KL, biases, how often the top class is kept, and times."""
    from reinforce.bench.codec_bench import DEFAULT, bench, load_probs, random_probs, table
    from reinforce.errors import UsageError
    from reinforce.store.probes import environment

    if (logits is None) == (classes is None) or (classes is not None and top1 is not None):
        raise UsageError("What to encode is not clear.", expected="--logits FILE, or --classes N without --top1")
    chosen = codec or list(DEFAULT)
    if logits is not None:
        probs, about = load_probs(logits, views=views, top1=top1)
    else:
        probs, about = random_probs(classes or 1, views)
    rows = []
    for name in chosen:
        rows += bench(name, probs)
        typer.echo(f"{name}: {rows[-1]['bytes_per_view']:.1f} bytes per view", err=True)
    conditions = {"logits": "made up" if logits is None else logits.name, **about, **environment().model_dump()}
    if as_json:
        typer.echo(json.dumps({"conditions": conditions, "rows": rows}, indent=2))
        return
    typer.echo(table(rows))
    typer.echo(", ".join(f"{k} {v}" for k, v in conditions.items()))
