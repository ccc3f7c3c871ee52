"""`reinforce bench store`: the cost of opening a reinforced dataset, of beginning an epoch, and of reading one label."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o

NAME = "store"


def command(
    size: Annotated[
        list[str] | None,
        typer.Option(help="SAMPLESxVIEWSxCLASSES, may be repeated; default: growing up to 1281167x300x1000."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot of how the costs grow; needs matplotlib.")] = None,
    as_json: o.Json = False,
) -> None:
    """Write synthetic stores to a temporary folder, and open and read each one in a new process."""
    from reinforce.bench.store_bench import COLUMNS, DEFAULT, measure_store, parse_size, plot_costs, synthesise, table
    from reinforce.errors import UsageError
    from reinforce.store.probes import environment

    sizes = [parse_size(text) for text in size] if size else list(DEFAULT)
    if plot is not None and plot.suffix != ".png":
        raise UsageError(f"{plot} is no PNG file.", expected="--plot NAME.png")
    rows = []
    for samples, views, classes in sizes:
        typer.echo(f"{samples} samples x {views} views x {classes} classes", err=True)
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch, "store")
            written = synthesise(root, samples, views, classes)
            rows.append({"samples": samples, "views": views, "classes": classes, **written, **measure_store(root)})
    if plot is not None:
        plot_costs(rows, plot)
    if as_json:
        typer.echo(json.dumps({"conditions": environment().model_dump(), "columns": COLUMNS, "rows": rows}, indent=2))
        return
    typer.echo(table(rows))
    typer.echo(", ".join(f"{k} {v}" for k, v in environment().model_dump().items()))
