"""Verify a pack: hashes of its shards (with the images) and of the files beside them, and every sample's params and labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from reinforce.errors import ReinforceError
from reinforce.packs.pack_order import unescaped
from reinforce.packs.packed_store import PackedStore
from reinforce.sources.location import File
from reinforce.sources.pack_folder import missing_shards
from reinforce.sources.pack_manifest import CLASS_NAMES
from reinforce.sources.shards import Shards
from reinforce.sources.source import index_sha256
from reinforce.sources.tar_members import scan
from reinforce.verification.sample_checks import ALL_VIEWS_LIMIT, Check, bad_labels, bad_params
from reinforce.verification.verify import CheckProgress, content_sha256
from reinforce.views.mix import MIX_FIELDS
from reinforce.views.pixels import unmatched


def verify_pack(source: Shards, on_progress: CheckProgress = lambda name, done, total: None) -> list[Check]:
    """Check shards against the `pack.json` beside them, and the samples in them.

    Raises:
        ReinforceError: the pack is too damaged to be opened.
    """
    assert source.pack is not None
    files, members, pack = Check("files"), Check("members"), source.pack.pack
    by_name = {shard.name: shard for shard in pack.shards}
    for path in sorted(pack.files):
        files.add(_failure(partial(source.pack.read, path)))
    for name in missing_shards(source.pack, [file.location for file in source.shards]):
        files.add(f"{name}: missing")
    for done, file in enumerate(source.shards, start=1):
        shard = by_name[file.location.rpartition("/")[2]]
        found = content_sha256(file)
        right = found == shard.sha256
        files.add(None if right else f"{shard.name}: sha256 {found[:16]}..., expected {shard.sha256[:16]}...")
        own = np.flatnonzero(source.places[:, 0] == done - 1).tolist()
        listed = {(source.keys[i], source.label(i), *source.places[i, 1:].tolist()) for i in own}
        inside = _members(file) if right else listed
        members.add(None if inside == listed else f"{shard.name}: the index has other places, keys or labels")
        on_progress("shards", done, len(source.shards))
    if files.failed or pack.labels is None:
        return [files, members]
    store = PackedStore(source)
    table, params, labels = Check("samples"), Check("params"), Check("labels")
    given = [None if label < 0 else label for label in store.samples.labels.tolist()]
    same = index_sha256(store.settings.source.class_names, store.samples.keys, given) == store.settings.source.index_sha256
    absent = pack.num_samples - len(store.ok_samples)
    table.add(f"{absent} images in the shards are no samples with labels" if absent else None)
    table.add(None if same else "keys or labels of the table are not those that the manifest has the hash of")
    names = source.pack.class_names() or []
    table.add(None if names == store.settings.source.class_names else f"{CLASS_NAMES} has other names than the labels")
    every = store.settings.views * len(store.ok_samples) <= ALL_VIEWS_LIMIT
    for done, sample in enumerate(store.ok_samples.tolist(), start=1):
        key, view = store.samples.key(sample), None if every else sample % store.settings.views
        try:
            params.add(bad_params(store, key, store.all_params_of(sample), store.samples.width_height[sample]))
            labels.add(bad_labels(store, key, sample, view))
        except ReinforceError as error:
            params.add(f"{key}: {str(error).splitlines()[0]}")
        on_progress("samples", done, len(store.ok_samples))
    for block in store.blocks if store.settings.policy.mix else []:
        params.add(_failure(partial(_check_pairs, store, block)))
    return [files, members, table, params, labels]


def _members(file: File) -> set[tuple[object, ...]]:
    """Key, label and places of each sample of a shard, by its headers."""
    table = scan(file)
    keys = map(unescaped, table["key"].to_pylist())
    others = (table[name].to_pylist() for name in ("label", "offset", "size", "rein_offset", "rein_size"))
    return set(zip(keys, *others, strict=True))


def _check_pairs(store: PackedStore, block: int) -> None:
    """Check that the pairs beside the shards, which planning an epoch reads, equal those in the samples.

    Raises:
        ReinforceError: they differ.
    """
    samples = store.samples_of(block)
    own = np.flatnonzero(np.isin(samples, store.ok_samples))
    inside = np.stack([store.all_params_of(int(samples[row]))[:, -len(MIX_FIELDS) :] for row in own])  # [rows, V, 6]
    views, stripe_views = store.settings.views, store.settings.stripe_views
    for stripe, first in enumerate(range(0, views, stripe_views)):
        beside = store.pairs_of(block, stripe, range(min(stripe_views, views - first)))
        for view, columns in enumerate(beside, start=first):
            if not np.array_equal(columns[own], inside[:, view]):
                raise unmatched(f"block {block}, view {view}: other pairs beside the shards than in them")


def _failure(call: Callable[[], object]) -> str | None:
    try:
        call()
    except ReinforceError as error:
        return str(error).replace("\n  ", "; ")
    return None
