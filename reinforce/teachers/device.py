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


def resolve_devices(text: str, processes: int | None = None) -> list[torch.device]:
    """The devices that stage one runs on: one process for each.

    Args:
        text: `auto` (all CUDA devices, or the CPU), `cuda` (all), or devices with commas between them.
        processes: How many processes on each device; default 1.

    Raises:
        UsageError: no such device on this machine, or one is named twice.
    """
    if text == "auto":
        text = "cuda" if torch.cuda.is_available() else "cpu"
    if text == "cuda" and torch.cuda.is_available():
        text = ",".join(f"cuda:{i}" for i in range(torch.cuda.device_count()))
    names = text.split(",")
    if len(set(names)) < len(names):
        raise UsageError(f"--device {text} names a device twice.", expected="each once", fix="--processes 2")
    devices = [resolve_device(name) for name in names]
    if len(devices) > 1 and any(device.type == "cuda" and device.index is None for device in devices):
        raise UsageError(f"--device {text} is not clear.", expected="cuda:0,cuda:1, or cuda for all of them")
    return devices * (processes or 1)


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(device: torch.device, processes: int = 1) -> int:
    """How many decoding processes to start: one per core if the model is on a GPU; none if it is on a CPU with few cores.

    The threads of a layer wait for each other, so a process that takes one of their cores slows all of them. Measured on two
    cores: with one decoding process a teacher took twice its time; with decoding in its own process, a ninth more.

    Args:
        device: Where the model computes.
        processes: How many processes like this one share the cores of this machine.
    """
    cores = max(1, usable_cores() // processes)
    return min(16, cores) if device.type == "cuda" else int(cores > _FEW_CORES)
