"""Kept table: a table that was read and checked once, in the cache as a file that processes map into their memory.

Whoever opens the same data set next, another process of torchrun or tomorrow's run, neither reads nor checks it again, and all
processes of a machine share one copy of it. A file is never changed, since its name is a hash of what it was made from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa

from reinforce.files import writing_once
from reinforce.sources.column import find, give_back
from reinforce.sources.location import cache_root

LEAST_ROWS = 50_000
"""Smaller tables are not kept: to read one again takes less than a tenth of a second."""

_PLACES = pa.schema([pa.field("place", pa.int64())])


def kept_table(made_from: str, schema: pa.Schema, make: Callable[[], pa.RecordBatch]) -> pa.RecordBatch:
    """The table that `make` returns, or the same from the cache.

    Args:
        made_from: Text that differs between any two tables: kind and version of the table, and hashes of what it is made from.
        schema: Of the table.
        make: Reads and checks it.

    Returns:
        The table. Its memory is read-only.
    """
    path = cache_root() / "tables" / f"{hashlib.sha256(made_from.encode()).hexdigest()}.arrow"
    found = _mapped(path, schema)
    if found is not None:
        return found
    made = make()
    if len(made) < LEAST_ROWS:
        return made
    with suppress(OSError):  # not cached: it is made again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        # Processes that begin at the same time all make the table; the first one's file stays, so that they share one.
        with writing_once(path) as temporary, pa.ipc.new_file(os.fspath(temporary), schema) as writer:
            writer.write_batch(made)
    found = _mapped(path, schema)
    if found is None:
        return made
    del made
    give_back()
    return found


def kept_places(wanted: pa.StringArray, items: pa.StringArray) -> np.ndarray:
    """Like `find`, but from the cache where the same texts were looked for before."""
    if max(len(wanted), len(items)) < LEAST_ROWS or wanted.equals(items):
        return find(wanted, items)
    about = [hashlib.sha256(), hashlib.sha256()]
    for digest, texts in zip(about, (wanted, items), strict=True):
        ends = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :][: len(texts) + 1]
        digest.update((ends - ends[0]).data)
        digest.update(np.frombuffer(texts.buffers()[2], np.uint8)[ends[0] : ends[-1]].data)

    def make() -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([pa.array(find(wanted, items))], schema=_PLACES)

    made_from = " ".join(["places-1", *(digest.hexdigest() for digest in about)])
    places: np.ndarray = kept_table(made_from, _PLACES, make)["place"].to_numpy()
    return places


def _mapped(path: Path, schema: pa.Schema) -> pa.RecordBatch | None:
    try:
        with pa.memory_map(os.fspath(path)) as file, pa.ipc.open_file(file) as reader:
            if reader.num_record_batches != 1 or not reader.schema.equals(schema):
                return None
            table = reader.get_batch(0)
        table.validate(full=True)
    except (OSError, pa.ArrowException):
        return None
    return table
