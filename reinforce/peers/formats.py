"""Formats: the lists of formats that can be imported and of those that can be exported. A new one is one line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from reinforce.errors import UsageError
from reinforce.peers.fkd import FkdReader
from reinforce.peers.fkd_writer import fkd_files, fkd_usage
from reinforce.peers.ml_dr import MlDrReader
from reinforce.peers.ml_dr_files import ml_dr_files
from reinforce.peers.reader import Reader, ReadOptions, reading
from reinforce.peers.relabel import RelabelReader
from reinforce.peers.tinyvit import TinyVitReader
from reinforce.store.label_store import LabelStore

Writer = Callable[[LabelStore, int], Iterator[tuple[str, bytes]]]
"""A function `(store, k)` that yields (name, content) of each file, with the k most probable classes of each view."""

READERS: dict[str, type[Reader]] = {kind.format: kind for kind in (MlDrReader, FkdReader, TinyVitReader, RelabelReader)}
WRITERS: dict[str, Writer] = {"ml-dr": ml_dr_files, "fkd": fkd_files}
USAGES: dict[str, Callable[[Path, int], str]] = {"fkd": fkd_usage}
"""Functions `(out, k)`: the options with which the other project reads files that were written to `out`."""


def open_reader(format_: str, path: Path, given: ReadOptions) -> Reader:
    """The reader of files of a format.

    Raises:
        UsageError: there is no such format, or this variant of it cannot be imported.
        StoreError: there are no files, or they are damaged.
    """
    if format_ not in READERS:
        raise UsageError(f"There is no format {format_!r} to import.", expected=", ".join(READERS))
    with reading():
        return READERS[format_].open(path, given)


def writer_of(format_: str) -> Writer:
    """The function that writes files of a format.

    Raises:
        UsageError: no such format.
    """
    if format_ not in WRITERS:
        raise UsageError(f"There is no format {format_!r} to export.", expected=", ".join(WRITERS))
    return WRITERS[format_]
