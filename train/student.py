"""Student: creates the model that learns, from the user's settings and for the classes and sizes of the data."""

from __future__ import annotations

import torch
from timm.layers import DropPath, convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from reinforce.errors import UsageError
from reinforce.settings import Scalar
from reinforce.teachers.models import OF_STUDENT, create, published, require_logits
from reinforce.teachers.short_names import timm_name
from reinforce.train.config import TrainConfig


def make_student(config: TrainConfig, num_classes: int, size: int, device: torch.device) -> nn.Module:
    """The student, on its device.

    Args:
        config: The user's settings.
        num_classes: C, the number of classes.
        size: Input size in pixels; if there are several sizes, the largest.
        device: The device of the student.

    Raises:
        UsageError: the model does not accept the arguments or sizes.
    """
    _check_sizes(config)
    if "num_classes" in config.student_kwargs:
        raise UsageError(
            "--student-kwargs num_classes is not for the user.", expected=f"{num_classes}, as the data has", fix="leave it out"
        )
    rates = {"drop_rate": config.recipe.drop, "drop_path_rate": config.recipe.drop_path}
    kwargs: dict[str, Scalar] = {**{k: v for k, v in rates.items() if v}, **config.student_kwargs}
    kwargs["num_classes"] = num_classes
    first, pretrained = config.initial_checkpoint, config.recipe.pretrained and config.initial_checkpoint is None
    student = create(config.student, weights=first, size=size, kwargs=kwargs, pretrained=pretrained, options=OF_STUDENT)
    student = student.to(device)
    if config.recipe.drop_path and config.recipe.drop_path_shape == "constant":
        _drop_all_paths(student, config.recipe.drop_path, config.student)
    if config.recipe.freeze_bn and not any(isinstance(m, _BatchNorm) for m in student.modules()):
        raise UsageError(f"{config.student} has no batch norm to freeze.", found="--freeze-bn", fix="--no-freeze-bn")
    for each in {size, *config.sizes}:
        require_logits(student, each, "--student-kwargs", num_classes)
    return _with_sync_bn(student, device) if config.sync_bn else student


def _drop_all_paths(student: nn.Module, rate: float, name: str) -> None:
    """Give every block of a student the same rate of stochastic depth, also the first one, for which timm makes no layer.

    Raises:
        UsageError: no block of it can be dropped.
    """
    places = [
        (module, child)
        for module in student.modules()
        for child in {*module._modules, *(k for k, v in vars(module).items() if v is None)}
        if child.startswith("drop_path") and isinstance(getattr(module, child), (DropPath, nn.Identity, type(None)))
    ]
    if not places:
        raise UsageError(
            f"{name} has no stochastic depth.",
            found="--drop-path-shape constant",
            expected="a student with layers that are called drop_path in timm",
            fix="--drop-path 0 --drop-path-shape linear, or another student",
        )
    for module, child in places:
        setattr(module, child, DropPath(rate))


def _with_sync_bn(student: nn.Module, device: torch.device) -> nn.Module:
    if device.type != "cuda":
        raise UsageError(
            "--sync-bn needs CUDA.", found=f"device {device}", fix="leave it out: each process has its own statistics"
        )
    converted: nn.Module = convert_sync_batchnorm(student)
    return converted


def _check_sizes(config: TrainConfig) -> None:
    known = published(timm_name(config.student))
    if len(set(config.sizes)) > 1 and getattr(known, "fixed_input_size", False) and not _takes_any_size(config):
        raise UsageError(
            f"{timm_name(config.student)} is built for one input size.",
            found=f"--sizes {','.join(map(str, config.sizes))}",
            expected="a student that takes any size",
            fix="--student-kwargs dynamic_img_size=true where the model has it, or another student",
        )


def _takes_any_size(config: TrainConfig) -> bool:
    return bool(config.student_kwargs.get("dynamic_img_size"))
