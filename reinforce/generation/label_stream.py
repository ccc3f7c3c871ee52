"""Label stream: views of samples regrouped into batches for the teacher, and its answers into samples again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from reinforce.labels.label_kind import Labeller


class LabelStream:
    """Samples go in with `push`; whichever are answered in full come out, and the rest at `flush`.

    Answers are fetched after the next batch was asked for, so that a device that works by itself is never waited for while it
    has nothing to do, and what follows, encoding, happens meanwhile.
    """

    def __init__(self, labeller: Labeller, batch_size: int) -> None:
        self.labeller = labeller
        self.batch_size = batch_size
        self.pixels: list[torch.Tensor] = []  # waiting for the teacher
        self.waiting = 0
        self.asked: list[torch.Tensor] = []  # the teacher's answers, not fetched
        self.rows: list[tuple[int, int]] = []  # (row, views) not answered in full
        self.answers: list[np.ndarray] = []

    def push(self, row: int, pixels: torch.Tensor) -> Iterator[tuple[int, np.ndarray]]:
        self.pixels.append(pixels)
        self.rows.append((row, len(pixels)))
        self.waiting += len(pixels)
        if self.waiting >= self.batch_size:
            before, self.asked = self.asked, self._ask(self.waiting - self.waiting % self.batch_size)
            yield from self._fetch(before)

    def flush(self) -> Iterator[tuple[int, np.ndarray]]:
        before, self.asked = [*self.asked, *self._ask(self.waiting)], []
        yield from self._fetch(before)

    def _ask(self, count: int) -> list[torch.Tensor]:
        if not count:
            return []
        waiting = torch.cat(self.pixels)
        self.pixels, self.waiting = [waiting[count:]], self.waiting - count
        return [self.labeller(batch) for batch in waiting[:count].split(self.batch_size)]

    def _fetch(self, asked: list[torch.Tensor]) -> Iterator[tuple[int, np.ndarray]]:
        if not asked:
            return
        answers = np.concatenate(self.answers + [answer.cpu().numpy() for answer in asked])
        start = 0
        while self.rows and start + self.rows[0][1] <= len(answers):
            row, views = self.rows.pop(0)
            yield row, answers[start : start + views]
            start += views
        self.answers = [answers[start:]]
