"""`reinforce bench generate`: how much longer stage one takes than its teacher alone."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

NAME = "generate"


def command(
    data: Annotated[str, typer.Option(help="As in generate.")],
    teacher: Annotated[list[str], typer.Option(help="timm model or short name.")],
    teacher_weights: Annotated[list[Path] | None, typer.Option(help="Local state dict; default: timm's own.")] = None,
    teacher_kwargs: Annotated[list[str] | None, typer.Option(help="key=value for timm.create_model.")] = None,
    class_map: Annotated[str | None, typer.Option(help="As in generate.")] = None,
    policy: Annotated[str, typer.Option(help="As in generate.")] = "rrc-ra",
    size: Annotated[int, typer.Option(min=8, max=4096, help="Height and width of a view in pixels.")] = 224,
    views: Annotated[int, typer.Option(min=1, help="Views per image.")] = 8,
    codec: Annotated[str, typer.Option(help="As in generate.")] = "sqrt",
    batch_size: Annotated[int, typer.Option(min=1, help="Views per teacher batch.")] = 64,
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes; default: by device.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i")] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Arithmetic of the teacher.")] = "fp32",
    limit: Annotated[int, typer.Option(min=1, help="Images, spread evenly over the index.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Times that each is run, in turn.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Seconds of generate against a bare loop of the same teacher over batches that are ready."""
    from reinforce.bench.generate_bench import contenders, precision_error
    from reinforce.bench.rounds import measure, table
    from reinforce.cli.job import prepare
    from reinforce.generation.generate import Execution
    from reinforce.store.probes import environment
    from reinforce.teachers.device import default_workers

    job = prepare(
        data=data,
        teacher=teacher,
        teacher_weights=teacher_weights,
        teacher_kwargs=teacher_kwargs,
        class_map=class_map,
        policy=policy,
        size=size,
        views=views,
        codec=codec,
        device=device,
        precision=precision,
        limit=limit,
    )
    execution = Execution(batch_size, default_workers(job.teacher.device) if workers is None else workers)
    with tempfile.TemporaryDirectory() as scratch:
        runs = contenders(*job, execution, Path(scratch))
        rows = measure(runs, rounds, on_run=lambda text: typer.echo(text, err=True))
    error = precision_error(job.source, job.teacher, job.settings, batch_size) if precision == "bf16" else None
    about = {
        "device": str(job.teacher.device),
        "teacher": ", ".join(t.name for t in job.settings.teachers),
        "precision": precision,
        "images": len(job.source),
        "views": views,
        "size": size,
        "batch_size": batch_size,
        "workers": execution.workers,
        "rounds": rounds,
        **({"kl_to_fp32": error[0], "top1_as_fp32": error[1]} if error else {}),
        **environment().model_dump(),
    }
    if as_json:
        typer.echo(json.dumps({"conditions": about, "rows": rows}, indent=2))
        return
    typer.echo(table(rows, "seconds", digits=1))
    typer.echo(", ".join(f"{k} {v}" for k, v in about.items()))
