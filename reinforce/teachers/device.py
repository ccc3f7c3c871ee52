"""Device: `auto`, `cpu`, `cuda` or `cuda:i` to a torch device, and how many worker processes suit it."""

from __future__ import annotations

import os

import torch

from reinforce.errors import UsageError

_FEW_CORES = 4


def resolve_device(name: str) -> torch.device:
    """The device that a user means.

    Raises:
        UsageError: no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"There is no device {name!r}.", expected="auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"Device {name!r} is not there.", found=f"{torch.cuda.device_count()} CUDA devices", fix="--device auto"
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"Device {name!r} is not supported.", expected="auto, cpu, cuda or cuda:0")
    return device


def default_workers(device: torch.device) -> int:
    """Decoding processes: all cores beside a GPU; none beside a model on a few cores.

    The threads of one layer wait for each other: a process that takes one of their cores slows all of them. On two cores
    a teacher took twice its time beside one decoding process, and a ninth more than its time with the decoding in between.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores) if device.type == "cuda" else int(cores > _FEW_CORES)
