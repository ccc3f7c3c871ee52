"""Teachers that fail in a process of a device, and not in the process that gave it its orders."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import torch

from reinforce.errors import TeacherError
from reinforce.teachers.teacher import Teacher


class Faulty(Teacher):
    """Gives the labels of another teacher, and fails where `act` says so.

    Args:
        inner: The other teacher.
        act: What it does instead of an answer.
        diary: A folder in which each failure leaves a file, so that `times` of them can be counted over all processes.
        times: How often it fails.
    """

    def __init__(self, inner: Teacher, act: str, diary: Path, times: int = 1) -> None:
        super().__init__()
        self.inner, self.act, self.diary, self.times = inner, act, diary, times
        self.home = os.getpid()
        self.infos, self.device, self.precision = inner.infos, inner.device, inner.precision

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.act == "small batches" and len(images) > self.times:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if os.getpid() != self.home and len(list(self.diary.iterdir())) < self.times and self.act != "small batches":
            (self.diary / f"{os.getpid()}-{time.monotonic_ns()}").touch()
            self._fail()
        answer: torch.Tensor = self.inner(images)
        return answer

    def _fail(self) -> None:
        if self.act == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.act == "cuda":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if self.act == "refused":
            raise TeacherError("The weights are of no use.")


class Held(Teacher):
    """Gives the labels of another teacher, and waits after `first` batches for as long as there is a file `hold`.

    Each process that has come so far leaves a file with the name of its node (`REINFORCE_TEST_NAME`).
    """

    def __init__(self, inner: Teacher, diary: Path, first: int) -> None:
        super().__init__()
        self.inner, self.diary, self.first, self.batches = inner, diary, first, 0
        self.infos, self.device, self.precision = inner.infos, inner.device, inner.precision

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        if self.batches > self.first:
            (self.diary / os.environ.get("REINFORCE_TEST_NAME", "head")).touch()
            while (self.diary / "hold").exists():
                time.sleep(0.02)
        answer: torch.Tensor = self.inner(images)
        return answer


class Locked(Teacher):
    """Holds what cannot be sent."""

    def __init__(self, inner: Teacher) -> None:
        super().__init__()
        self.infos, self.device, self.precision, self.lock = inner.infos, inner.device, inner.precision, threading.Lock()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images
