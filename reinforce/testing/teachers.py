"""The laws of a teacher: what stage one needs from every model."""

from __future__ import annotations

import torch

from reinforce.errors import TeacherError, UsageError
from reinforce.teachers.teacher import Teacher
from reinforce.testing.law import require
from reinforce.views.seeds import view_rng

_TOLERANCE = 1e-4
"""How much an answer may differ between batches: kernels add in another order for another batch size."""


def check_teacher(teacher: Teacher, size: int, seed: int = 0) -> None:
    """Check that a teacher keeps its laws.

    Each answer is a distribution over the classes that the teacher states. An answer depends on its own view alone: not on the
    rest of the batch or on earlier calls, and not on training mode. The views, uint8, are not changed. The teacher gives score
    maps, or refuses to.

    Args:
        teacher: The teacher.
        size: View size in pixels.
        seed: Seed of the views that are tried.

    Raises:
        AssertionError: names the broken law.
    """
    names = ", ".join(info.name for info in teacher.infos)
    require(bool(teacher.infos), "a teacher states at least one model in `infos`")
    pixels = torch.from_numpy(view_rng(seed, 0, 0).integers(0, 256, (5, 3, size, size)).astype("uint8"))
    before = pixels.clone()
    answers = teacher(pixels).cpu()
    require(torch.equal(pixels, before), f"{names}: changes the views that it is given")
    info = teacher.infos[0]
    classes = len(info.class_map) if info.class_map else info.num_classes
    found = (answers.dtype, tuple(answers.shape))
    require(found == (torch.float32, (5, classes)), f"{names}: gives {found[0]} {list(found[1])}, not float32 {[5, classes]}")
    require(bool(torch.isfinite(answers).all() & (answers >= 0).all()), f"{names}: gives what is no probability")
    require(float((answers.sum(dim=1) - 1).abs().max()) < _TOLERANCE, f"{names}: gives rows that do not sum to one")
    require(torch.equal(teacher(pixels).cpu(), answers), f"{names}: gives another answer the second time")
    require(torch.equal(teacher.train()(pixels).cpu(), answers), f"{names}: answers otherwise in training mode")
    alone = torch.cat([teacher(pixels[i : i + 1]).cpu() for i in range(5)])
    require(float((alone - answers).abs().max()) < _TOLERANCE, f"{names}: an answer depends on the rest of its batch")
    _check_maps(teacher, pixels, classes, names)


def _check_maps(teacher: Teacher, pixels: torch.Tensor, classes: int, names: str) -> None:
    try:
        teacher.require_maps(pixels.shape[-1])
    except (TeacherError, UsageError):
        return
    maps = teacher.maps(pixels)
    require((maps.ndim, len(maps), maps.shape[-1]) == (4, 5, classes), f"{names}: gives maps of shape {list(maps.shape)}")
    require(maps.dtype == torch.float32 and bool(torch.isfinite(maps).all()), f"{names}: gives maps that are no scores")
