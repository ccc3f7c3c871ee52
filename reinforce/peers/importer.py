"""Importer: write a reinforced dataset from soft labels in another system's format and the images they were made from.

It streams: nothing is unpacked to disk, and only a few samples are in memory at a time. One rename at the end makes the
output visible.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np

from reinforce.errors import ImageError, StoreError
from reinforce.files import Progress, check_output, writing
from reinforce.locks import new_folder
from reinforce.orphan import end_with_parent, interrupts_held
from reinforce.peers.exactness import SAMPLES, Apart, compare, summary
from reinforce.peers.places import Matched
from reinforce.peers.reader import Reader, reading
from reinforce.settings import Settings, SourceInfo, TeacherInfo
from reinforce.sources.source import Source, check_outside, index_sha256
from reinforce.store.block import Block, BlockData, block_path, write_block
from reinforce.store.completion import write_manifest
from reinforce.store.label_means import LabelSums, sums_of
from reinforce.store.listed import check_list_fits
from reinforce.store.manifest import Manifest
from reinforce.store.partners import check_partners
from reinforce.store.probes import environment
from reinforce.store.samples import Samples
from reinforce.teachers.class_map import imagenet_wnids
from reinforce.views.decode import decode
from reinforce.views.layout import pixel_spec
from reinforce.views.params import Field
from reinforce.views.status import Status
from reinforce.views.workers import affordable

BLOCK_SIZE = 512


class _Done(NamedTuple):
    """One sample, ready to be stored."""

    status: Status
    reason: str | None
    sha256: bytes
    crc32c: int
    width_height: tuple[int, int]
    params: np.ndarray | None
    record: bytes
    apart: Apart | None = None


class _Work(NamedTuple):
    source: Source
    reader: Reader

    def __call__(self, position: int, content: bytes) -> _Done:
        digest, crc = bytes(32), 0
        try:
            encoded = self.source.read(position)
            digest, crc = hashlib.sha256(encoded).digest(), google_crc32c.value(encoded)
            image = decode(encoded)
            height, width = image.shape[:2]
        except OSError as error:
            return _Done(Status.MISSING, f"{error.strerror or error}", digest, crc, (0, 0), None, b"")
        except ImageError as error:
            return _Done(Status.CORRUPT, error.what, digest, crc, (0, 0), None, b"")
        try:
            with reading():
                views = self.reader.parse(content, width, height)
        except StoreError as error:
            error.args = (f"{error.args[0]}\n  sample:       {self.source.keys[position]}",)
            raise
        number, rest = divmod(position, max(1, len(self.source) // SAMPLES))
        with reading():
            compared = None if rest else compare(self.reader, content, number, encoded, image, views.params)
        return _Done(Status.OK, None, digest, crc, (width, height), views.params, views.record, compared)


class Imported(NamedTuple):
    """What an import made.

    Attributes:
        manifest: The manifest of the new data set.
        without_labels: How many images of the source the files have no labels of; they are missing samples.
        without_image: How many labels were left out because the source has no such image.
        by_number: Whether the files count the images, so that an image too many moves all labels after it.
    """

    manifest: Manifest
    without_labels: int
    without_image: int
    by_number: bool


def import_labels(
    reader: Reader,
    source: Source,
    out: Path,
    workers: int = 1,
    on_progress: Progress = lambda done, total: None,
    skip_missing: bool = False,
) -> Imported:
    """Write a reinforced dataset of imported labels.

    Args:
        reader: Reader of the files.
        source: The images that the labels were made from.
        out: New folder to write.
        workers: Processes that parse; 0: parse in this process.
        on_progress: Called with the number of samples done.
        skip_missing: Leave out labels of images that the source does not have; else they are refused.

    Raises:
        UsageError: `out` is inside of the source.
        StoreError: labels are damaged, or there are two for one image; or there are labels of images that the source does not
            have, or of no image that it has; or `out` holds files.
    """
    check_outside(source, out)
    check_output(out)
    matched = Matched(reader, source, skip_missing)
    with writing(out), new_folder(out) as staging:
        (staging / "blocks").mkdir()
        manifest = _write(matched, staging, _all(matched, workers), on_progress)
        return Imported(manifest, len(source) - int(matched.seen.sum()), matched.without_image, matched.by_number)


def _write(matched: Matched, out: Path, samples: Iterator[tuple[int, _Done]], on_progress: Progress) -> Manifest:
    reader, source = matched.reader, matched.source
    names, labels = _hard_labels(source, reader.num_classes)
    settings = _settings(reader, source, names, labels)
    check_list_fits(settings)
    spec = pixel_spec(settings.policy, settings.size)
    other = spec.column(Field.OTHER)
    table = Samples.empty(source.keys, labels)
    statistics = LabelSums()
    ordered: list[int] = []  # positions in the source, in the order of the samples in the blocks
    data: BlockData | None = None
    apart: list[Apart] = []

    def flush() -> None:
        nonlocal data, statistics
        if data is None:
            return
        number, rows = (len(ordered) - 1) // BLOCK_SIZE, (len(ordered) - 1) % BLOCK_SIZE + 1
        write_block(out, number, _cut(data, rows))
        samples = np.array(ordered[number * BLOCK_SIZE :])
        reader_ = Block(block_path(out, number), rows, settings.views, len(spec.fields), settings.stripe_views)
        table.fill(number, samples, reader_.sample_columns(), reader_.reasons)
        statistics += sums_of(reader_, [labels[s] for s in samples.tolist()], settings)
        data = None

    for position, done in samples:
        row = len(ordered) % BLOCK_SIZE
        data = data or BlockData.empty(BLOCK_SIZE, settings.views, len(spec.fields), settings.stripe_views)
        ordered.append(position)
        if done.params is not None and other is not None:
            done.params[:, other] = matched.places.positions(done.params[:, other])
        _store(data, row, done)
        apart += [done.apart] if done.apart else []
        if row + 1 == BLOCK_SIZE:
            flush()
        on_progress(len(ordered), len(source))
    flush()
    if other is not None:
        check_partners(out, settings, spec, table, np.array(ordered))
    origin = reader.origin.model_copy(update={"replay_error": summary(reader, apart)})
    return write_manifest(out, settings.model_copy(update={"origin": origin}), environment(), table, statistics)


def _hard_labels(source: Source, num_classes: int) -> tuple[list[str], list[int | None]]:
    """Class names and hard labels, numbered like the classes of the soft labels; none if that numbering is not known.

    If the folders are some of ImageNet's classes, named by WordNet id, they get their numbers in the whole of ImageNet.
    """
    names, labels = list(source.class_names), [source.label(i) for i in range(len(source))]
    if len(names) == num_classes or not names:
        return names, labels
    if num_classes == len(all_names := imagenet_wnids()) and set(names) <= set(all_names):
        number = {name: i for i, name in enumerate(all_names)}
        return all_names, [None if label is None else number[names[label]] for label in labels]
    return [], [None] * len(labels)


def _settings(reader: Reader, source: Source, names: list[str], labels: list[int | None]) -> Settings:
    count = reader.num_classes
    info = [
        TeacherInfo(name=t, kwargs={}, weights_sha256=None, num_classes=count, mean=None, std=None, class_map=None)
        for t in reader.teachers
    ]
    about = SourceInfo(
        kind=source.kind,
        num_samples=len(source),
        class_names=names,
        index_sha256=index_sha256(names, source.keys, labels),
    )
    return Settings(
        source=about,
        teachers=info,
        precision="unknown",
        policy=reader.policy,
        size=reader.size,
        views=reader.views,
        seed=0,
        codec=reader.codec.to_dict(),
        stripe_views=reader.views,
        num_classes=count,
        block_size=BLOCK_SIZE,
        origin=reader.origin,
    )


def _all(matched: Matched, workers: int) -> Iterator[tuple[int, _Done]]:
    """Every sample of the source once: first those with labels, in the order of the files, then the others."""
    work, workers = _Work(matched.source, matched.reader), affordable(workers)
    if workers:
        yield from _in_processes(work, iter(matched), workers)
    else:
        yield from ((position, work(position, content)) for position, content in matched)
    for position in np.flatnonzero(~matched.seen).tolist():
        yield position, _Done(Status.MISSING, "no labels were imported for it", bytes(32), 0, (0, 0), None, b"")


def _in_processes(work: _Work, places: Iterator[tuple[int, bytes]], workers: int) -> Iterator[tuple[int, _Done]]:
    with _telling_of_dead_processes(), ProcessPoolExecutor(workers, initializer=_begin, initargs=(work,)) as pool:
        waiting: deque[tuple[int, Future[_Done]]] = deque()
        for position, content in places:
            with interrupts_held():  # the first call starts the processes
                waiting.append((position, pool.submit(_go, position, content)))
            if len(waiting) > 8 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        yield from ((position, future.result()) for position, future in waiting)


@contextmanager
def _telling_of_dead_processes() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise StoreError(
            "A process that parses labels died.",
            found="no answer from it",
            expected="processes that live as long as the import",
            cause="too little memory, or someone who killed it",
            fix="--workers with a lower number; nothing half-written was left",
        ) from None


_work: _Work | None = None


def _begin(work: _Work) -> None:
    global _work
    end_with_parent()
    _work = work


def _go(position: int, content: bytes) -> _Done:
    assert _work is not None
    return _work(position, content)


def _store(data: BlockData, row: int, done: _Done) -> None:
    data.status[row] = done.status
    data.sha256[row], data.crc32c[row] = np.frombuffer(done.sha256, np.uint8), done.crc32c
    data.width_height[row] = done.width_height
    if done.params is None:
        data.reasons[row] = done.reason or ""
        return
    data.params[row] = done.params
    data.set_records(row, [done.record])


def _cut(data: BlockData, rows: int) -> BlockData:
    """The first rows of a block that is not full."""
    arrays = ("params", "probes", "sha256", "crc32c", "width_height", "status", "label_error")
    columns = {name: getattr(data, name)[:rows] for name in arrays}
    return BlockData(**columns, stripe_views=data.stripe_views, records=data.records[:rows], reasons=data.reasons)
