"""Job: from the options of `generate` to source, teacher and settings; `plan` and `bench generate` take the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from reinforce.settings import Settings
    from reinforce.sources.source import Source
    from reinforce.teachers.teacher import Teacher


class Job(NamedTuple):
    """What a generation is made of."""

    source: Source
    teacher: Teacher
    settings: Settings


def prepare(
    *,
    data: str,
    teacher: list[str],
    teacher_weights: list[Path] | None,
    teacher_kwargs: list[str] | None,
    class_map: str | None,
    policy: str | None,
    size: int,
    views: int | None,
    codec: str | None,
    device: str,
    precision: str,
    limit: int | None,
    labels: str = "views",
    seed: int = 0,
    block_size: int = 512,
    record_views: int = 64,
    download: bool = False,
) -> Job:
    """Open the source and load the teacher.

    Raises:
        ReinforceError: whatever does not fit, before anything is written.
    """
    from reinforce.errors import UsageError
    from reinforce.generation.generate import limit_source
    from reinforce.labels.codec_names import parse_codec
    from reinforce.labels.label_map import MapCodec
    from reinforce.settings import Settings, SourceInfo
    from reinforce.sources.open_source import open_source
    from reinforce.teachers.device import resolve_device
    from reinforce.teachers.models import parse_kwargs
    from reinforce.teachers.teacher import TeacherSpec, load_teacher
    from reinforce.views.policy_text import read_policy

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
    source = limit_source(open_source(data, download), limit)
    names = list(source.class_names)
    model = load_teacher(specs, size=size, class_names=names, class_map=class_map, device=chosen_device, precision=precision)
    if maps:
        model.require_maps(size)
    first = model.infos[0]
    settings = Settings(
        source=SourceInfo(
            kind=source.kind,  # type: ignore[arg-type]
            num_samples=len(source),
            class_names=names,
            index_sha256=source.index_sha256(),
        ),
        teachers=model.infos,
        precision=precision,  # type: ignore[arg-type]
        policy=chosen_policy,
        size=size,
        views=views,
        seed=seed,
        codec=chosen_codec.to_dict(),
        num_classes=len(first.class_map) if first.class_map else first.num_classes,
        block_size=block_size,
        record_views=record_views,
    )
    return Job(source, model, settings)
