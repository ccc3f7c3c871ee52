"""Cached: a published data set, or the part of it that is needed, pulled into the cache. From there it is read like any other.

The folder is named after the publication and the part, so parts do not disturb each other, and the same part is fetched once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.compute as pc

from reinforce.errors import BusyError
from reinforce.files import Progress
from reinforce.long_work import long_work
from reinforce.settings import to_json
from reinforce.sharing.part import part_of
from reinforce.sharing.published import published, published_samples
from reinforce.sharing.pull import pull
from reinforce.sources.location import cache_root

_JOBS, _LOOK_EVERY = 8, 0.5
"""Files that are fetched at once, and seconds between two looks at what another process fetches."""


def fetched(
    location: str, *, views: int | None = None, blocks: Sequence[int] | None = None, on_progress: Progress | None = None
) -> Path:
    """The folder in the cache that has a published data set; what is not there yet is fetched, and checked.

    Args:
        location: URL that has `publication.json`.
        views: The first so many views, rounded up to whole stripes; default: all.
        blocks: Numbers of blocks; default: all.
        on_progress: Called with bytes.

    Raises:
        StoreError: a file does not have its published hash or content.
        SourceError: the location cannot be read.
        UsageError: the data set does not have these views or blocks.
        Interrupted: Ctrl-C; what was fetched is kept.
    """
    whole = published(location.rstrip("/"))
    part = part_of(whole.manifest, whole.manifest_sha256, views, blocks)
    name = hashlib.sha256(f"{whole.digest}\n{to_json(part)}".encode()).hexdigest()
    out = cache_root() / "labels" / name[:32]
    out.parent.mkdir(parents=True, exist_ok=True)
    shown = on_progress or long_work("labels", "bytes")
    while True:
        try:
            pull(location, out, views=views, blocks=blocks, jobs=_JOBS, on_progress=shown)
        except BusyError:  # another process of this machine, such as another rank, fetches the same
            time.sleep(_LOOK_EVERY)
        else:
            return out


@contextmanager
def fresh(location: str, on_progress: Progress) -> Iterator[Path]:
    """A folder that has a published data set as it is at its location now; it is removed at the end."""
    labels = cache_root() / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="verify-", dir=labels) as folder:
        out = Path(folder, "labels")
        pull(location, out, jobs=_JOBS, on_progress=on_progress)
        yield out


def with_sample(location: str, key: str) -> Path:
    """As `fetched`, the one block that has a sample; the first block if there is no such sample."""
    place = location.rstrip("/")
    there = published(place)
    table, have = published_samples(place, there), there.manifest.blocks
    block = int(table.block[max(pc.index(table.key_column, key).as_py(), 0)])
    return fetched(location, blocks=[block if have is None or block in have else have[0]])
