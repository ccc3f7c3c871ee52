"""Generation: the options of `generate`, `estimate` and `bench generate`, and the arguments of stage one made from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from reinforce.cli import options as o

if TYPE_CHECKING:
    import torch

    from reinforce.generation.engine import Execution
    from reinforce.labels.codec import Codec
    from reinforce.policy import Policy
    from reinforce.settings import Settings
    from reinforce.sources.source import Source
    from reinforce.teachers.teacher import Teacher
    from reinforce.teachers.teacher_spec import TeacherSpec


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """What is generated, and how; each field is an option."""

    data: o.Data
    limit: o.Limit = None
    download: o.Download = False
    teacher: o.Teachers
    teacher_weights: o.TeacherWeights = None
    teacher_kwargs: o.TeacherKwargs = None
    class_map: o.ClassMap = None
    precision: o.Precision = "fp32"
    policy: o.Policy = None
    size: o.Size = 224
    views: o.Views = None
    seed: o.Seed = 0
    labels: o.LabelKind = "views"
    codec: o.Codec = None
    stripe_views: o.StripeViews = 64
    block_size: o.BlockSize = 512
    batch_size: o.TeacherBatch = None
    workers: o.Workers = None
    device: o.Devices = "auto"
    processes: o.Processes = 1
    engine: o.Engine = "local"
    ray_address: o.RayAddress = None


class Generation(NamedTuple):
    """The arguments of stage one."""

    source: Source
    teacher: Teacher
    settings: Settings
    execution: Execution


def prepare(given: GenerationOptions) -> Generation:
    """Open the source and load the teacher.

    Raises:
        ReinforceError: options do not fit each other, the data or the teacher. Nothing has been written then.
    """
    from reinforce.generation.engines import engine_of
    from reinforce.generation.generate import limit_source
    from reinforce.labels.label_kind import LABEL_KINDS
    from reinforce.settings import Settings, SourceInfo
    from reinforce.sources.open_source import open_source
    from reinforce.teachers.batch_size import find_batch_size
    from reinforce.teachers.device import resolve_device, resolve_devices
    from reinforce.teachers.open_teacher import load_teacher
    from reinforce.teachers.teacher import labeller_of

    engine_of(given.engine)
    policy, codec, views = _what(given)
    specs = teacher_specs(given.teacher, given.teacher_weights, given.teacher_kwargs)
    on_ray = _on_ray(given)
    devices = [] if on_ray else resolve_devices(given.device, given.processes)
    device = resolve_device("cpu" if given.device == "cpu" else "auto") if on_ray else devices[0]
    source = limit_source(open_source(given.data, given.download), given.limit)
    names = list(source.class_names)
    teacher = load_teacher(
        specs, size=given.size, class_names=names, class_map=given.class_map, device=device, precision=given.precision
    )
    LABEL_KINDS[given.labels].require(teacher, given.size)
    first = teacher.infos[0]
    settings = Settings(
        source=SourceInfo(
            kind=source.kind,
            num_samples=len(source),
            class_names=names,
            index_sha256=source.index_sha256(),
        ),
        teachers=teacher.infos,
        precision=given.precision,
        policy=policy,
        size=given.size,
        views=views,
        seed=given.seed,
        codec=codec.to_dict(),
        num_classes=len(first.class_map) if first.class_map else first.num_classes,
        block_size=given.block_size,
        stripe_views=given.stripe_views,
    )
    batch_size = given.batch_size or find_batch_size(labeller_of(teacher, settings), given.size, device)
    return Generation(source, teacher, settings, _execution(given, batch_size, devices))


def _on_ray(given: GenerationOptions) -> bool:
    """Whether it runs on a Ray cluster, whose devices are not those of this machine.

    Raises:
        UsageError: options that do not go with it, or only with it.
    """
    from reinforce.errors import UsageError

    if given.engine != "ray":
        if given.ray_address is not None:
            raise UsageError("--ray-address is for --engine ray.", found=f"--engine {given.engine}", fix="--engine ray")
        return False
    if given.device not in ("auto", "cpu", "cuda"):
        raise UsageError(
            f"--device {given.device} does not go with --engine ray.", expected="auto, cpu or cuda; Ray chooses which"
        )
    return True


def _execution(given: GenerationOptions, batch_size: int, devices: list[torch.device]) -> Execution:
    from reinforce.generation.engine import AS_SUITS, Execution
    from reinforce.teachers.device import default_workers

    if not devices:  # Ray's
        workers = AS_SUITS if given.workers is None else given.workers
        return Execution(batch_size, workers, given.engine, (given.device,) * given.processes, given.ray_address)
    workers = default_workers(devices[0], len(devices)) if given.workers is None else given.workers
    return Execution(batch_size, workers, given.engine, tuple(map(str, devices)) if len(devices) > 1 else ())


def _what(given: GenerationOptions) -> tuple[Policy, Codec, int]:
    """Policy, codec and number of views; the kind of labels has defaults for them."""
    from reinforce.errors import UsageError
    from reinforce.labels.codecs import CODECS, parse_codec
    from reinforce.labels.label_kind import LABEL_KINDS
    from reinforce.views.policy_text import read_policy

    if given.labels not in LABEL_KINDS:
        raise UsageError(f"There are no labels {given.labels!r}.", expected=", ".join(LABEL_KINDS), fix="--labels views")
    kind = LABEL_KINDS[given.labels]
    policy, codec = read_policy(given.policy or kind.policy), parse_codec(given.codec or kind.codec)
    views = given.views or kind.views
    if codec.labels != kind.name:
        forms = [form for form, each in CODECS.items() if each.labels == kind.name]
        raise UsageError(
            f"--codec {given.codec} is not for --labels {kind.name}.",
            expected=f"{' or '.join(forms)}; {codec.form} belongs to --labels {codec.labels}",
        )
    if fault := kind.fault(policy, views, len(given.teacher)):
        raise UsageError(
            f"These options do not fit --labels {kind.name}.",
            found=f"policy {policy.name}, views: {views}, teachers: {len(given.teacher)}",
            expected=f"{fault} (--policy {kind.policy} and --views {kind.views}, the defaults)",
            fix="leave the option out, or --labels views; where training draws views, `reinforce train` takes --policy",
        )
    return policy, codec, views


def teacher_specs(names: list[str], weights: list[str] | None, kwargs: list[str] | None) -> list[TeacherSpec]:
    """One spec for each teacher, from `--teacher`, `--teacher-weights` and `--teacher-kwargs`.

    Raises:
        UsageError: weights or kwargs do not fit the teachers, or cannot be parsed.
    """
    from reinforce.teachers.models import parse_kwargs
    from reinforce.teachers.teacher_spec import KWARGS, TeacherSpec, kwargs_of_each, weights_of_each

    files, items = weights_of_each(weights or [], names), kwargs_of_each(kwargs or [], names)
    each = zip(names, files, items, strict=True)
    return [TeacherSpec(name, file, parse_kwargs(own, KWARGS)) for name, file, own in each]
