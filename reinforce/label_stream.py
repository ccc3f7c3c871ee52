"""Label stream: views of samples regrouped into batches for the teacher, and its answers into samples again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

Label = Callable[[torch.Tensor], torch.Tensor]
"""What the teacher says of a batch: uint8 `[B, 3, H, W]` to float32 `[B, ...]`."""


class LabelStream:
    """Samples go in with `push`; whichever are answered in full come out, and the rest at `flush`."""

    def __init__(self, label: Label, batch_size: int) -> None:
        self.label = label
        self.batch_size = batch_size
        self.pixels: list[torch.Tensor] = []  # waiting for the teacher
        self.waiting = 0
        self.rows: list[tuple[int, int]] = []  # (row, views) not answered in full
        self.answers: list[np.ndarray] = []

    def push(self, row: int, pixels: torch.Tensor) -> Iterator[tuple[int, np.ndarray]]:
        self.pixels.append(pixels)
        self.rows.append((row, len(pixels)))
        self.waiting += len(pixels)
        if self.waiting >= self.batch_size:
            yield from self._run(self.waiting - self.waiting % self.batch_size)

    def flush(self) -> Iterator[tuple[int, np.ndarray]]:
        yield from self._run(self.waiting)

    def _run(self, count: int) -> Iterator[tuple[int, np.ndarray]]:
        if not count:
            return
        waiting = torch.cat(self.pixels)
        batches = [self.label(batch).cpu().numpy() for batch in waiting[:count].split(self.batch_size)]
        self.pixels, self.waiting = [waiting[count:]], self.waiting - count
        answers = np.concatenate(self.answers + batches)
        start = 0
        while self.rows and start + self.rows[0][1] <= len(answers):
            row, views = self.rows.pop(0)
            yield row, answers[start : start + views]
            start += views
        self.answers = [answers[start:]]
