"""Listed: compares the counts of a manifest with the files that it lists, before anything of the size of a count is made.

A manifest of a kilobyte can speak of two billion samples; a list of their blocks would fill the memory.
"""

from __future__ import annotations

from functools import lru_cache

from reinforce.errors import StoreError, UsageError
from reinforce.settings import MAX_BYTES, Settings, to_json
from reinforce.store.manifest import Manifest
from reinforce.store.zarr_layout import ARRAYS, STRIPE_ARRAYS, stripe_array

MAX_BLOCKS = 1_000_000
"""Their numbers have six digits."""
_BESIDE_BYTES = 1 << 16  # counts, statistics and the like


def check_listed(manifest: Manifest, name: str) -> None:
    """Check that a manifest lists the files of its blocks and stripes, all of them and no others.

    Args:
        manifest: Of a data set in blocks; that of the labels in a pack lists no blocks.
        name: Name of the manifest in error messages.

    Raises:
        StoreError: it does not, or its samples by status are not all its samples.
    """
    fault = _fault(manifest)
    if fault is not None:
        raise StoreError(
            f"{name} is not valid.",
            found=fault,
            expected="counts that fit each other, and every file of every block",
            cause="it was edited, or made to fill the memory",
            fix="get the data set again",
        )


def check_list_fits(settings: Settings) -> None:
    """Refuse settings whose manifest could not be read again, before anything is made.

    Raises:
        UsageError: too many files of blocks would be listed, or there are more blocks than they have names for.
    """
    required, optional = _files_of_block(settings.num_stripes)
    line = '    "blocks/000000.zarr/": "",\n'
    each = sum(len(line) + len(name) + 64 for name in required | optional)
    room = MAX_BYTES - len(to_json(settings)) - _BESIDE_BYTES
    most = min(MAX_BLOCKS, max(1, room // each))
    if settings.num_blocks > most:
        raise UsageError(
            "The manifest would be too large.",
            found=f"{settings.num_blocks} blocks of {settings.block_size} samples, {len(required | optional)} files in each",
            expected=f"at most {most} blocks, whose hashes fit in a file of {MAX_BYTES:,} bytes",
            fix=f"--block-size {-(-settings.source.num_samples // most)}, or more views per stripe (--stripe-views)",
        )


def _fault(manifest: Manifest) -> str | None:
    settings, counts = manifest.settings, manifest.counts
    known = counts.ok + counts.missing + counts.corrupt
    if known != settings.source.num_samples:
        return f"{known} samples by status, {settings.source.num_samples} in all"
    here = settings.num_blocks if manifest.blocks is None else len(manifest.blocks)
    stripes, found = settings.num_stripes, _by_block(manifest.files)
    if len(found) != here or stripes > len(manifest.files):
        return f"files of {len(found)} blocks for {here} blocks of {stripes} stripes"
    required, optional = _files_of_block(stripes)
    for number in range(here) if manifest.blocks is None else manifest.blocks:
        names = found.get(number, set())
        if not required <= names <= required | optional:
            odd = min((required - names) | (names - required - optional))
            return f"blocks/{number:06d}.zarr/{odd} is {'one too many' if odd in names else 'not listed'}"
    return None


def _by_block(files: dict[str, str]) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for path in files:
        if path.startswith("blocks/"):
            _, block, name = path.split("/", 2)
            found.setdefault(int(block[:6]), set()).add(name)
    return found


@lru_cache(maxsize=8)
def _files_of_block(stripes: int) -> tuple[set[str], set[str]]:
    """The files that a block must have, and those that it may have."""
    arrays = dict(ARRAYS)
    optional = _files_of_array("crc32c", arrays.pop("crc32c"))  # older writers did not write it
    for stripe in range(stripes):
        arrays |= {stripe_array(name, stripe): ndim for name, ndim in STRIPE_ARRAYS.items()}
        optional |= _files_of_array(stripe_array("witness", stripe), 1)
    return {"zarr.json"}.union(*(_files_of_array(name, ndim) for name, ndim in arrays.items())), optional


def _files_of_array(name: str, ndim: int) -> set[str]:
    return {f"{name}/zarr.json", f"{name}/c/{'/'.join('0' * ndim)}"}
