"""Summary: the contents of a reinforced dataset, complete or not, as `reinforce inspect` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reinforce.packs.packed_store import labels_manifest
from reinforce.settings import Settings, read_model
from reinforce.sharing.fetch import published_pack
from reinforce.sharing.published import published, published_samples
from reinforce.sharing.remote_place import RemotePlace
from reinforce.sources.location import is_remote
from reinforce.sources.pack_manifest import PACK, Pack
from reinforce.store.block import committed_blocks
from reinforce.store.listing import bytes_per_view
from reinforce.store.manifest import Job, Manifest
from reinforce.store.samples import Samples
from reinforce.store.store import MANIFEST, SAMPLES, Store, read_job, read_manifest, read_small_file


def summarise(given: str | Path) -> dict[str, Any]:
    """Teacher, policy, views, bytes per view, label statistics and completeness.

    Args:
        given: A folder, or a URL at which a data set is published, or made; of that, no labels are read.

    Raises:
        StoreError: not a reinforced dataset.
        SourceError: the URL cannot be read.
    """
    if is_remote(str(given)):
        return _summarise_remote(str(given).rstrip("/"))
    root = Path(given)
    if (root / PACK).exists():
        return _summarise_pack(read_small_file(root / PACK) or b"")
    job = read_job(root)
    if job is not None and not (root / MANIFEST).exists():
        return _unfinished(job, len(committed_blocks(root)))
    manifest = read_manifest(root)
    store = Store(root)
    sizes = bytes_per_view(root, manifest.files, len(store.ok_samples) * manifest.settings.views)
    return _complete(manifest, store.samples, sizes)


def _summarise_remote(url: str) -> dict[str, Any]:
    if (text := published_pack(url)) is not None:
        return _summarise_pack(text)
    place = RemotePlace(url)
    if place.manifest() is None and (job := place.job()) is not None:
        return _unfinished(job, len(place.committed(job.settings)))
    there = published(url)
    manifest, files = there.manifest, there.publication.files
    bytes_ = {"bundles": sum(b.bytes for b in there.publication.bundles), "table": files[SAMPLES].bytes}
    bytes_["metadata"] = files[MANIFEST].bytes
    views = max(1, manifest.counts.ok * manifest.settings.views)
    sizes = {name: size / views for name, size in bytes_.items()} | {"total": sum(bytes_.values()) / views}
    return _complete(manifest, published_samples(url, there), sizes)


def _unfinished(job: Job, done: int) -> dict[str, Any]:
    return {"complete": False, **_about(job.settings), "blocks_done": done, "blocks": job.settings.num_blocks}


def _complete(manifest: Manifest, samples: Samples, sizes: dict[str, float]) -> dict[str, Any]:
    settings = manifest.settings
    return {
        "complete": True,
        **_about(settings),
        "blocks": settings.num_blocks,
        "blocks_here": settings.num_blocks if manifest.blocks is None else len(manifest.blocks),
        "part_of": manifest.part_of,
        "counts": manifest.counts.model_dump(),
        "not_ok": {samples.key(i): reason for i, reason in sorted(samples.reasons.items())},
        "bytes_per_view": sizes,
        "statistics": manifest.statistics.model_dump(),
        "environment": manifest.environment.model_dump(),
    }


def _summarise_pack(text: bytes) -> dict[str, Any]:
    pack = read_model(Pack, text, PACK)
    about: dict[str, Any] = {"pack": True, "shards": len(pack.shards), "samples": pack.num_samples, "resize": pack.resize}
    about["bytes"] = sum(shard.bytes for shard in pack.shards)
    manifest = labels_manifest(pack)
    if manifest is None:
        return about | {"labels": None}
    labels = {**_about(manifest.settings), "statistics": manifest.statistics.model_dump()}
    return about | {"labels": labels | {"sha256": pack.labels_sha256}}


def _about(settings: Settings) -> dict[str, Any]:
    return {
        "teachers": [t.model_dump() for t in settings.teachers],
        "policy": str(settings.policy),
        "size": settings.size,
        "views": settings.views,
        "samples": settings.source.num_samples,
        "classes": settings.num_classes,
        "labelled": bool(settings.source.class_names),
        "codec": settings.codec,
        "seed": settings.seed,
        "precision": settings.precision,
        "origin": None if settings.origin is None else settings.origin.model_dump(),
    }
