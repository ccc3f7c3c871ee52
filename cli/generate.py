"""`reinforce generate`: stage one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from reinforce.cli.progress import Progress

NAME = "generate"


def command(
    data: Annotated[
        str,
        typer.Option(help="Images: a folder, shards-{000..127}.tar, *.parquet, an .npz, torchvision:NAME, or a URL."),
    ],
    teacher: Annotated[list[str], typer.Option(help="timm model or short name; several: the mean of their softmaxes.")],
    out: Annotated[Path, typer.Option(help="Folder to write; an interrupted run in it is continued.")],
    labels: Annotated[
        Literal["views", "map"],
        typer.Option(help="views: a soft label per view; map: scores at every position of the whole image, for any crop."),
    ] = "views",
    views: Annotated[int | None, typer.Option(min=1, max=65535, help="Views per image; default 10, of maps 1.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="Name, with options: rrc-ra:scale=0.25-1,m=9; or a TOML file. Default rrc-ra, of maps whole."),
    ] = None,
    size: Annotated[int, typer.Option(min=8, max=4096, help="Height and width of a view in pixels.")] = 224,
    teacher_weights: Annotated[
        list[Path] | None, typer.Option(help="Local state dict (safetensors or torch), one per teacher; default: timm's own.")
    ] = None,
    teacher_kwargs: Annotated[
        list[str] | None, typer.Option(help="key=value for timm.create_model; mean and std override the model's.")
    ] = None,
    class_map: Annotated[
        str | None, typer.Option(help="Teacher class of each class folder: a JSON list, or auto for WordNet ids.")
    ] = None,
    codec: Annotated[
        str | None,
        typer.Option(help="sqrt-tiny, sqrt, sqrt-high, sqrt-near, sqrt:DELTA, topk:K, or map:K. Default sqrt, of maps map:10."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the views.")] = 0,
    record_views: Annotated[
        int,
        typer.Option(min=1, max=65535, help="Views whose labels are packed together; a part has whole packs."),
    ] = 64,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Views per teacher batch; default: 64, on a GPU what fits, up to 512.")
    ] = None,
    block_size: Annotated[
        int, typer.Option(min=1, max=1 << 20, help="Samples per block, the unit of commit and resume.")
    ] = 512,
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes; default: by device.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i")] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Arithmetic of the teacher.")] = "fp32",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many samples, spread evenly over the index.")] = None,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch a data set that is not there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run the teacher once over augmented views of every image; store soft labels and the exact params of each view."""
    from reinforce.cli.job import prepare
    from reinforce.generation.generate import Execution, generate
    from reinforce.teachers.batch_size import find_batch_size
    from reinforce.teachers.device import default_workers
    from reinforce.teachers.teacher import label_of
    from reinforce.verification.summary import summarise

    job = prepare(
        data=data,
        teacher=teacher,
        teacher_weights=teacher_weights,
        teacher_kwargs=teacher_kwargs,
        class_map=class_map,
        labels=labels,
        policy=policy,
        size=size,
        views=views,
        codec=codec,
        seed=seed,
        block_size=block_size,
        record_views=record_views,
        device=device,
        precision=precision,
        limit=limit,
        download=download,
    )
    settings = job.settings
    batch_size = batch_size or find_batch_size(label_of(job.teacher, job.settings), job.settings.size, job.teacher.device)
    execution = Execution(batch_size, default_workers(job.teacher.device) if workers is None else workers)
    progress = Progress("generate", "images", quiet=as_json)
    manifest = generate(job.source, job.teacher, settings, out, execution, progress)
    if as_json:
        typer.echo(json.dumps(summarise(out), indent=2))
        return
    counts = manifest.counts
    agreement = manifest.statistics.hard_label_agreement
    made = f"{counts.ok} samples x {settings.views} views"
    typer.echo(f"{out}: {made}, {counts.missing} missing, {counts.corrupt} corrupt images")
    if agreement is not None:
        what = "whole images" if settings.has_maps else "views"
        typer.echo(f"the teacher's top class is the hard label in {100 * agreement:.1f} % of the {what}")
