"""`reinforce train`: stage two."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reinforce.cli import options as o
from reinforce.cli.expand import FieldsOf
from reinforce.cli.progress import Progress

if TYPE_CHECKING:
    from reinforce.train.config import TrainConfig

NAME = "train"
_CONFIG = "reinforce.train.config"
_Fields = dict[str, Any]


def command(
    *,
    data: Annotated[_Fields, FieldsOf(f"{_CONFIG}:DataConfig", o.DATA)],
    val: Annotated[
        list[str] | None,
        typer.Option(
            help="Labelled images to evaluate on after each epoch, as in --data; further sets as NAME=SOURCE.",
            rich_help_panel=o.DATA,
        ),
    ] = None,
    labels: Annotated[_Fields, FieldsOf(f"{_CONFIG}:LabelsConfig", o.LABELS)],
    views: Annotated[_Fields, FieldsOf(f"{_CONFIG}:ViewsConfig", o.VIEWS)],
    sizes: Annotated[
        str | None, typer.Option(help="Several view sizes in turn, batch by batch: 96,128,160", rich_help_panel=o.VIEWS)
    ] = None,
    student: Annotated[_Fields, FieldsOf(f"{_CONFIG}:StudentConfig", o.STUDENT)],
    student_kwargs: o.StudentKwargs = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(help="Live teacher for --mode online; default: that of the labels.", rich_help_panel=o.TEACHER),
    ] = None,
    teacher_weights: o.TeacherWeights = None,
    teacher_kwargs: o.TeacherKwargs = None,
    live: Annotated[_Fields, FieldsOf(f"{_CONFIG}:TeacherConfig", o.TEACHER)],
    recipe: Annotated[str, typer.Option(help="Name of a shipped recipe, or a TOML file.", rich_help_panel=o.RECIPE)] = "kd",
    overrides: Annotated[_Fields, FieldsOf("reinforce.train.recipe:Recipe", o.RECIPE, overrides=True)],
    workers: o.Workers = None,
    running: Annotated[_Fields, FieldsOf(f"{_CONFIG}:RunConfig", o.RUNNING)],
    output: Annotated[_Fields, FieldsOf(f"{_CONFIG}:OutputConfig", o.OUTPUT)],
    as_json: o.Json = False,
) -> None:
    """Train any timm student by replaying the stored views; or plainly, or with a live teacher, to compare."""
    from reinforce.cli.generation import teacher_specs
    from reinforce.errors import UsageError
    from reinforce.policy import DEFAULT, PRESETS
    from reinforce.teachers.device import default_workers, resolve_device
    from reinforce.teachers.models import parse_kwargs
    from reinforce.train.config import TrainConfig
    from reinforce.train.loop import train
    from reinforce.train.ranks import local_processes
    from reinforce.train.recipe import load_recipe

    main_val, more_val = _val_folders(val or [])
    if teacher_kwargs and not teacher:
        raise UsageError(
            "--teacher-kwargs needs --teacher.", cause="the teacher of the labels has its own", fix="--teacher NAME"
        )
    config = TrainConfig(
        **data,
        **labels,
        **views,
        **student,
        **live,
        **running,
        **output,
        val=main_val,
        more_val=more_val,
        sizes=_sizes(sizes),
        student_kwargs=parse_kwargs(student_kwargs or [], "--student-kwargs"),
        teachers=teacher_specs(teacher, teacher_weights, teacher_kwargs) if teacher else [],
        teacher_weights=list(teacher_weights or []),
        recipe=load_recipe(recipe, overrides),
        default_policy=recipe if recipe in PRESETS else DEFAULT,
        workers=default_workers(resolve_device(running["device"]), local_processes()) if workers is None else workers,
    )
    if not as_json:
        _say_what_is_shown(config)
    bars: dict[int, Progress] = {}

    def on_step(epoch: int, done: int, total: int) -> None:
        bars.setdefault(epoch, Progress(f"epoch {epoch}", "steps", quiet=as_json))(done, total)

    def on_epoch(line: dict[str, Any]) -> None:
        if not as_json:
            typer.echo("  ".join(f"{k} {v:.5g}" if isinstance(v, float) else f"{k} {v}" for k, v in line.items()))

    summary = train(config, on_step, on_epoch)
    if int(os.environ.get("RANK", "0")):
        return  # only one of several processes prints
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        best = ", ".join(f"{k} {v:.4g}" for k, v in summary["best"].items())
        typer.echo(f"{config.out}: best epoch {summary['best_epoch']}: {best}; {summary['images_per_second']:.0f} img/s")


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


def _say_what_is_shown(config: TrainConfig) -> None:
    """Print a note if the student's pixels are not exactly those that the teacher saw."""
    from reinforce.labels.label_kind import kind_of
    from reinforce.store.store import MANIFEST, read_manifest
    from reinforce.train.training_data import labels_here

    labels = labels_here(config)
    if labels is None or config.mode != "replay" or not (Path(labels) / MANIFEST).exists():
        return
    settings = read_manifest(Path(labels)).settings
    if note := kind_of(settings.codec).note:
        typer.echo(note)
    elif settings.origin:
        typer.echo(f"labels imported from {settings.origin.format}: pixels are not exactly those that the teacher saw")
    elif {config.size or settings.size, *config.sizes} != {settings.size}:
        typer.echo("at another size than the teacher's, the boxes are the same, but the pixels are not what the teacher saw")
