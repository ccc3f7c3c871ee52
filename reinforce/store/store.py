"""Store: a complete reinforced dataset on disk, opened for reading."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from reinforce.errors import StoreError
from reinforce.files import file_sha256
from reinforce.labels.codec import decode_stripes
from reinforce.labels.codec_names import codec_from_dict
from reinforce.labels.label_map import LabelMap, MapCodec
from reinforce.labels.sparse import SparseLabel
from reinforce.settings import MAX_BYTES, read_model
from reinforce.store.block import Block, block_path
from reinforce.store.manifest import Job, Manifest
from reinforce.store.samples import Samples
from reinforce.views.layout import pixel_spec
from reinforce.views.status import Status

MANIFEST = "manifest.json"
JOB = "job.json"
SAMPLES = "samples.parquet"


class Store:
    """A complete reinforced dataset.

    `reads_ahead`: the params of a view are read for a whole block at once.

    Args:
        root: The directory with `manifest.json`.

    Raises:
        StoreError: not a reinforced dataset, not complete yet, or damaged.
    """

    reads_ahead = True

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.manifest = read_manifest(self.root)
        self.settings = self.manifest.settings
        self.codec = codec_from_dict(self.settings.codec)
        spec = pixel_spec(self.settings.policy, self.settings.size)
        self.spec = replace(spec, fields=tuple(self.manifest.params_fields))
        num_samples, dealt = self.settings.source.num_samples, self.settings.is_dealt
        self.samples = Samples.from_parquet(self.root / SAMPLES, num_samples, self.settings.block_size, dealt)
        self._order = np.argsort(self.samples.block * self.settings.block_size + self.samples.row)
        self._block = lru_cache(maxsize=None)(self._open_block)  # a memory map and a few small arrays each

    def __getstate__(self) -> dict[str, object]:
        # Worker processes started by spawn open the store again.
        return {"root": self.root}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

    def _open_block(self, block: int) -> Block:
        rows = len(self.samples_of(block))
        shape = (rows, self.settings.views, len(self.manifest.params_fields), self.settings.record_views)
        return Block(block_path(self.root, block), *shape)

    def block(self, block: int) -> Block:
        """A block, opened at first use."""
        return self._block(block)

    def samples_of(self, block: int) -> np.ndarray:
        """Indices of the samples of a block, row by row: int64 `[S]`."""
        size = self.settings.block_size
        return self._order[block * size : (block + 1) * size]

    @property
    def sha256(self) -> str:
        """Of the manifest."""
        return file_sha256(self.root / MANIFEST)

    @property
    def ok_samples(self) -> np.ndarray:
        """Indices of the samples that have labels here: int64 `[n]`."""
        ok = self.samples.status == Status.OK
        return np.flatnonzero(ok if self.manifest.blocks is None else ok & np.isin(self.samples.block, self.blocks))

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks that are here."""
        return list(range(self.settings.num_blocks)) if self.manifest.blocks is None else self.manifest.blocks

    def place_of(self, sample: int) -> tuple[Block, int]:
        """The block of a sample, and its row in it."""
        return self.block(int(self.samples.block[sample])), int(self.samples.row[sample])

    def params_of(self, sample: int, view: int) -> np.ndarray:
        """Params of one view of one sample: int32 `[P]`."""
        block, row = self.place_of(sample)
        return block.params_of_view(view)[row]

    def view_columns(self, block: int, view: int) -> np.ndarray:
        """Params of one view of all samples of a block: int32 `[S, P]`."""
        return self.block(block).params_of_view(view)

    def probe_of(self, sample: int) -> int:
        """CRC-32 of the pixels of the probed view of a sample."""
        block, row = self.place_of(sample)
        return int(block.probes()[row])

    def labels_of(self, sample: int) -> list[SparseLabel]:
        """Sparse soft labels of all views of one sample."""
        block, row = self.place_of(sample)
        records, settings = (stripe.record(row) for stripe in block.stripes), self.settings
        return decode_stripes(self.codec, records, settings.views, settings.num_classes, settings.record_views)

    def map_of(self, sample: int) -> LabelMap:
        """The label map of one sample, where `settings.has_maps`."""
        assert isinstance(self.codec, MapCodec)
        block, row = self.place_of(sample)
        return self.codec.read(block.record(row), self.settings.num_classes)

    def label_of(self, sample: int, view: int) -> SparseLabel:
        """Sparse soft label of one view of one sample."""
        block, row = self.place_of(sample)
        number, own = divmod(view, self.settings.record_views)
        stripe = block.stripe(number)
        return self.codec.decode(stripe.record(row), own, stripe.shape[1], self.settings.num_classes)


def read_manifest(root: Path) -> Manifest:
    """The manifest of a complete reinforced dataset.

    Raises:
        StoreError: not one, or not complete yet.
    """
    text = read_small_file(root / MANIFEST)
    if text is not None:
        return read_model(Manifest, text, f"{root / MANIFEST}")
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
    """What an unfinished generation left, or None."""
    text = read_small_file(root / JOB)
    return None if text is None else read_model(Job, text, f"{root / JOB}")


def read_small_file(path: Path) -> bytes | None:
    """The content of a JSON file, at most `MAX_BYTES` and one; None where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{path} cannot be read.", found=error.strerror, expected="a file") from None
