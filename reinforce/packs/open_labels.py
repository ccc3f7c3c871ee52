"""Open labels: opens params and soft labels, either in a folder of blocks or in shards that have them beside their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from reinforce.errors import SourceError, StoreError
from reinforce.packs.packed_store import PackedStore
from reinforce.sources.column import texts
from reinforce.sources.kept_table import kept_places
from reinforce.sources.open_source import open_source
from reinforce.sources.pack_manifest import PACK
from reinforce.sources.shards import Shards
from reinforce.sources.source import Source
from reinforce.store.label_store import LabelStore
from reinforce.store.store import MANIFEST, Store


def open_labels(labels: str | Path, source: Source | None = None) -> LabelStore:
    """Open the value of `--labels`: a reinforced dataset, or shards that contain labels.

    Args:
        labels: A folder, a pattern of shards, or a URL of them.
        source: The images, if they are already open; used instead of opening the shards again if they are the same shards.

    Raises:
        StoreError: neither of the two, not complete, or damaged.
    """
    text = str(labels)
    if Path(text).is_dir() and (Path(text) / MANIFEST).exists():
        return Store(text)
    if source is not None and source.location == text and source.has_labels:
        return packed(source)
    if text.endswith(".tar") or "://" in text or text.startswith("wds:") or list(Path(text).glob("*.tar")):
        return packed(open_source(text))
    return Store(text)


def open_pack(root: Path) -> Shards | None:
    """The shards in a folder that `reinforce pack` wrote; None if the folder has no `pack.json`. Some may be missing."""
    if not (root / PACK).is_file():
        return None
    return Shards.open_some(f"{root}/*.tar")


def packed(source: Source) -> PackedStore:
    """The labels in shards.

    Raises:
        StoreError: the source is not shards.
        UsageError: the shards contain no labels.
    """
    if not isinstance(source, Shards):
        raise StoreError(f"{source.location} has no labels.", expected="labels, or shards with labels", fix="--labels DIR")
    return PackedStore(source)


def match_keys(store: LabelStore, source: Source, samples: np.ndarray) -> np.ndarray:
    """Position in `source` of each of the store's `samples`, found by key: int64 `[n]`.

    Raises:
        SourceError: one of the samples is not in the source.
    """
    found = find_keys(store, source, samples)
    absent = samples[found < 0]
    if len(absent):
        raise SourceError(
            f"{len(absent)} of {len(samples)} samples with labels are not in {source.location}.",
            found=f"no image with the key {store.samples.key(absent[0])!r}",
            expected="the images the data set was generated from",
            cause="another folder, or another level of it",
            fix="check --data: keys are paths below it, without the suffix",
        )
    return found


def find_keys(store: LabelStore, source: Source, samples: np.ndarray) -> np.ndarray:
    """Position in `source` of each of the store's `samples`, found by key: int64 `[n]`; -1: it is not there."""
    if isinstance(store, PackedStore) and source is store.images:
        places: np.ndarray = store.positions[samples]
        return places
    return kept_places(store.samples.key_column.take(pa.array(samples)), texts(source.keys).array)
