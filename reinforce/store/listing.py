"""Listing: the files of a store, and how many of its bytes serve which purpose."""

from __future__ import annotations

import os
from pathlib import Path

from reinforce.errors import StoreError
from reinforce.store.store import MANIFEST, SAMPLES

_PARTS = {"records": "labels", "offsets": "labels", "params": "params", "probes": "probes", "witness": "witness"}


def list_files(root: Path) -> list[str]:
    """Paths of the sample table and of all files below `blocks`, relative to `root`, sorted."""
    paths = [SAMPLES]
    for folder, _, names in os.walk(root / "blocks"):
        paths += [Path(folder, name).relative_to(root).as_posix() for name in names]
    return sorted(paths)


def bytes_per_view(root: Path, files: dict[str, str], num_views: int) -> dict[str, float]:
    """Bytes on disk per stored view, by purpose: labels, params, probes, witness, table (of samples), metadata, total.

    Raises:
        StoreError: a file is missing.
    """
    sizes = dict.fromkeys(("labels", "params", "probes", "witness", "table", "metadata"), 0)
    for path in files:
        parts = path.split("/")
        if parts[-1] == "zarr.json":
            part = "metadata"
        else:
            part = _PARTS.get(parts[2].rstrip("_0123456789"), "table") if len(parts) > 2 else "table"
        try:
            sizes[part] += (root / path).stat().st_size
        except OSError as error:
            raise StoreError(f"{path} cannot be read.", found=error.strerror, fix=f"reinforce verify {root}") from None
    sizes["metadata"] += (root / MANIFEST).stat().st_size
    per_view = {name: size / max(1, num_views) for name, size in sizes.items()}
    return per_view | {"total": sum(per_view.values())}
