"""Engine: makes the missing blocks of a reinforced dataset, on one machine or many. All engines are listed in `engines.py`.

The bytes of a block depend on the settings alone, so an engine may make blocks in any order, anywhere, and twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from reinforce.files import Progress
from reinforce.generation.block_labels import block_samples
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.store.place import Place, Planned
from reinforce.teachers.teacher import Teacher

AS_SUITS = -1
"""Number of decoding processes that each machine chooses for itself."""


@dataclass(frozen=True)
class Execution:
    """How to run. It does not change the data set, except that another batch size may change the last bits of a label.

    Attributes:
        batch_size: Views per teacher batch.
        workers: Decoding processes of each device; 0: none beside the one that runs the teacher; Ray also takes `AS_SUITS`.
        engine: Name of what runs it.
        devices: Torch devices, each with a process of its own, where there are several; `("cpu", "cpu")` are two processes.
            None, or one: the teacher runs in this process, on the device that it is on. With Ray: `auto`, `cpu` or `cuda`,
            once for each process on a device of whichever nodes there are; None: `("auto",)`.
        address: Of a Ray cluster; None: as RAY_ADDRESS says, or else one that is started for this run.
    """

    batch_size: int = 64
    workers: int = 1
    engine: str = "local"
    devices: tuple[str, ...] = ()
    address: str | None = None


Rates = Callable[[dict[str, float]], None]
"""A function that is called with the images per second of each device, by name."""


class Work(NamedTuple):
    """What blocks are made from, and the place where they go; `on_rates` is called before progress is told."""

    source: Source
    teacher: Teacher
    settings: Settings
    place: Place
    execution: Execution
    on_rates: Rates = lambda rates: None

    def planned(self, block: int) -> Planned:
        """One of its blocks."""
        return planned(self.source, self.settings, block)

    def committed(self) -> set[int]:
        """Numbers of the blocks that are there."""
        return self.place.committed(self.settings)


def planned(source: Source, settings: Settings, block: int) -> Planned:
    """A block of the data set that these settings make from this source."""
    return Planned(block, [source.label(s) for s in block_samples(settings, block).tolist()], settings)


class Engine(ABC):
    """One way to run stage one.

    Attributes:
        name: What `--engine` takes.
        description: What it is, in a line.
    """

    name: ClassVar[str]
    description: ClassVar[str]

    def require(self, execution: Execution | None = None) -> None:
        """Refuse to begin where something is missing that it needs; nothing has been written then.

        Args:
            execution: How it is to run; None: not known yet.

        Raises:
            UsageError: an extra is not installed, or what `execution` names is not there.
        """
        return

    @abstractmethod
    def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
        """Make and commit blocks.

        Args:
            work: What they are made from, and where they go.
            missing: Their numbers, in order.
            on_progress: Called with samples done and in all; samples of existing blocks count as done.

        Raises:
            ReinforceError: something went wrong; blocks committed before it stay.
        """
