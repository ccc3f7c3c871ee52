"""Cached: a published data set, or the part of it that is needed, pulled into the cache. From there it is read like any other.

The folder is named after the manifest of the part, so parts do not disturb each other, and the same part is fetched once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pyarrow.compute as pc

from reinforce.errors import BusyError
from reinforce.files import Progress
from reinforce.long_work import long_work
from reinforce.settings import read_model, to_json
from reinforce.sharing.fetch import fetch_small
from reinforce.sharing.part import check_bundles, part_of
from reinforce.sharing.publication import PUBLICATION, Publication
from reinforce.sharing.pull import pull
from reinforce.sources.location import cache_root, exists, is_remote
from reinforce.store.manifest import Manifest
from reinforce.store.samples import Samples
from reinforce.store.store import MANIFEST, SAMPLES

_JOBS, _LOOK_EVERY = 8, 0.5
"""Files that are fetched at once, and seconds between two looks at what another process fetches."""


def is_published(location: str) -> bool:
    """Whether a reinforced dataset was published at a URL; not shards, whose images are read there.

    Raises:
        SourceError: a server that does not answer, or fails.
    """
    return is_remote(location) and not location.endswith(".tar") and exists(f"{location.rstrip('/')}/{PUBLICATION}")


def published(location: str) -> tuple[Publication, Manifest, str]:
    """What was published at a location, its manifest, and the sha256 of the manifest's file.

    Raises:
        StoreError: they do not fit each other.
        SourceError: the location cannot be read.
    """
    place = location.rstrip("/")
    publication = read_model(Publication, fetch_small(f"{place}/{PUBLICATION}", None), PUBLICATION)
    text = fetch_small(f"{place}/{MANIFEST}", publication.files[MANIFEST])
    manifest = read_model(Manifest, text, MANIFEST)
    check_bundles(manifest, publication)
    return publication, manifest, hashlib.sha256(text).hexdigest()


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
    _, whole, digest = published(location)
    part = part_of(whole, digest, views, blocks)
    name = digest if part is whole else hashlib.sha256(to_json(part).encode()).hexdigest()
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


def with_sample(location: str, key: str) -> Path:
    """As `fetched`, the one block that has a sample; the first block if there is no such sample."""
    publication, manifest, _ = published(location)
    settings = manifest.settings
    content = fetch_small(f"{location.rstrip('/')}/{SAMPLES}", publication.files[SAMPLES])
    table = Samples.from_parquet(BytesIO(content), settings.source.num_samples, settings.block_size, settings.any_order)
    found = pc.index(table.key_column, key).as_py()
    return fetched(location, blocks=[int(table.block[max(found, 0)])])
