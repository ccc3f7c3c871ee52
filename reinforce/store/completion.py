"""Completion: once all blocks are committed, write the sample table and, last, the manifest."""

from __future__ import annotations

from pathlib import Path

from reinforce.files import file_sha256, write_atomic
from reinforce.settings import Settings, to_json
from reinforce.store.label_means import LabelSums
from reinforce.store.listing import list_files
from reinforce.store.manifest import Counts, Environment, Manifest, is_store_path
from reinforce.store.samples import Samples
from reinforce.store.store import MANIFEST, SAMPLES, Store
from reinforce.views.layout import pixel_spec
from reinforce.views.status import Status


def write_manifest(
    root: Path,
    settings: Settings,
    env: Environment,
    table: Samples,
    statistics: LabelSums,
    known: dict[str, str] | None = None,
) -> Manifest:
    """Write the table and the manifest, and open what was written.

    Args:
        root: The folder with the blocks.
        settings: Settings of the data set.
        env: Versions that it was made with.
        table: The table, a row per sample.
        statistics: Over the labels of all blocks.
        known: Hashes of all files of blocks, if they were taken when these were written; default: they are hashed now.

    Raises:
        StoreError: the written data set cannot be opened.
    """
    write_atomic(root / SAMPLES, table.to_parquet())
    if known is None:
        files = {path: file_sha256(root / path) for path in list_files(root) if is_store_path(path)}
    else:  # a list of a million files takes longer than all else here
        files = {**known, SAMPLES: file_sha256(root / SAMPLES)}
    manifest = manifest_of(settings, env, table, statistics, files)
    write_atomic(root / MANIFEST, to_json(manifest).encode())
    Store(root)
    return manifest


def manifest_of(settings: Settings, env: Environment, table: Samples, statistics: LabelSums, files: dict[str, str]) -> Manifest:
    """The manifest of a complete data set; `files`: sha256 of each file, by its path."""
    return Manifest(
        settings=settings,
        environment=env,
        counts=Counts(**{s.name.lower(): int((table.status == s).sum()) for s in Status}),
        statistics=statistics.means(),
        params_fields=list(pixel_spec(settings.policy, settings.size).fields),
        files=dict(sorted(files.items())),
    )
