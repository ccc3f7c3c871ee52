"""Store: a complete reinforced dataset on disk, opened for reading."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from reinforce.errors import StoreError
from reinforce.files import file_sha256, read_at_most
from reinforce.settings import MAX_BYTES, read_model
from reinforce.store.block import Block, block_path, committed_blocks
from reinforce.store.kept_samples import open_samples
from reinforce.store.label_store import LabelStore
from reinforce.store.listed import check_listed
from reinforce.store.manifest import Job, Manifest
from reinforce.store.stripe import damaged
from reinforce.store.zarr_layout import stripe_array
from reinforce.views.mix import pairs_in
from reinforce.views.pixels import unmatched
from reinforce.views.status import Status

MANIFEST = "manifest.json"
JOB = "job.json"
SAMPLES = "samples.parquet"


class Store(LabelStore):
    """A complete reinforced dataset in a folder of blocks.

    Args:
        root: The directory with `manifest.json`.
        manifest: Its manifest, where neither that file nor the blocks are there yet.

    Raises:
        StoreError: not a reinforced dataset, not complete yet, or damaged; or blocks that the manifest lists are missing.
    """

    def __init__(self, root: str | Path, manifest: Manifest | None = None) -> None:
        root = Path(root)
        if manifest is None:
            manifest = read_manifest(root)
            _check_blocks(root, manifest)
        settings = manifest.settings
        shape = (settings.source.num_samples, settings.block_size, settings.any_order)
        super().__init__(root, manifest, open_samples(root / SAMPLES, *shape))
        self._block = lru_cache(maxsize=None)(self._open_block)  # each one takes a memory map and a few small arrays
        self._probes = lru_cache(maxsize=None)(self._read_probes)  # 2 kB per block, which zarr reads in 2 ms

    def __getstate__(self) -> dict[str, object]:
        # Worker processes that were started by spawn open the store again.
        return {"root": self.root}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

    def _open_block(self, block: int) -> Block:
        rows = len(self.samples_of(block))
        shape = (rows, self.settings.views, len(self.manifest.params_fields), self.settings.stripe_views)
        return Block(block_path(self.root, block), *shape)

    def _read_probes(self, block: int) -> np.ndarray:
        return self.block(block).probes()

    def block(self, block: int) -> Block:
        """A block, opened at first use."""
        return self._block(block)

    @property
    def sha256(self) -> str:
        return file_sha256(self.root / MANIFEST)

    @property
    def ok_samples(self) -> np.ndarray:
        ok = self.samples.status == Status.OK
        return np.flatnonzero(ok if self.manifest.blocks is None else ok & np.isin(self.samples.block, self.blocks))

    @property
    def blocks(self) -> list[int]:
        return list(range(self.settings.num_blocks)) if self.manifest.blocks is None else self.manifest.blocks

    def place_of(self, sample: int) -> tuple[Block, int]:
        """The block of a sample, and its row in it."""
        return self.block(int(self.samples.block[sample])), int(self.samples.row[sample])

    def record(self, sample: int, stripe: int) -> memoryview:
        block, row = self.place_of(sample)
        return block.record(row, stripe)

    def params_of(self, sample: int, view: int) -> np.ndarray:
        block, row = self.place_of(sample)
        params: np.ndarray = block.params_of_view(view)[row]
        return params

    def params_of_stripe(self, samples: np.ndarray, stripe: int) -> np.ndarray:
        params: np.ndarray = self.block(int(self.samples.block[samples[0]])).stripe(stripe).params()[self.samples.row[samples]]
        return params

    def params_of_view(self, block: int, view: int) -> np.ndarray:
        return self.block(block).params_of_view(view)

    def pairs_of_view(self, block: int, view: int) -> np.ndarray:
        pairs = pairs_in(self.params_of_view(block, view), self.spec)
        if pairs is None:
            raise unmatched("a policy that mixes, and params without the columns for it")
        return pairs

    def witness_of(self, sample: int, stripe: int) -> int | None:
        block, row = self.place_of(sample)
        found = block.stripe(stripe).witness
        if found is None:
            name = stripe_array("witness", stripe)
            if f"blocks/{block.path.name}/{name}/zarr.json" in self.manifest.files:
                raise damaged(block.path, f"{name} is missing")
            return None
        return int(found[row])

    def probe_of(self, sample: int) -> int:
        return int(self._probes(int(self.samples.block[sample]))[self.samples.row[sample]])


def _check_blocks(root: Path, manifest: Manifest) -> None:
    """Now, and not in the middle of an epoch."""
    wanted = range(manifest.settings.num_blocks) if manifest.blocks is None else manifest.blocks
    missing = sorted(set(wanted) - committed_blocks(root))
    if missing:
        raise StoreError(
            f"{len(missing)} of {len(wanted)} blocks are missing.",
            found=f"no {block_path(root, missing[0])}",
            cause="an incomplete copy, or a block that was removed",
            fix="copy it again, or run the same `reinforce generate` or `reinforce pull` again: it makes what is missing",
        )


def read_manifest(root: Path) -> Manifest:
    """The manifest of a complete reinforced dataset.

    Raises:
        StoreError: not one, or not complete yet.
    """
    text = read_small_file(root / MANIFEST)
    if text is not None:
        manifest = read_model(Manifest, text, f"{root / MANIFEST}")
        check_listed(manifest, f"{root / MANIFEST}")
        return manifest
    if (root / JOB).is_file():
        raise StoreError(
            f"{root} is not complete yet.",
            found=f"{JOB} and no {MANIFEST}",
            expected="a finished `reinforce generate`",
            cause="generation was interrupted, or is still running",
            fix="run the same `reinforce generate` again: it does the missing blocks only",
        )
    raise StoreError(
        f"{root} is not a reinforced dataset.",
        found="no such folder" if not root.exists() else f"no {MANIFEST}",
        fix="reinforce generate --data SOURCE --teacher NAME --out " + str(root),
    )


def read_job(root: Path) -> Job | None:
    """The `job.json` of an unfinished generation, or None."""
    text = read_small_file(root / JOB)
    return None if text is None else read_model(Job, text, f"{root / JOB}")


def read_small_file(path: Path) -> bytes | None:
    """The content of a JSON file, cut off after `MAX_BYTES` + 1 bytes; None if there is no such file."""
    try:
        return read_at_most(path, MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read.", found=error.strerror, expected="a file") from None
