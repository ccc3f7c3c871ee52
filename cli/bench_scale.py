"""`reinforce bench scale`: time and memory of everything that is done with a data set, at any number of samples."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from reinforce.cli import options as o

NAME = "scale"


def command(
    samples: Annotated[int, typer.Option(min=1, help="Tiny images to make; ImageNet has 1281167.")] = 20_000,
    until: Annotated[str | None, typer.Option(metavar="STEP", help="Last step; default: all.")] = None,
    scratch: Annotated[
        Path | None, typer.Option(help="Folder for the temporary files, 12 kB a sample; default: the system's.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot over the sizes of --runs; needs matplotlib.")] = None,
    runs: Annotated[
        list[Path] | None, typer.Option(help="With --plot: what --json printed, may be repeated; nothing is measured.")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Take tiny images through index, generate, kill, resume, verify, train, pack, publish, pull and export, step by step."""
    from reinforce.bench.scale_bench import measure_scale, parse_steps, plot_scale, table
    from reinforce.errors import UsageError
    from reinforce.store.probes import environment

    if (plot is None) != (not runs) or (plot is not None and plot.suffix != ".png"):
        raise UsageError("--plot and --runs belong together.", expected="--plot NAME.png --runs A.json --runs B.json")
    if plot is not None and runs:
        plot_scale([json.loads(path.read_text()) for path in runs], plot)
        return
    steps = parse_steps(until)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        rows = measure_scale(Path(folder), samples, steps, on_step=lambda text: typer.echo(text, err=True))
    about = {"samples": samples, **environment().model_dump()}
    if as_json:
        typer.echo(json.dumps({"conditions": about, "rows": rows}, indent=2))
        return
    typer.echo(table(rows))
    typer.echo(", ".join(f"{k} {v}" for k, v in about.items()))
