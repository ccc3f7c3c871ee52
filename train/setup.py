"""Setup: makes the views, the task and the validation sets of one training run from the user's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reinforce.errors import UsageError
from reinforce.files import file_sha256
from reinforce.replay.epoch_views import Views
from reinforce.teachers.device import resolve_device
from reinforce.teachers.open_teacher import load_teacher, teacher_of
from reinforce.teachers.short_names import timm_name
from reinforce.teachers.teacher import Teacher
from reinforce.train.config import TrainConfig
from reinforce.train.evaluate import Validation
from reinforce.train.losses import LOSSES, LossWeights
from reinforce.train.ranks import Ranks
from reinforce.train.student import make_student
from reinforce.train.tasks import OnlineTask, PlainTask, ReplayTask, StudentTask
from reinforce.train.training_data import TrainingData, open_training_data, open_validations
from reinforce.views.seeds import torch_seed


@dataclass
class Parts:
    """The data, the student and the task of a run.

    Attributes:
        views: The views of an epoch.
        task: Computes the loss of a batch.
        student: The model that learns.
        validations: Validation sets by the prefix of their metrics; the prefix of the main set is empty.
        class_names: Names of the classes; empty: there are none.
        size: Height and width of the views in pixels; if there are several sizes, the largest.
        channels_last: Whether images and weights are in the memory format `channels_last`.
        identity: Settings that must be equal when a run continues from a checkpoint.
        about: Facts about data and teacher for `summary.json`.
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

    def needs_variance(self, ranks: Ranks) -> bool:
        """Whether a process needs two views in a batch, because the student normalises by the variance of its own batch."""
        if self.task.loss.weights.cosub or self.task.freeze_bn:
            return False  # each view passes twice, or the statistics are not those of the batch
        norms = [module for module in self.student.modules() if isinstance(module, _BatchNorm)]
        return any(ranks.world == 1 or not isinstance(module, nn.SyncBatchNorm) for module in norms)


def build(config: TrainConfig, device: torch.device | None = None) -> Parts:
    """Open the data, create the student and choose the task.

    Args:
        config: The user's settings.
        device: The device of this process, if there are several processes; default: the device of `config`.

    Raises:
        ReinforceError: the settings do not fit each other or the data; nothing has been written.
    """
    device = device or resolve_device(config.device)
    data = open_training_data(config)
    store, views, size = data.store, data.views, data.size
    validations = open_validations(config, data)
    torch.manual_seed(torch_seed(config.seed, -1))
    channels_last = device.type == "cuda" if config.channels_last is None else config.channels_last
    student = make_student(config, views.num_classes, size, device)
    student = student.to(memory_format=torch.channels_last) if channels_last else student
    task, teacher = _task(config, student, data, device)
    task.freeze_bn = config.recipe.freeze_bn
    about = {
        "teachers": [t.name for t in (store.settings.teachers if store else teacher.infos if teacher else [])],
        "stored_views": store.settings.views if store else None,
        "teacher_size": store.settings.size if store else None,
        "parameters": sum(p.numel() for p in student.parameters()),
    }
    mixes = data.policy.mix is not None
    identity = _identity(config, data, teacher)
    return Parts(views, task, student, validations, data.class_names, size, channels_last, identity, about, mixes)


def _identity(config: TrainConfig, data: TrainingData, teacher: Teacher | None) -> dict[str, Any]:
    return {
        "student": timm_name(config.student),
        "student_kwargs": config.student_kwargs,
        "initial_checkpoint": None if config.initial_checkpoint is None else file_sha256(config.initial_checkpoint),
        "mode": config.mode,
        "size": data.size,
        "sizes": list(config.sizes),
        "seed": config.seed,
        "views": config.views,
        "samples": len(data.views),
        "data": data.source.index_sha256(),
        "policy": str(data.policy),
        "teachers": [f"{t.name} {t.weights_sha256} {t.mean} {t.std} {t.kwargs}" for t in (teacher.infos if teacher else [])],
        "labels": None if data.store is None else data.store.sha256,
        "grad_accum_steps": config.grad_accum_steps,
        "recipe": config.recipe.model_dump(mode="json"),
        "losses": LOSSES if config.recipe.cosub or config.recipe.discriminator_loss_weight else 1,
    }


def _task(
    config: TrainConfig, student: nn.Module, data: TrainingData, device: torch.device
) -> tuple[StudentTask, Teacher | None]:
    recipe, store = config.recipe, data.store
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
            config.teachers,
            size=data.size,
            class_names=data.class_names,
            class_map=config.class_map,
            device=device,
            precision="fp32",
        )
    else:
        raise UsageError("--mode online needs a teacher.", fix="--labels DIR to take its teacher, or --teacher NAME")
    return OnlineTask(student, teacher, weights, device), teacher
