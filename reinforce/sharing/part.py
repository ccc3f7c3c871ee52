"""Part: the first views of a reinforced dataset, some of its blocks, or both, as a manifest of its own. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from reinforce.errors import StoreError, UsageError
from reinforce.sharing.bundle import files_by_bundle
from reinforce.sharing.publication import Publication
from reinforce.store.listed import check_listed
from reinforce.store.manifest import Manifest
from reinforce.store.store import MANIFEST, SAMPLES


def check_bundles(manifest: Manifest, publication: Publication) -> None:
    """Check that the publication has exactly one bundle for each block and stripe in the manifest.

    Raises:
        StoreError: it has not, or the manifest does not list what its counts say.
    """
    check_listed(manifest, MANIFEST)
    inside = files_by_bundle(manifest.files)
    listed = [(b.block, b.stripe) for b in publication.bundles]
    if sorted(listed) != sorted(inside):
        raise StoreError(
            "The publication does not fit its manifest.",
            found=f"{len(listed)} bundles for {len(inside)} stripes of blocks",
            expected="one for each",
            fix="tell the publisher",
        )


def part_of(whole: Manifest, digest: str, views: int | None, blocks: Sequence[int] | None) -> Manifest:
    """The manifest of a part; `whole` itself if the part has everything.

    Args:
        whole: The published manifest.
        digest: sha256 of the published manifest's file.
        views: How many, rounded up to whole stripes; None: all.
        blocks: Numbers of blocks; None: all.

    Raises:
        UsageError: the data set does not have these views or blocks.
    """
    settings = whole.settings
    have = list(range(settings.num_blocks)) if whole.blocks is None else whole.blocks
    wanted = have if blocks is None else sorted(set(blocks))
    asked = settings.views if views is None else views
    if not 1 <= asked <= settings.views:
        raise UsageError(f"--views {views} is not possible.", expected=f"1 to {settings.views}, as many as are stored")
    if not set(wanted) <= set(have) or not wanted:
        raise UsageError(f"--blocks {blocks} is not possible.", expected=f"numbers from {have[0]} to {have[-1]}")
    stripes = -(-asked // settings.stripe_views)
    come = min(settings.views, stripes * settings.stripe_views)
    if come == settings.views and wanted == have:
        return whole
    inside = files_by_bundle(whole.files)
    names = {f"blocks/{b:06d}.zarr/{n}" for (b, s), files in inside.items() if b in set(wanted) and s < stripes for n in files}
    return whole.model_copy(
        update={
            "settings": settings.model_copy(update={"views": come}),
            "files": {path: sha for path, sha in whole.files.items() if path in names or path == SAMPLES},
            "part_of": whole.part_of or digest,
            "blocks": None if wanted == list(range(settings.num_blocks)) else wanted,
        }
    )
