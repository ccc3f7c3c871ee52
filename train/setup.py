"""Setup: from what a user asks for to the views, the task and the validation sets of one training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
from timm.layers import convert_sync_batchnorm
from torch import nn

from reinforce.errors import SourceError, UsageError
from reinforce.files import file_sha256
from reinforce.packs.open_labels import AnyStore, has_labels, match_keys, open_labels, packed
from reinforce.policy import Policy
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.epoch_views import FreshViews, PooledViews, ReplayedViews, Views
from reinforce.sources.open_source import open_source
from reinforce.sources.source import Source
from reinforce.teachers.device import resolve_device
from reinforce.teachers.models import Scalar, create, require_logits
from reinforce.teachers.short_names import timm_name
from reinforce.teachers.teacher import Teacher, TeacherSpec, load_teacher, teacher_of
from reinforce.train.evaluate import Validation
from reinforce.train.losses import LossWeights
from reinforce.train.recipe import Recipe
from reinforce.train.tasks import OnlineTask, PlainTask, ReplayTask, StudentTask
from reinforce.views.policy_text import read_policy
from reinforce.views.seeds import torch_seed

Mode = Literal["replay", "plain", "online"]
DEFAULT_POLICY = "rrc-ra"


@dataclass(frozen=True)
class TrainConfig:
    """One training run, as the command line describes it; see `reinforce train --help`."""

    student: str
    data: str | Path
    out: Path
    recipe: Recipe
    labels: str | Path | None = None
    val: str | Path | None = None
    more_val: Mapping[str, str | Path] = field(default_factory=dict)
    mode: Mode = "replay"
    size: int | None = None
    sizes: tuple[int, ...] = ()
    policy: str | None = None
    views: int | None = None
    seed: int = 0
    student_kwargs: dict[str, Scalar] = field(default_factory=dict)
    initial_checkpoint: Path | None = None
    teachers: list[TeacherSpec] = field(default_factory=list)
    teacher_weights: list[Path] = field(default_factory=list)
    class_map: str | None = None
    grad_accum_steps: int = 1
    channels_last: bool | None = None
    torchcompile: bool = False
    tensorboard: bool = False
    sync_bn: bool = False
    workers: int = 1
    device: str = "auto"
    resume: bool = False
    download: bool = False
    save_every: int = 1000


@dataclass
class Parts:
    """What a run is made of.

    Attributes:
        identity: What must be equal for a checkpoint to be continued.
        about: What `summary.json` says of data and teacher.
        validations: What is evaluated, by the prefix of its metrics; the main one has none.
        mixes: Whether images are mixed in pairs.
    """

    views: Views
    task: StudentTask
    student: nn.Module
    validations: dict[str, Validation]
    class_names: list[str]
    size: int
    channels_last: bool
    identity: dict[str, Any]
    about: dict[str, Any]
    mixes: bool


def build(config: TrainConfig, device: torch.device | None = None) -> Parts:
    """Open the data, create the student and choose the task.

    Args:
        config: What the user asked for.
        device: Where this process computes, where it is one of several; default: that of `config`.

    Raises:
        ReinforceError: whatever does not fit, before anything is written.
    """
    device = device or resolve_device(config.device)
    source = open_source(config.data, config.download)
    store = _store(config, source)
    _check_sizes(config)
    size = _size(config, store)
    views, class_names = _views(config, source, store, size)
    if config.mode != "plain" and config.recipe.weighs_hard_labels and not class_names:
        raise UsageError(
            "The recipe weighs hard labels, and there are none.",
            found=f"task_loss_weight = {config.recipe.task_loss_weight} and images without class folders",
            expected="a recipe that learns from the teacher alone, such as kd",
            fix="--task-loss-weight 0",
        )
    folders = {**({"": config.val} if config.val is not None else {}), **{f"{k}_": v for k, v in config.more_val.items()}}
    validations = {
        name: Validation(
            open_source(folder, config.download),
            class_names,
            views.num_classes,
            size,
            config.recipe.crop_pct,
            subset=bool(name),
        )
        for name, folder in folders.items()
    }
    torch.manual_seed(torch_seed(config.seed, -1))
    channels_last = device.type == "cuda" if config.channels_last is None else config.channels_last
    student = _student(config, views.num_classes, size, device)
    if config.sync_bn:
        student = _with_sync_bn(student, device)
    student = student.to(memory_format=torch.channels_last) if channels_last else student
    task, teacher = _task(config, student, store, class_names, size, device)
    policy = _policy(config, store)
    identity = {
        "student": timm_name(config.student),
        "student_kwargs": config.student_kwargs,
        "initial_checkpoint": None if config.initial_checkpoint is None else file_sha256(config.initial_checkpoint),
        "mode": config.mode,
        "size": size,
        "sizes": list(config.sizes),
        "seed": config.seed,
        "views": config.views,
        "samples": len(views),
        "data": source.index_sha256(),
        "policy": str(policy),
        "teachers": [f"{t.name} {t.weights_sha256}" for t in (teacher.infos if teacher else [])],
        "labels": None if store is None else store.sha256,
        "grad_accum_steps": config.grad_accum_steps,
        "recipe": config.recipe.model_dump(),
    }
    about = {
        "teachers": [t.name for t in (store.settings.teachers if store else teacher.infos if teacher else [])],
        "stored_views": store.settings.views if store else None,
        "teacher_size": store.settings.size if store else None,
        "parameters": sum(p.numel() for p in student.parameters()),
    }
    return Parts(views, task, student, validations, class_names, size, channels_last, identity, about, policy.mix is not None)


def _store(config: TrainConfig, source: Source) -> AnyStore | None:
    in_shards = config.mode == "replay" and has_labels(source)
    if config.labels is not None or in_shards:
        store = packed(source) if config.labels is None else open_labels(config.labels, source)
        if config.policy is not None and not store.settings.has_maps:
            raise UsageError(
                "--policy is given beside --labels.", expected="one of them: the labels belong to their own policy"
            )
        return store
    if config.mode == "replay":
        raise UsageError(
            "--mode replay needs stored labels.",
            found="no --labels",
            fix="--labels DIR, made by `reinforce generate`; shards with labels as --data; or --mode plain",
        )
    return None


def _policy(config: TrainConfig, store: AnyStore | None) -> Policy:
    """What views are drawn from; labels of views have their own, maps have a label for any."""
    if store is not None and not store.settings.has_maps:
        return store.settings.policy
    return read_policy(config.policy or DEFAULT_POLICY)


def _size(config: TrainConfig, store: AnyStore | None) -> int:
    """Input size of the student, of several sizes the largest."""
    if config.sizes and config.size is not None:
        raise UsageError("--size is given beside --sizes.", expected="one of them")
    return max(config.sizes) if config.sizes else config.size or (store.settings.size if store else 224)


def _check_sizes(config: TrainConfig) -> None:
    known = timm.get_pretrained_cfg(timm_name(config.student))
    if len(set(config.sizes)) > 1 and getattr(known, "fixed_input_size", False) and not _takes_any_size(config):
        raise UsageError(
            f"{timm_name(config.student)} is built for one input size.",
            found=f"--sizes {','.join(map(str, config.sizes))}",
            expected="a student that takes any size",
            fix="--student-kwargs dynamic_img_size=true where the model has it, or another student",
        )


def _takes_any_size(config: TrainConfig) -> bool:
    return bool(config.student_kwargs.get("dynamic_img_size"))


def _views(config: TrainConfig, source: Source, store: AnyStore | None, size: int) -> tuple[Views, list[str]]:
    """The samples are those that have labels, in every mode, so that the modes can be compared."""
    policy, dataset = _policy(config, store), None
    if config.mode == "replay":
        assert store is not None
        dataset = ReinforcedDataset(store, source, seed=config.seed, views=config.views, size=size)
        if not store.settings.has_maps:
            return ReplayedViews(dataset), store.settings.source.class_names
    if store is not None:
        settings = store.settings
        samples, labels = match_keys(store, source, store.ok_samples), store.samples.labels[store.ok_samples]
        class_names, num_classes = settings.source.class_names, settings.num_classes
    else:
        samples, labels = np.arange(len(source)), np.array(source.labels or [-1] * len(source))
        class_names, num_classes = list(source.class_names), len(source.class_names)
    if config.mode == "plain" and not class_names:
        raise SourceError(
            f"{source.location} has no class folders, and --mode plain learns from hard labels.", fix="--mode replay or online"
        )
    if not num_classes:
        raise SourceError("The number of classes is not known.", found="no class folders and no --labels", fix="--labels DIR")
    fresh = (source, samples, labels, policy, size, num_classes, config.seed)
    return (PooledViews(*fresh, dataset=dataset) if dataset else FreshViews(*fresh)), class_names


def _student(config: TrainConfig, num_classes: int, size: int, device: torch.device) -> nn.Module:
    if "num_classes" in config.student_kwargs:
        raise UsageError(
            "--student-kwargs num_classes is not for the user.", expected=f"{num_classes}, as the data has", fix="leave it out"
        )
    rates = {"drop_rate": config.recipe.drop, "drop_path_rate": config.recipe.drop_path}
    kwargs: dict[str, Scalar] = {**{k: v for k, v in rates.items() if v}, **config.student_kwargs}
    kwargs["num_classes"] = num_classes
    first, pretrained = config.initial_checkpoint, config.recipe.pretrained and config.initial_checkpoint is None
    student = create(config.student, weights=first, size=size, kwargs=kwargs, pretrained=pretrained).to(device)
    for each in {size, *config.sizes}:
        require_logits(student, each, "--student-kwargs", num_classes)
    return student


def _with_sync_bn(student: nn.Module, device: torch.device) -> nn.Module:
    if device.type != "cuda":
        raise UsageError(
            "--sync-bn needs CUDA.", found=f"device {device}", fix="leave it out: each process has its own statistics"
        )
    converted: nn.Module = convert_sync_batchnorm(student)
    return converted


def _task(
    config: TrainConfig, student: nn.Module, store: AnyStore | None, class_names: list[str], size: int, device: torch.device
) -> tuple[StudentTask, Teacher | None]:
    recipe = config.recipe
    weights = LossWeights(
        distill=recipe.distill_loss_weight,
        task=recipe.task_loss_weight,
        smoothing=recipe.smoothing,
        distill_type=recipe.distill_type,
        alpha=recipe.alpha,
        alpha_ramp=recipe.alpha_ramp_epochs,
        discriminator=recipe.discriminator_loss_weight,
        cosub=recipe.cosub,
    )
    if config.mode == "plain":
        return PlainTask(student, weights, device), None
    if config.mode == "replay":
        return ReplayTask(student, weights, device), None
    if store is not None and not config.teachers:
        teacher = teacher_of(store.settings, config.teacher_weights, device)
    elif config.teachers:
        teacher = load_teacher(
            config.teachers, size=size, class_names=class_names, class_map=config.class_map, device=device, precision="fp32"
        )
    else:
        raise UsageError("--mode online needs a teacher.", fix="--labels DIR to take its teacher, or --teacher NAME")
    return OnlineTask(student, teacher, weights, device), teacher
