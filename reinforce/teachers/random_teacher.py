"""Random teacher: any timm model with random weights, to measure speed without a download: random weights cost the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.short_names import timm_name
from reinforce.teachers.teacher import Teacher
from reinforce.teachers.teacher_spec import TeacherSpec


def random_teacher(name: str, *, num_classes: int, size: int, device: torch.device, precision: str = "fp32") -> Teacher:
    """A teacher of so many classes, for views of `size` pixels, with weights as timm initialises them."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "weights.safetensors")
        model = timm.create_model(timm_name(name), num_classes=num_classes)
        save_file({key: value.contiguous().clone() for key, value in model.state_dict().items()}, file)
        spec = TeacherSpec(name, file)
        return load_teacher([spec], size=size, class_names=[], class_map=None, device=device, precision=precision)
