"""Ranks: the processes of one training run: one by default; several with torchrun, which sets the environment variables.

Every rank plans the same global batches and takes its share of each batch, so the samples, views and steps of a run do not
depend on the number of processes.
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
"""How long a rank waits for the others; decoding a batch, or writing rank 0's checkpoint, must take less time."""


@dataclass(frozen=True)
class Ranks:
    """This process, as one of the processes of a run.

    Attributes:
        rank: Number of this process; rank 0 writes the files.
        world: Number of processes.
        device: The device on which this process computes.
        hosts: A group of the same processes that communicates through host memory (gloo), so that its messages do not wait for
            a device; None: there is one process only.
    """

    rank: int
    world: int
    device: torch.device
    hosts: dist.ProcessGroup | None = None

    @property
    def writes(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, on each of them."""
        if self.world > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def average_gradients(self, module: nn.Module) -> None:
        """Average the gradients of a module over all ranks; for modules that DDP does not wrap."""
        if self.world > 1:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= self.world

    def average_statistics(self, module: nn.Module) -> None:
        """Average the running means and variances of a module's normalisation layers over all ranks.

        Called after each update, so the state of all ranks is always the same, and so are the averaged weights that follow it.
        The result is that of timm's `distribute_bn` with `reduce`, because the moving average of a mean is the mean of the
        moving averages. It takes the place of DDP's copies of rank 0's buffers, which ignore what the other ranks saw.
        """
        if self.world == 1:
            return
        if statistics := [buffer for name, buffer in module.named_buffers() if is_statistic(name)]:
            mean = self.sum(torch.cat([buffer.flatten() for buffer in statistics])) / self.world
            for buffer, part in zip(statistics, mean.split([buffer.numel() for buffer in statistics]), strict=True):
                buffer.copy_(part.view_as(buffer))

    def gather(self, values: torch.Tensor) -> list[torch.Tensor]:
        """A tensor of each rank, on the CPU; all of them have the same shape and dtype."""
        values = values.cpu()
        if self.world == 1:
            return [values]
        found = [torch.empty_like(values) for _ in range(self.world)]
        dist.all_gather(found, values, group=self.hosts)
        return found

    def wait(self) -> None:
        """Wait until all ranks have called this."""
        if self.world > 1:
            dist.barrier()


def is_statistic(buffer: str) -> bool:
    """Whether a buffer of this name is a moving average that training changes, as timm tells them."""
    return "running_mean" in buffer or "running_var" in buffer


class AnyRank:
    """Finds out whether any rank says yes. All ranks ask repeatedly, at the same places of the program.

    With several processes, `ask` returns the answer to the previous question: the votes are exchanged through host memory while
    the next batch is computed, so neither the host nor the device waits for them. After a yes, all later answers are yes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.yes = False
        self._asked: tuple[torch.Tensor, dist.Work] | None = None

    def ask(self, mine: bool) -> bool:
        """Vote yes or no; returns whether any rank voted yes at the previous question. A single process gets its own vote."""
        if self.ranks.world == 1:
            return mine
        if self._asked is not None:
            votes, work = self._asked
            work.wait()
            self.yes, self._asked = bool(votes > 0), None
        if not self.yes:  # all ranks get the same answer, so all of them vote again or none does
            votes = torch.tensor(float(mine))
            self._asked = votes, dist.all_reduce(votes, group=self.ranks.hosts, async_op=True)
        return self.yes


def local_processes() -> int:
    """Number of processes of this run that torchrun started on this machine."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


@contextmanager
def joined(device: str) -> Iterator[Ranks]:
    """Join the other processes if torchrun started several, and leave them at the end.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:i`; with several processes each uses the CUDA device of its local rank.

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
        # Errors after another process ended: of gloo "Connection closed by peer", of nccl "remote process exited".
        if not any(word in str(error) for word in ("peer", "remote process", "Gloo", "NCCL", "Timed out")):
            raise
        raise Interrupted(
            "Another process of this run ended.",
            found=first_line(error),
            fix="its own message says why; then --resume",
        ) from None
    finally:
        dist.destroy_process_group()
