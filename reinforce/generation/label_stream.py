"""Label stream: views of samples regrouped into batches for the teacher, and its answers into samples again."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from reinforce.labels.label_kind import Labeller


class LabelStream:
    """Samples go in with `push`, which gives back those whose labels are complete; `flush` gives the rest.

    The answers to a batch are fetched only after the next batch has been sent to the teacher. So a GPU always has work while
    this process fetches and encodes.
    """

    def __init__(self, labeller: Labeller, batch_size: int) -> None:
        self.labeller = labeller
        self.batch_size = batch_size
        self.pixels: list[torch.Tensor] = []  # views that were not yet sent to the teacher
        self.waiting = 0
        self.asked: list[torch.Tensor] = []  # answers that are still on the teacher's device
        self.rows: list[tuple[int, int]] = []  # (row, views) of samples whose labels are not complete
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
