"""Summary: what is in a reinforced dataset, complete or not, as `reinforce inspect` says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reinforce.sources.pack_manifest import PACK, Pack
from reinforce.store.block import committed_blocks
from reinforce.store.manifest import Settings, read_model
from reinforce.store.store import MANIFEST, Store, read_job, read_manifest

_PARTS = {"records": "labels", "offsets": "labels", "params": "params", "probes": "probes"}


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
    pack = read_model(Pack, (root / PACK).read_bytes(), PACK)
    about: dict[str, Any] = {"pack": True, "shards": len(pack.shards), "samples": pack.num_samples, "resize": pack.resize}
    about["bytes"] = sum(shard.bytes for shard in pack.shards)
    if pack.labels is None:
        return about | {"labels": None}
    labels = {**_about(pack.labels.settings), "statistics": pack.labels.statistics.model_dump()}
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


def bytes_per_view(root: Path, files: dict[str, str], num_views: int) -> dict[str, float]:
    """Bytes on disk per stored view, by what they are for: labels, params, probes, table (of samples), metadata, total."""
    sizes = dict.fromkeys(("labels", "params", "probes", "table", "metadata"), 0)
    for path in files:
        parts = path.split("/")
        if parts[-1] == "zarr.json":
            part = "metadata"
        else:
            part = _PARTS.get(parts[2].rstrip("_0123456789"), "table") if len(parts) > 2 else "table"
        sizes[part] += (root / path).stat().st_size
    sizes["metadata"] += (root / "manifest.json").stat().st_size
    per_view = {name: size / max(1, num_views) for name, size in sizes.items()}
    return per_view | {"total": sum(per_view.values())}
