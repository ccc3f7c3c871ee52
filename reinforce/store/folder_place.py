"""Folder place: a folder in which a reinforced dataset is made; all that write it see the same one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from reinforce.files import check_output, is_lock, remove, write_atomic, write_once, writing
from reinforce.locks import check_not_held, only_writer
from reinforce.settings import Settings, to_json
from reinforce.store.block import Block, BlockData, block_path, committed_blocks, remove_staging, write_block
from reinforce.store.block_notes import NOTES, BlockNotes, keep_notes, note_name, read_notes, remove_notes, take_notes
from reinforce.store.completion import write_manifest
from reinforce.store.manifest import Environment, Job, Manifest
from reinforce.store.place import Made, Place, Planned
from reinforce.store.store import JOB, MANIFEST, read_manifest, read_small_file


class FolderPlace(Place):
    """A folder.

    Args:
        path: It is made if it is absent.
    """

    def __init__(self, path: Path) -> None:
        self.name, self.path = str(path), path.absolute()

    def prepare(self) -> None:
        with writing(self.path):
            check_output(self.path, marks=(MANIFEST, JOB), allowed=("blocks", NOTES))
            (self.path / "blocks").mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self, part: str | None) -> Iterator[None]:
        with writing(self.path):
            if part is None:
                with only_writer(self.path):
                    for path in sorted(self.path.iterdir()):
                        if path.name.startswith(".share-") and is_lock(path.name):
                            check_not_held(self.path, path)
                    yield
            else:
                with only_writer(self.path, self.path / f".share-{part}.lock"):
                    check_not_held(self.path, self.path / ".lock")
                    yield

    @contextmanager
    def finishing(self) -> Iterator[None]:
        with only_writer(self.path):
            yield

    def read(self, name: str) -> bytes | None:
        return read_small_file(self.path / name)

    def write(self, name: str, content: bytes) -> None:
        write_atomic(self.path / name, content)

    def write_once(self, name: str, content: bytes) -> None:
        write_once(self.path / name, content)

    def remove(self, beginning: str) -> None:
        for path in self.path.glob(f"{beginning}*"):
            remove(path)

    def committed(self, settings: Settings) -> set[int]:
        return committed_blocks(self.path)

    def commit(self, planned: Planned, data: BlockData) -> None:
        remove(self.path / note_name(planned.number))  # of a block that was removed since
        write_block(self.path, planned.number, data)
        self._take(planned)

    @contextmanager
    def opened(self, planned: Planned) -> Iterator[Block]:
        yield planned.open(block_path(self.path, planned.number))

    def notes(self, all_planned: Iterable[Planned]) -> Iterator[BlockNotes]:
        for planned in all_planned:
            rows = len(planned.hard_labels)
            yield read_notes(self.path, planned.number, rows) or self._take(planned)

    def _take(self, planned: Planned) -> BlockNotes:
        block = planned.open(block_path(self.path, planned.number))
        notes = take_notes(block, planned.hard_labels, planned.settings)
        keep_notes(self.path, planned.number, notes)
        return notes

    def finish(self, settings: Settings, env: Environment, made: Made) -> Manifest:
        manifest = write_manifest(self.path, settings, env, made.table, made.sums, made.files)
        (self.path / JOB).unlink()
        remove_notes(self.path)
        return manifest

    def manifest(self) -> Manifest | None:
        return read_manifest(self.path) if (self.path / MANIFEST).exists() else None

    def reopen(self, manifest: Manifest) -> None:
        self.write(JOB, to_json(Job(settings=manifest.settings, environment=manifest.environment)).encode())
        (self.path / MANIFEST).unlink()

    def tidy(self, *, complete: bool) -> None:
        if complete:
            (self.path / JOB).unlink(missing_ok=True)  # it is left over if the last run was killed just before its end
            remove_notes(self.path)
        else:
            remove_staging(self.path)
