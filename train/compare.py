"""Compare: trains in the three modes with the same images, student, recipe and seeds, so that only the mode differs.

The modes take turns (replay, plain, online, replay, ...): if the machine becomes slower, it becomes slower for all modes.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable
from typing import Any

from reinforce.train.config import Mode, TrainConfig
from reinforce.train.loop import train
from reinforce.train.metrics import METRICS

MODES: tuple[Mode, ...] = ("replay", "plain", "online")


def compare_modes(
    config: TrainConfig, seeds: list[int], modes: tuple[Mode, ...] = MODES, on_run: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """Train one student per mode and seed below `config.out`.

    Returns:
        A row per mode: `mode`; `images_per_second` (median, lowest, highest over all epochs except the first of each run);
        `relative` (images per second divided by those of the first mode with the same seed, median over the seeds); and for
        each metric of the last epoch its mean, lowest and highest over the seeds.
    """
    rates: dict[str, list[list[float]]] = {mode: [] for mode in modes}
    metrics: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
    for seed in seeds:
        for mode in modes:
            out = config.out / f"{mode}-{seed}"
            summary = train(dataclasses.replace(config, mode=mode, seed=seed, out=out))
            lines = [json.loads(line) for line in (out / METRICS).read_text().splitlines()]
            rates[mode].append([line["images_per_second"] for line in lines[1:] or lines])
            metrics[mode].append(summary["last"])
            on_run(f"{mode}, seed {seed}: {summary['last'].get('top1', float('nan')):.2f} % top-1")
    rows = []
    for mode in modes:
        every = [rate for run in rates[mode] for rate in run]
        ratios = [statistics.median(a) / statistics.median(b) for a, b in zip(rates[mode], rates[modes[0]], strict=True)]
        row: dict[str, Any] = {"mode": mode, "images_per_second": _spread(every, statistics.median)}
        row["relative"] = statistics.median(ratios)
        for name in metrics[mode][0]:
            row[name] = _spread([m[name] for m in metrics[mode]], statistics.mean)
        rows.append(row)
    return rows


def _spread(values: list[float], centre: Callable[[list[float]], float]) -> dict[str, float]:
    return {"value": centre(values), "low": min(values), "high": max(values)}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table: value (lowest to highest)."""
    columns = [c for c in ("images_per_second", "top1", "nll", "ece") if c in rows[0]]
    head = {"images_per_second": "img/s", "top1": "top-1 %", "nll": "NLL", "ece": "ECE %"}
    lines = ["| mode | " + " | ".join(head[c] for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in rows:
        cells = [_cell(row[c], digits=3 if c == "nll" else 1) for c in columns]
        lines.append(f"| {row['mode']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: dict[str, float], digits: int) -> str:
    return f"{value['value']:.{digits}f} ({value['low']:.{digits}f} to {value['high']:.{digits}f})"
