"""`reinforce train`: stage two."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from reinforce.cli.progress import Progress

NAME = "train"


def command(
    student: Annotated[str, typer.Option(help="timm model or short name.")],
    data: Annotated[
        str,
        typer.Option(help="Images: a folder, shards-{000..127}.tar, *.parquet, an .npz, torchvision:NAME, or a URL."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints and metrics.")],
    labels: Annotated[
        str | None, typer.Option(help="Reinforced dataset; not needed where --data is shards that have labels.")
    ] = None,
    val: Annotated[
        list[str] | None,
        typer.Option(help="Labelled images to evaluate on after each epoch, as in --data; further ones as NAME=SOURCE."),
    ] = None,
    mode: Annotated[
        Literal["replay", "plain", "online"],
        typer.Option(
            help="replay: stored views and labels; plain: fresh views, hard labels; online: fresh views, live teacher."
        ),
    ] = "replay",
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a TOML file.")] = "kd",
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    aug_repeats: Annotated[int | None, typer.Option(min=1, help="Views of a sample in one batch, from one decode.")] = None,
    opt: Annotated[str | None, typer.Option(help="timm optimiser.")] = None,
    momentum: Annotated[float | None, typer.Option(min=0, help="Of optimisers that have one.")] = None,
    lr: Annotated[float | None, typer.Option()] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0)] = None,
    sched: Annotated[str | None, typer.Option(help="timm schedule.")] = None,
    warmup_epochs: Annotated[int | None, typer.Option(min=0)] = None,
    warmup_lr: Annotated[float | None, typer.Option(min=0, help="Learning rate at the start of the warm-up.")] = None,
    min_lr: Annotated[float | None, typer.Option(min=0, help="Learning rate at the end.")] = None,
    decay_epochs: Annotated[float | None, typer.Option(help="Epochs between decays of the step schedule.")] = None,
    decay_rate: Annotated[float | None, typer.Option(help="Factor of each decay.")] = None,
    cooldown_epochs: Annotated[int | None, typer.Option(min=0, help="Epochs at the last learning rate, on top.")] = None,
    clip_grad: Annotated[float | None, typer.Option(help="Largest gradient norm.")] = None,
    distill_loss_weight: Annotated[float | None, typer.Option(min=0, help="Weight of the soft labels.")] = None,
    task_loss_weight: Annotated[
        float | None, typer.Option(min=0, help="Weight of the hard labels beside the soft ones.")
    ] = None,
    smoothing: Annotated[float | None, typer.Option(min=0, help="Label smoothing of the hard labels.")] = None,
    distill_type: Annotated[str | None, typer.Option(help="soft (KL) or hard (the teacher's top class).")] = None,
    alpha: Annotated[float | None, typer.Option(min=0, help="Share of the teacher in the target, the rest hard.")] = None,
    alpha_ramp_epochs: Annotated[float | None, typer.Option(min=0, help="Epochs in which alpha rises from 0.")] = None,
    discriminator_loss_weight: Annotated[float | None, typer.Option(min=0, help="Weight of MEAL V2's discriminator.")] = None,
    cosub: Annotated[bool | None, typer.Option("--cosub/--no-cosub", help="Two submodels teach each other.")] = None,
    model_ema: Annotated[
        bool | None, typer.Option("--model-ema/--no-model-ema", help="Keep an average of the weights.")
    ] = None,
    model_ema_decay: Annotated[float | None, typer.Option()] = None,
    model_ema_warmup: Annotated[
        bool | None, typer.Option("--model-ema-warmup/--no-model-ema-warmup", help="Average over less at the start.")
    ] = None,
    amp: Annotated[bool | None, typer.Option("--amp/--no-amp", help="Mixed precision.")] = None,
    amp_dtype: Annotated[str | None, typer.Option(help="bfloat16 or float16")] = None,
    drop: Annotated[float | None, typer.Option(min=0)] = None,
    drop_path: Annotated[float | None, typer.Option(min=0)] = None,
    crop_pct: Annotated[float | None, typer.Option(help="Share of the resized image that evaluation cuts out.")] = None,
    size: Annotated[int | None, typer.Option(min=8, help="View size in pixels; default: that of the labels.")] = None,
    sizes: Annotated[str | None, typer.Option(help="Several view sizes in turn, batch by batch: 96,128,160")] = None,
    policy: Annotated[
        str | None, typer.Option(help="Policy of fresh views: without --labels, or where they are label maps.")
    ] = None,
    views: Annotated[int | None, typer.Option(min=1, help="Use only the first so many stored views.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    student_kwargs: Annotated[list[str] | None, typer.Option(help="key=value for timm.create_model.")] = None,
    pretrained: Annotated[
        bool | None, typer.Option("--pretrained/--no-pretrained", help="Start from timm's published weights.")
    ] = None,
    initial_checkpoint: Annotated[Path | None, typer.Option(help="Start from the weights of a local file.")] = None,
    teacher: Annotated[
        list[str] | None, typer.Option(help="Live teacher for --mode online; default: that of the labels.")
    ] = None,
    teacher_weights: Annotated[list[Path] | None, typer.Option(help="Its weights file, where it is a local one.")] = None,
    teacher_kwargs: Annotated[list[str] | None, typer.Option(help="key=value for its timm.create_model.")] = None,
    class_map: Annotated[str | None, typer.Option(help="For --teacher: as in generate.")] = None,
    grad_accum_steps: Annotated[int, typer.Option(min=1, help="Batches whose gradients make one update.")] = 1,
    channels_last: Annotated[
        bool | None, typer.Option("--channels-last/--no-channels-last", help="Memory format; default: on CUDA.")
    ] = None,
    torchcompile: Annotated[bool, typer.Option("--torchcompile", help="Compile the student.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard events below --out too.")] = False,
    sync_bn: Annotated[bool, typer.Option("--sync-bn", help="Batch statistics over all processes; CUDA only.")] = False,
    workers: Annotated[int | None, typer.Option(min=0, help="Decoding processes; default: by device.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out, if there is one.")] = False,
    save_every: Annotated[int, typer.Option(min=0, help="Steps between checkpoints within an epoch; 0: none.")] = 1000,
    download: Annotated[bool, typer.Option("--download", help="Let torchvision fetch a data set that is not there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Train any timm student by replaying the stored views; or plainly, or with a live teacher, to compare."""
    from reinforce.errors import UsageError
    from reinforce.store.store import MANIFEST, read_manifest
    from reinforce.teachers.device import default_workers, resolve_device
    from reinforce.teachers.models import parse_kwargs
    from reinforce.teachers.teacher import TeacherSpec
    from reinforce.train.loop import train
    from reinforce.train.recipe import Recipe, load_recipe
    from reinforce.train.setup import TrainConfig

    given = locals()
    overrides = {name: given[name] for name in Recipe.model_fields if name in given}
    if teacher and teacher_weights and len(teacher) != len(teacher_weights):
        raise UsageError(
            f"{len(teacher)} teachers and {len(teacher_weights)} weights files.", expected="one file per teacher, or none"
        )
    main_val, more_val = _val_folders(val or [])
    kwargs = parse_kwargs(teacher_kwargs or [], "--teacher-kwargs")
    weights: list[Path | None] = list(teacher_weights or []) or [None] * len(teacher or [])
    config = TrainConfig(
        student=student,
        data=data,
        out=out,
        recipe=load_recipe(recipe, overrides),
        labels=labels,
        val=main_val,
        more_val=more_val,
        mode=mode,
        size=size,
        sizes=_sizes(sizes),
        policy=policy,
        views=views,
        seed=seed,
        student_kwargs=parse_kwargs(student_kwargs or [], "--student-kwargs"),
        initial_checkpoint=initial_checkpoint,
        grad_accum_steps=grad_accum_steps,
        channels_last=channels_last,
        torchcompile=torchcompile,
        sync_bn=sync_bn,
        tensorboard=tensorboard,
        teachers=[TeacherSpec(n, w, kwargs) for n, w in zip(teacher or [], weights, strict=False)],
        teacher_weights=list(teacher_weights or []),
        class_map=class_map,
        workers=default_workers(resolve_device(device)) if workers is None else workers,
        device=device,
        resume=resume,
        download=download,
        save_every=save_every,
    )
    if labels is not None and (Path(labels) / MANIFEST).exists() and mode == "replay" and not as_json:
        if read_manifest(Path(labels)).settings.has_maps:
            typer.echo("label maps: crops are drawn anew in every epoch, and the teacher never saw them by themselves")
        elif origin := read_manifest(Path(labels)).settings.origin:
            typer.echo(f"labels imported from {origin.format}: pixels are not exactly those that the teacher saw")
        elif size or sizes:
            typer.echo("at another size than the teacher's the boxes are the same, but the pixels are not what the teacher saw")
    bars: dict[int, Progress] = {}

    def on_step(epoch: int, done: int, total: int) -> None:
        bars.setdefault(epoch, Progress(f"epoch {epoch}", "steps", quiet=as_json))(done, total)

    def on_epoch(line: dict[str, Any]) -> None:
        if not as_json:
            typer.echo("  ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()))

    summary = train(config, on_step, on_epoch)
    if int(os.environ.get("RANK", "0")):
        return  # one process of several speaks
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        best = ", ".join(f"{k} {v:.4g}" for k, v in summary["best"].items())
        typer.echo(f"{out}: best epoch {summary['best_epoch']}: {best}; {summary['images_per_second']:.0f} img/s")


def _val_folders(given: list[str]) -> tuple[str | None, dict[str, str]]:
    """The main validation set, and further ones by name."""
    from reinforce.errors import UsageError

    plain = [v for v in given if not v.partition("=")[0].isidentifier() or "=" not in v or Path(v).is_dir()]
    named = [v.split("=", 1) for v in given if v not in plain]
    if len(plain) > 1 or len({name for name, _ in named}) < len(named):
        raise UsageError(
            "Several validation sets need names of their own.",
            found=", ".join(given),
            expected="one source, and further ones as NAME=SOURCE",
            fix=f"--val {plain[0] if plain else 'DIR'} --val v2={plain[-1] if plain else 'DIR'}",
        )
    return (plain[0] if plain else None), dict(named)


def _sizes(text: str | None) -> tuple[int, ...]:
    from reinforce.errors import UsageError

    parts = text.split(",") if text else []
    if not all(part.isdecimal() and 8 <= int(part) <= 4096 for part in parts):
        raise UsageError(
            f"--sizes {text} is not valid.", expected="sizes of 8 to 4096 pixels with commas", fix="--sizes 96,128"
        )
    return tuple(map(int, parts))
