"""A small `reinforce generate` for processes that are killed, and for the undisturbed one that they are compared with."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import torch

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate, generate_share
from reinforce.generation.share import Share
from reinforce.sources.folder import ImageFolder
from reinforce.store.place import Place
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher import Teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from tests.conftest import CLASSES, SIZE, TEACHER, make_settings

BLOCKS = 4
SAMPLES, VIEWS, COLUMNS = 6, 16, 14
"""The shape of a block's params."""


def generate_small(images: Path, weights: Path, out: Path | Place, workers: int = 1, file_size: int | None = None) -> None:
    """Four blocks of six samples. No file may be longer than `file_size` bytes, as if the disk were full."""
    source = ImageFolder.open(images)
    teacher = _teacher(weights)
    if file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    settings = make_settings(source, teacher, block_size=SAMPLES, views=VIEWS)
    generate(source, teacher, settings, out, Execution(batch_size=8, workers=workers))


def share_small(images: Path, weights: Path, out: Path, share: str) -> None:
    """One share of the same."""
    source = ImageFolder.open(images)
    teacher = _teacher(weights)
    settings = make_settings(source, teacher, block_size=SAMPLES, views=VIEWS)
    generate_share(source, teacher, settings, out, Share.parse(share), Execution(batch_size=8, workers=0))


def _teacher(weights: Path) -> Teacher:
    return load_teacher(
        [TeacherSpec(TEACHER, weights)],
        size=SIZE,
        class_names=list(CLASSES),
        class_map=None,
        device=torch.device("cpu"),
        precision="fp32",
    )
