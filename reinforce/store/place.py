"""Place: where a reinforced dataset is made. A folder (`folder_place.py`), or an object store (`sharing/remote_place.py`).

Several processes, on several machines, may put blocks into one place; each opens it by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar, NamedTuple

from reinforce.settings import Settings, read_model
from reinforce.store.block import Block, BlockData
from reinforce.store.block_notes import BlockNotes, BundleNote
from reinforce.store.label_means import LabelSums
from reinforce.store.manifest import Environment, Job, Manifest
from reinforce.store.samples import Samples
from reinforce.store.store import JOB
from reinforce.views.layout import pixel_spec


class Planned(NamedTuple):
    """A block of a data set, made or to be made.

    Attributes:
        number: Its number.
        hard_labels: Of its samples, row by row.
        settings: Settings of the data set.
    """

    number: int
    hard_labels: list[int | None]
    settings: Settings

    def open(self, path: Path) -> Block:
        """The block, which is in this folder."""
        columns = len(pixel_spec(self.settings.policy, self.settings.size).fields)
        return Block(path, len(self.hard_labels), self.settings.views, columns, self.settings.stripe_views)


class Made(NamedTuple):
    """A whole data set but for its last files: what the notes of all blocks say."""

    table: Samples
    sums: LabelSums
    files: dict[str, str]
    bundles: list[tuple[int, BundleNote]]


class Place(ABC):
    """Where a data set is made.

    Attributes:
        name: As the user gave it.
        resume_blocks: How many blocks are looked at before a run is resumed.
    """

    name: str
    resume_blocks: ClassVar[int] = 64

    @abstractmethod
    def prepare(self) -> None:
        """Make it ready to be written.

        Raises:
            StoreError: it holds something else, or cannot be written.
        """

    @abstractmethod
    def locked(self, part: str | None) -> AbstractContextManager[None]:
        """Keep others from writing the same; `part`: of a share of the blocks alone.

        Raises:
            BusyError: another process writes it, as far as the place can tell.
            StoreError: within, for errors of the file system.
        """

    @abstractmethod
    def finishing(self) -> AbstractContextManager[None]:
        """As `locked`, for the last files alone, beside jobs that have a share."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """A small file; None: it is not there."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write a small file; readers see all of it or nothing."""

    @abstractmethod
    def write_once(self, name: str, content: bytes) -> None:
        """As `write`, unless it is there."""

    @abstractmethod
    def remove(self, beginning: str) -> None:
        """Remove the small files whose names begin so."""

    @abstractmethod
    def committed(self, settings: Settings) -> set[int]:
        """Numbers of the blocks that are there, whole."""

    @abstractmethod
    def commit(self, planned: Planned, data: BlockData) -> None:
        """Put a block: others see all of it or nothing. One that is there stays."""

    @abstractmethod
    def opened(self, planned: Planned) -> AbstractContextManager[Block]:
        """Read a committed block."""

    @abstractmethod
    def notes(self, all_planned: Iterable[Planned]) -> Iterator[BlockNotes]:
        """What is known of each of these committed blocks."""

    @abstractmethod
    def finish(self, settings: Settings, env: Environment, made: Made) -> Manifest:
        """Write the last files; from then on the data set is complete."""

    @abstractmethod
    def manifest(self) -> Manifest | None:
        """The manifest, if the data set is complete."""

    @abstractmethod
    def reopen(self, manifest: Manifest) -> None:
        """Make a complete data set an unfinished one, since blocks of it are lost."""

    @abstractmethod
    def tidy(self, *, complete: bool) -> None:
        """Remove what killed writers left; `complete`: and what is needed until the data set is complete."""

    def job(self) -> Job | None:
        """With which settings it was begun; None: it was not."""
        text = self.read(JOB)
        return None if text is None else read_model(Job, text, f"{self.name.rstrip('/')}/{JOB}")
