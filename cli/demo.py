"""`reinforce demo`: the main job end to end on scikit-learn's handwritten digits, without any download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o

NAME = "demo"


def command(
    out: Annotated[Path, typer.Option(help="Folder for images, labels and runs.")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="Students per mode.")] = 3,
    as_json: o.Json = False,
) -> None:
    """Train a teacher, generate labels, verify them, train the same student plainly and by replay, and compare."""
    from reinforce.train.demo import run_demo, table

    result = run_demo(out, list(range(seeds)), say=lambda text: typer.echo(text, err=True))
    typer.echo(json.dumps(result, indent=2) if as_json else table(result))
