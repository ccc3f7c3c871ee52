"""The batch size that nobody gave: by what fits, the same every time."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reinforce.errors import TeacherError
from reinforce.teachers.batch_size import LARGEST, ON_CPU, find_batch_size

pytestmark = pytest.mark.unit

ELSEWHERE = torch.device("meta")  # stands for a device with less memory than this machine


def teacher_that_fits(most: int, seen: list[int]) -> Any:
    def label(views: torch.Tensor) -> torch.Tensor:
        assert views.dtype == torch.uint8
        assert views.shape[1:] == (3, 16, 16)
        seen.append(len(views))
        if len(views) > most:
            raise torch.OutOfMemoryError("out of memory")
        return torch.zeros(len(views), 3)

    return label


@pytest.mark.parametrize(("most", "found"), [(10_000, LARGEST), (512, 512), (511, 256), (100, 64), (1, 1)])
def test_the_largest_power_of_two_that_fits_is_taken(most: int, found: int) -> None:
    seen: list[int] = []
    assert find_batch_size(teacher_that_fits(most, seen), 16, ELSEWHERE) == found
    assert seen == [LARGEST >> i for i in range(len(seen))]
    assert seen[-1] == found


def test_a_teacher_of_which_nothing_fits_is_told() -> None:
    with pytest.raises(TeacherError, match="Not one view fits in the memory of meta, at 16 pixels"):
        find_batch_size(teacher_that_fits(0, []), 16, ELSEWHERE)


def test_other_errors_are_not_taken_for_a_full_memory() -> None:
    def broken(views: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        find_batch_size(broken, 16, ELSEWHERE)


def test_on_a_cpu_it_is_always_the_same() -> None:
    assert find_batch_size(teacher_that_fits(0, []), 16, torch.device("cpu")) == ON_CPU == 64
