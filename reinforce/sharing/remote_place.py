"""Remote place: an object store in which a reinforced dataset is made, as the publication that it will be.

A block is put as its bundles, then its notes: with these it counts as committed. An object store shows an object whole or not
at all, so a kill leaves nothing half. `publication.json` comes last. There are no locks: of two jobs that make the same block,
the bundles that came first stay. The notes stay too, as a bundle that is lost can then be made again alone.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import ValidationError

from reinforce.errors import StoreError, UsageError, first_line
from reinforce.files import writing
from reinforce.settings import MAX_BYTES, Settings, to_json
from reinforce.sharing.bundle import files_by_bundle, make_bundle, replace_files
from reinforce.sharing.part import part_of
from reinforce.sharing.preview import VIEWS, preview
from reinforce.sharing.publication import PREVIEW, PUBLICATION, Bundle, Licences, bundle_path, name_of
from reinforce.sharing.publish import Description, put_description
from reinforce.sharing.published import published
from reinforce.sharing.pull import fetch_block
from reinforce.sharing.target import UrlTarget
from reinforce.sources.location import exists, pieces, unreadable
from reinforce.sources.remote_names import names_below
from reinforce.sources.retry import retried
from reinforce.sources.server import file_info
from reinforce.store.block import Block, BlockData, block_path, write_group
from reinforce.store.block_notes import NOTES, BlockNotes, BundleNote, note_name, take_notes
from reinforce.store.completion import manifest_of
from reinforce.store.manifest import Environment, Job, Manifest
from reinforce.store.place import Made, Place, Planned
from reinforce.store.store import JOB, MANIFEST, SAMPLES, Store
from reinforce.views.status import Status

_AT_ONCE, _PREVIEWED = 16, 4
"""Notes that are fetched at once, and blocks whose labels the preview shows."""
_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "memory"}
"""Protocols of stores that show an object whole or not at all."""
_BUNDLE = re.compile(r"blocks/(\d{6})\.(\d{3,5})\.zip")
_NOTE = re.compile(rf"{NOTES}/(\d{{6}})\.json")


def open_place(out: str) -> RemotePlace:
    """The place that a URL names.

    Raises:
        UsageError: one to which blocks cannot be put one by one.
    """
    protocol, _, path = out.partition("://")
    if protocol not in _STORES or not path.strip("/"):
        raise UsageError(
            f"{out} cannot be written to while a data set is made.",
            expected="a folder, or s3://BUCKET/PATH",
            fix="generate into a folder, then `reinforce publish DIR --to hf://datasets/USER/NAME`",
        )
    return RemotePlace(out)


class RemotePlace(Place):
    """A URL that fsspec writes to, such as `s3://bucket/path`.

    Args:
        url: It need not be there yet, but for the bucket.
    """

    resume_blocks: ClassVar[int] = 8  # they are fetched

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")

    def __getstate__(self) -> dict[str, object]:
        return {"name": self.name}  # each process has connections of its own

    @cached_property
    def _target(self) -> UrlTarget:
        return UrlTarget(self.name)

    def prepare(self) -> None:
        there = [name for name in self._names() if not name.startswith(".")]
        if there and not {JOB, PUBLICATION} & set(there):
            raise StoreError(
                f"{self.name} holds other files.",
                found=", ".join(there[:3]),
                expected="nothing, or a data set that was begun there",
                fix="choose another --out",
            )

    @contextmanager
    def locked(self, part: str | None) -> Iterator[None]:
        yield

    @contextmanager
    def finishing(self) -> Iterator[None]:
        yield

    def read(self, name: str) -> bytes | None:
        url = f"{self.name}/{name}"
        try:
            size = retried(lambda: file_info(url), url)["size"]
            if size > MAX_BYTES:
                raise OSError(f"{size} bytes, and at most {MAX_BYTES} are read")
            return b"".join(pieces(url, size))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(url, error) from None

    def write(self, name: str, content: bytes) -> None:
        self._target.put(name, content)

    def write_once(self, name: str, content: bytes) -> None:
        self._target.put_new(name, content)

    def remove(self, beginning: str) -> None:
        for name in self._names(levels=1):
            if name.startswith(beginning):
                self._target.remove(name)

    def committed(self, settings: Settings) -> set[int]:
        names, stripes = self._names(), dict[int, set[int]]()
        noted = {int(found[1]) for found in map(_NOTE.fullmatch, names) if found}
        for found in filter(None, map(_BUNDLE.fullmatch, names)):
            stripes.setdefault(int(found[1]), set()).add(int(found[2]))
        wanted, complete = set(range(settings.num_stripes)), PUBLICATION in names
        return {number for number, there in stripes.items() if there >= wanted and (complete or number in noted)}

    def commit(self, planned: Planned, data: BlockData) -> None:
        number, note = planned.number, note_name(planned.number)
        if exists(f"{self.name}/{note}"):
            if all(exists(f"{self.name}/{bundle_path(number, s)}") for s in range(planned.settings.num_stripes)):
                return  # another job has made it
            self._target.remove(note)  # of a bundle that is lost
        with _scratch() as folder:
            path = block_path(folder, number)
            write_group(path, data)
            notes = take_notes(planned.open(path), planned.hard_labels, planned.settings)
            made = {stripe: make_bundle(path, inside) for stripe, inside in _stripes(number, notes)}
            # What another job has put stays, so that nothing that was listed changes: its device may have rounded otherwise.
            new = [self._target.put_new(bundle_path(number, stripe), content) for stripe, content in made.items()]
            if not all(new):
                made = {stripe: self.read(bundle_path(number, stripe)) or b"" for stripe in made}
                for stripe, inside in _stripes(number, notes):
                    replace_files(made[stripe], inside, path)
                notes = take_notes(planned.open(path), planned.hard_labels, planned.settings)
        bundles = [BundleNote(stripe=s, sha256=_sha256(content), bytes=len(content)) for s, content in made.items()]
        self.write(note, to_json(notes.model_copy(update={"bundles": bundles})).encode())

    @contextmanager
    def opened(self, planned: Planned) -> Iterator[Block]:
        notes = self._note(planned)
        with _scratch() as folder:
            bundles = [Bundle(block=planned.number, **bundle.model_dump()) for bundle in notes.bundles]
            inside = {(planned.number, stripe): files for stripe, files in _stripes(planned.number, notes)}
            fetch_block(self.name, bundles, inside, folder)
            yield planned.open(block_path(folder, planned.number))

    def notes(self, all_planned: Iterable[Planned]) -> Iterator[BlockNotes]:
        rest = iter(all_planned)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            while some := list(islice(rest, 4 * _AT_ONCE)):
                yield from pool.map(self._note, some)

    def _note(self, planned: Planned) -> BlockNotes:
        name = note_name(planned.number)
        try:
            notes = BlockNotes.model_validate_json(self.read(name) or b"")
            if notes.rows == len(planned.hard_labels):
                return notes
            found = f"{notes.rows} samples"
        except ValidationError as error:
            found = first_line(error)
        raise StoreError(
            f"{self.name}/{name} is damaged.",
            found=found,
            expected=f"what is known of a block of {len(planned.hard_labels)} samples",
            cause="it was changed",
            fix="remove it, and run the same command again: that block is made again",
        )

    def finish(self, settings: Settings, env: Environment, made: Made) -> Manifest:
        table = made.table.to_parquet()
        manifest = manifest_of(settings, env, made.table, made.sums, {**made.files, SAMPLES: _sha256(table)})
        bundles = [Bundle(block=number, **bundle.model_dump()) for number, bundle in made.bundles]
        text = to_json(manifest).encode()
        readable = np.unique(made.table.block[made.table.status == Status.OK])
        chosen = readable[np.arange(_PREVIEWED) * len(readable) // _PREVIEWED]
        part = part_of(manifest, _sha256(text), min(VIEWS, settings.views), chosen.tolist())
        shown = self._preview(part, table, bundles)
        description = Description(name_of(self.name), Licences(), self.name, bundles)
        put_description(self._target, description, manifest, {MANIFEST: text, SAMPLES: table, PREVIEW: shown})
        self._target.remove(JOB)
        return manifest

    def _preview(self, part: Manifest, table: bytes, bundles: list[Bundle]) -> bytes:
        """The preview of a part, whose blocks are fetched and opened: what was put can be read."""
        inside = files_by_bundle(part.files)
        with _scratch() as folder:
            (folder / MANIFEST).write_text(to_json(part))
            (folder / SAMPLES).write_bytes(table)
            for number in sorted({block for block, _ in inside}):
                own = [b for b in bundles if b.block == number and (number, b.stripe) in inside]
                fetch_block(self.name, own, inside, folder)
            return preview(Store(folder))

    def manifest(self) -> Manifest | None:
        return published(self.name).manifest if exists(f"{self.name}/{PUBLICATION}") else None

    def reopen(self, manifest: Manifest) -> None:
        names = set(self._names())
        if not all(note_name(number) in names for number in self.committed(manifest.settings)):
            raise StoreError(
                f"{self.name} is complete, but bundles are missing.",
                found=f"no {NOTES}, without which all blocks would have to be made again",
                cause="it was published from a folder, and bundles were removed",
                fix="publish it again from that folder, or choose another --out",
            )
        self.write(JOB, to_json(Job(settings=manifest.settings, environment=manifest.environment)).encode())
        self._target.remove(PUBLICATION)

    def tidy(self, *, complete: bool) -> None:
        if complete:
            self._target.remove(JOB)
        else:
            for name in self._names(levels=1):
                if name.startswith(".") and name.endswith(".partial"):
                    self._target.remove(name)

    def _names(self, levels: int | None = None) -> list[str]:
        try:
            return names_below(self.name, levels)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unreadable(self.name, error) from None


@contextmanager
def _scratch() -> Iterator[Path]:
    root = Path(tempfile.gettempdir())
    with writing(root), tempfile.TemporaryDirectory(prefix="reinforce-") as folder:
        Path(folder, "blocks").mkdir()
        yield Path(folder)


def _stripes(number: int, notes: BlockNotes) -> list[tuple[int, dict[str, str]]]:
    """The files of each stripe of a block, with their hashes."""
    block = block_path(Path(), number).as_posix()
    found = files_by_bundle({f"{block}/{name}": sha256 for name, sha256 in notes.files.items()})
    return [(stripe, inside) for (_, stripe), inside in sorted(found.items())]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
