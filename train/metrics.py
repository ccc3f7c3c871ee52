"""Metrics: writes a line per epoch to `metrics.jsonl`, finds the best epoch, and writes `summary.json` at the end."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import torch

from reinforce.files import write_atomic
from reinforce.train.curves import Curves
from reinforce.train.ranks import Ranks

METRICS, SUMMARY = "metrics.jsonl", "summary.json"
_UNMEASURED = ("epoch", "lr", "seconds", "images_per_second")

Line = dict[str, Any]
"""The line of an epoch: its number, learning rate, losses, speed, and the metrics of each validation set."""


class LossSums:
    """Sums of the parts of the loss over the views of an epoch, on the device, so that no step waits for them."""

    def __init__(self, sums: dict[str, torch.Tensor]) -> None:
        self.sums = sums

    def add(self, result: dict[str, Any], views: int) -> None:
        """Add the losses of a step, which are means over its `views` views."""
        for name, value in result.items():
            if name == "loss" or name.endswith("_loss"):
                added = value.detach().float() * views
                self.sums[name] = self.sums[name] + added if name in self.sums else added

    def means(self, ranks: Ranks, views: int) -> dict[str, float]:
        """Mean losses over `views`, the number of views of all ranks."""
        return {name: float(ranks.sum(value)) / views for name, value in self.sums.items()}


class Metrics:
    """The lines of a run.

    Args:
        out: Folder of the run.
        best_by: The metric whose highest value makes the best epoch; if it is not measured, the last epoch is the best.
        writes: Whether this process writes files.
        tensorboard: Whether the lines are also written as TensorBoard events.
    """

    def __init__(self, out: Path, best_by: str, writes: bool, tensorboard: bool) -> None:
        self.out, self.best_by, self.writes = out, best_by, writes
        self.curves = Curves(out / "tensorboard") if tensorboard and writes else None
        self.lines: list[Line] = []

    def add(self, line: Line) -> None:
        """Add the line of an epoch, and write it."""
        self.lines.append(line)
        self.write()
        if self.curves is not None:
            self.curves.add(line)

    def write(self) -> None:
        """Write all lines."""
        if self.writes:
            write_atomic(self.out / METRICS, "".join(json.dumps(line) + "\n" for line in self.lines).encode())

    def is_best(self, line: Line) -> bool:
        """Whether no line so far is better than this one."""
        best: bool = line.get(self.best_by, 0.0) >= max(old.get(self.best_by, 0.0) for old in self.lines)
        return best

    def summarise(self, about: dict[str, Any]) -> dict[str, Any]:
        """Write and return the summary: `about` (facts about the run), the best epoch and the last epoch."""
        # If several epochs are equally good, the last of them: its weights are the ones that were kept.
        best = max(reversed(self.lines), key=lambda line: line.get(self.best_by, 0.0))
        measured = [k for k in self.lines[-1] if k not in _UNMEASURED]
        found = {
            "best_epoch": best["epoch"],
            "best": {k: best[k] for k in measured},
            "last": {k: self.lines[-1][k] for k in measured},
            "images_per_second": statistics.median(line["images_per_second"] for line in self.lines),
        }
        summary = about | found
        if self.writes:
            write_atomic(self.out / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode())
        return summary
