"""`reinforce generate`: stage one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from reinforce.cli.progress import Progress

NAME = "generate"


def command(
    data: Annotated[Path, typer.Option(help="Folder of class folders with images, or of images.")],
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
    batch_size: Annotated[int, typer.Option(min=1, help="Views per teacher batch.")] = 64,
    block_size: Annotated[
        int, typer.Option(min=1, max=1 << 20, help="Samples per block, the unit of commit and resume.")
    ] = 512,
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes; default: by device.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i")] = "auto",
    precision: Annotated[Literal["fp32", "bf16"], typer.Option(help="Arithmetic of the teacher.")] = "fp32",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many samples, spread evenly over the index.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run the teacher once over augmented views of every image; store soft labels and the exact params of each view."""
    from reinforce.device import default_workers, resolve_device
    from reinforce.errors import UsageError
    from reinforce.generate import Execution, generate, limit_source
    from reinforce.label_map import MapCodec
    from reinforce.manifest import Settings, SourceInfo
    from reinforce.models import parse_kwargs
    from reinforce.policy_file import read_policy
    from reinforce.source import ImageFolder
    from reinforce.summary import summarise
    from reinforce.teacher import TeacherSpec, load_teacher
    from reinforce.tiers import parse_codec

    maps = labels == "map"
    chosen_policy = read_policy(policy or ("whole" if maps else "rrc-ra"))
    chosen_codec = parse_codec(codec or ("map" if maps else "sqrt"))
    views = views or (1 if maps else 10)
    if maps != isinstance(chosen_codec, MapCodec):
        raise UsageError(
            f"--codec {codec} is not for --labels {labels}.",
            expected="map:K" if maps else "sqrt or topk:K; map:K belongs to --labels map",
        )
    if maps and (views != 1 or chosen_policy.crop != "whole"):
        raise UsageError(
            "A label map is of the whole image, once.",
            found=f"policy {chosen_policy.name}, {views} views",
            expected="--policy whole and --views 1, the defaults of --labels map",
            fix="give --policy to `reinforce train`: with maps the views are drawn there",
        )
    kwargs = parse_kwargs(teacher_kwargs or [], "--teacher-kwargs")
    if teacher_weights and len(teacher_weights) != len(teacher):
        raise UsageError(
            f"{len(teacher)} teachers and {len(teacher_weights)} weights files.", expected="one file per teacher, or none"
        )
    weights: list[Path | None] = list(teacher_weights) if teacher_weights else [None] * len(teacher)
    specs = [TeacherSpec(name, path, kwargs) for name, path in zip(teacher, weights, strict=True)]
    chosen_device = resolve_device(device)
    source = limit_source(ImageFolder.open(data), limit)
    names = list(source.class_names)
    model = load_teacher(specs, size=size, class_names=names, class_map=class_map, device=chosen_device, precision=precision)
    if maps:
        model.require_maps(size)
    first = model.infos[0]
    settings = Settings(
        source=SourceInfo(kind="folder", num_samples=len(source), class_names=names, index_sha256=source.index_sha256()),
        teachers=model.infos,
        precision=precision,
        policy=chosen_policy,
        size=size,
        views=views,
        seed=seed,
        codec=chosen_codec.to_dict(),
        num_classes=len(first.class_map) if first.class_map else first.num_classes,
        block_size=block_size,
    )
    execution = Execution(batch_size, default_workers(chosen_device) if workers is None else workers)
    manifest = generate(source, model, settings, out, execution, Progress("generate", "images", quiet=as_json))
    if as_json:
        typer.echo(json.dumps(summarise(out), indent=2))
        return
    counts = manifest.counts
    agreement = manifest.statistics.hard_label_agreement
    typer.echo(f"{out}: {counts.ok} samples x {views} views, {counts.missing} missing, {counts.corrupt} corrupt images")
    if agreement is not None:
        what = "whole images" if maps else "views"
        typer.echo(f"the teacher's top class is the hard label in {100 * agreement:.1f} % of the {what}")
