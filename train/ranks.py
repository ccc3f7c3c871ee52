"""Ranks: the processes of one training run. One process by default; several under torchrun, which sets the environment.

Every rank makes the same plan of the same global batches and takes its share of each, so a run's samples, views and steps do
not depend on how many processes there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from reinforce.errors import Interrupted, first_line
from reinforce.teachers.device import resolve_device

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others; decoding of a batch or rank 0's checkpoint must fit in."""


@dataclass(frozen=True)
class Ranks:
    """This process among all of a run.

    Attributes:
        rank: Number of this process, 0 is the one that writes.
        world: Number of processes.
        device: Where this process computes.
        hosts: The same processes by their host memory (gloo), for what must not wait for a device; None: one process.
    """

    rank: int
    world: int
    device: torch.device
    hosts: dist.ProcessGroup | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, on each of them."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def average_gradients(self, module: nn.Module) -> None:
        """Make the gradients of a module that DDP does not wrap those of all ranks."""
        if self.world > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world > 1:
            dist.barrier()


class AnyRank:
    """Whether any rank says yes, asked again and again, at the same places by all.

    The answer of several processes is that to the question before: it travels between host memories while the next batch is
    computed, so that neither the host nor the device waits for it. A yes stays a yes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.yes = False
        self._asked: tuple[torch.Tensor, dist.Work] | None = None

    def ask(self, mine: bool) -> bool:
        """Say yes or no, and hear whether any rank said yes one question ago; a process alone hears itself."""
        if self.ranks.world == 1:
            return mine
        if self._asked is not None:
            votes, work = self._asked
            work.wait()
            self.yes, self._asked = bool(votes > 0), None
        if not self.yes:  # all ranks hear the same, so all of them ask on or none does
            votes = torch.tensor(float(mine))
            self._asked = votes, dist.all_reduce(votes, group=self.ranks.hosts, async_op=True)
        return self.yes


def local_processes() -> int:
    """How many processes of this run torchrun started on this machine."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the other processes, if torchrun started several; leave them at the end.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:i`; with several processes `cuda` is that of the local rank.

    Raises:
        Interrupted: another process ended.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks(0, 1, resolve_device(device))
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    chosen = resolve_device(device)
    if chosen.type == "cuda":
        chosen = resolve_device(f"cuda:{local}")
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        hosts: Any = dist.new_group(backend="gloo", timeout=TIMEOUT)
        yield Ranks(dist.get_rank(), world, chosen, hosts)
    except RuntimeError as error:
        # What a collective says when its peer is gone: gloo "Connection closed by peer", nccl "remote process exited".
        if not any(word in str(error) for word in ("peer", "remote process", "Gloo", "NCCL", "Timed out")):
            raise
        raise Interrupted(
            "Another process of this run ended.",
            found=first_line(error),
            fix="its own message says why; then --resume",
        ) from None
    finally:
        dist.destroy_process_group()
