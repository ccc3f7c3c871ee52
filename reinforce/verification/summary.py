"""Summary: the contents of a reinforced dataset, complete or not, as `reinforce inspect` shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reinforce.packs.packed_store import labels_manifest
from reinforce.settings import Settings, read_model
from reinforce.sources.pack_manifest import PACK, Pack
from reinforce.store.block import committed_blocks
from reinforce.store.listing import bytes_per_view
from reinforce.store.store import MANIFEST, Store, read_job, read_manifest, read_small_file


def summarise(root: Path) -> dict[str, Any]:
    """Teacher, policy, views, bytes per view, label statistics and completeness.

    Raises:
        StoreError: not a reinforced dataset.
    """
    if (root / PACK).exists():
        return _summarise_pack(root)
    job = read_job(root)
    if job is not None and not (root / MANIFEST).exists():
        done = len(committed_blocks(root))
        return {"complete": False, **_about(job.settings), "blocks_done": done, "blocks": job.settings.num_blocks}
    manifest = read_manifest(root)
    store = Store(root)
    failed = {store.samples.key(i): reason for i, reason in sorted(store.samples.reasons.items())}
    return {
        "complete": True,
        **_about(manifest.settings),
        "blocks": manifest.settings.num_blocks,
        "blocks_here": len(store.blocks),
        "part_of": manifest.part_of,
        "counts": manifest.counts.model_dump(),
        "not_ok": failed,
        "bytes_per_view": bytes_per_view(root, manifest.files, len(store.ok_samples) * manifest.settings.views),
        "statistics": manifest.statistics.model_dump(),
        "environment": manifest.environment.model_dump(),
    }


def _summarise_pack(root: Path) -> dict[str, Any]:
    pack = read_model(Pack, read_small_file(root / PACK) or b"", PACK)
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
