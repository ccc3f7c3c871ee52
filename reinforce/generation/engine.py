"""Engine: what makes the missing blocks of a reinforced dataset, on whatever there is. Which engines there are: `engines.py`.

The bytes of a block depend on the settings alone, so an engine may make blocks in any order, anywhere, and twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from reinforce.files import Progress
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.teachers.teacher import Teacher


@dataclass(frozen=True)
class Execution:
    """How to run; does not change what is written, except for the batch size within float rounding.

    Attributes:
        batch_size: Views per teacher batch.
        workers: Decoding processes; 0: none beside this one.
        engine: Name of what runs it.
    """

    batch_size: int = 64
    workers: int = 1
    engine: str = "local"


class Work(NamedTuple):
    """What blocks are made from, and where they go."""

    source: Source
    teacher: Teacher
    settings: Settings
    out: Path
    execution: Execution


class Engine(ABC):
    """One way to run stage one.

    Attributes:
        name: What `--engine` takes.
        description: What it is, in a line.
    """

    name: ClassVar[str]
    description: ClassVar[str]

    @abstractmethod
    def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
        """Make and commit blocks.

        Args:
            work: What they are made from, and where they go.
            missing: Their numbers, in order.
            on_progress: Told of samples done and in all; those of blocks that were there count as done.

        Raises:
            ReinforceError: whatever went wrong; what was committed by then stays.
        """
