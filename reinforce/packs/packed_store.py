"""Packed store: a store whose labels and params are in webdataset shards, beside the image of each sample."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from reinforce.errors import ReplayError, StoreError, UsageError
from reinforce.packs.pair_files import PairFiles, mixing_path
from reinforce.packs.rein_file import ReinFile
from reinforce.settings import read_model
from reinforce.sources.column import texts
from reinforce.sources.kept_table import kept_places
from reinforce.sources.pack_folder import PackFolder
from reinforce.sources.pack_manifest import CLASS_NAMES, PACK, Pack
from reinforce.sources.shards import Shards
from reinforce.store.kept_samples import open_samples
from reinforce.store.label_store import LabelStore
from reinforce.store.manifest import Manifest
from reinforce.store.store import SAMPLES
from reinforce.views.status import Status


class PackedStore(LabelStore):
    """Reads labels from shards, as `Store` does from a folder of blocks.

    If only some shards of a pack are given, the store has only their samples.

    Attributes:
        images: The shards.
        positions: Position of each sample in them: int64 `[N]`; -1: it is not there.

    Args:
        source: The shards.

    Raises:
        UsageError: the shards contain no labels.
        StoreError: files beside the shards are damaged, or none of the samples of the pack is in these shards.
    """

    def __init__(self, source: Shards) -> None:
        manifest = None if source.pack is None else labels_manifest(source.pack.pack)
        if source.pack is None or manifest is None:
            raise UsageError(
                f"There are no labels in {source.location}.",
                found="shards with images alone",
                expected="shards that `reinforce pack LABELS --data SOURCE` made",
                fix="--labels DIR",
            )
        self.images: Shards = source
        self.folder: PackFolder = source.pack
        settings = manifest.settings
        table = io.BytesIO(self.folder.read(SAMPLES))
        shape = (settings.source.num_samples, settings.block_size, settings.any_order)
        super().__init__(Path(source.location), manifest, open_samples(table, *shape))
        self._mixes = settings.policy.mix is not None
        self.positions = kept_places(self.samples.key_column, texts(source.keys).array)
        self._pairs = PairFiles(self.folder)
        self._ok_samples = self._present()
        self._blocks: list[int] = np.unique(self.samples.block[self._ok_samples]).tolist()  # a tenth of a second for ImageNet
        self._rein = lru_cache(maxsize=2)(self._read_rein)  # callers ask for label and params of a sample in turn

    def __getstate__(self) -> dict[str, object]:
        return {"source": self.images}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["source"])  # type: ignore[misc]

    def _present(self) -> np.ndarray:
        """Samples with labels whose shards were given; if samples are mixed, only samples of blocks that are complete."""
        ok = self.samples.status == Status.OK
        here = ok & (self.positions >= 0)
        if self._mixes:
            torn = np.unique(self.samples.block[ok & ~here])
            here &= ~np.isin(self.samples.block, torn)
        if not here.any():
            raise StoreError("None of the samples is in these shards.", found=str(self.root), fix="check --data")
        return np.flatnonzero(here)

    @property
    def ok_samples(self) -> np.ndarray:
        return self._ok_samples

    @property
    def blocks(self) -> list[int]:
        return self._blocks

    @property
    def sha256(self) -> str:
        return self.folder.sha256

    def _read_rein(self, sample: int) -> ReinFile:
        key = self.samples.key(sample)
        try:
            rein = ReinFile.parse(self.images.read_rein(int(self.positions[sample])))
        except OSError as error:
            found = error.strerror or error
            raise ReplayError(f"Labels of {key} cannot be read.", found=found, fix="copy the shard again") from None
        told = (rein.views, rein.stripe_views, rein.columns, rein.block, rein.row)
        settings = self.settings
        place = (int(self.samples.block[sample]), int(self.samples.row[sample]))
        if told != (settings.views, settings.stripe_views, len(self.spec.fields), *place):
            raise StoreError(
                f"The .rein of {key} is of another data set.",
                found=f"views, views per stripe, columns, block, row: {told}",
                expected=(settings.views, settings.stripe_views, len(self.spec.fields), *place),
                fix="copy the shard again",
            )
        return rein

    def record(self, sample: int, stripe: int) -> memoryview:
        return self._rein(sample).record(stripe)

    def params_of(self, sample: int, view: int) -> np.ndarray:
        return self._rein(sample).params(view)

    def all_params_of(self, sample: int) -> np.ndarray:
        """Params of all views of one sample: int32 `[V, P]`."""
        return self._rein(sample).all_params()

    def params_of_stripe(self, samples: np.ndarray, stripe: int) -> np.ndarray:
        return np.stack([self._rein(sample).params_of_stripe(stripe) for sample in samples.tolist()])

    def params_of_view(self, block: int, view: int) -> None:
        return None

    def pairs_of_view(self, block: int, view: int) -> np.ndarray:
        stripe, own, _ = self.stripe_of(view)
        return self.pairs_of(block, stripe, [own])[0]

    def probe_of(self, sample: int) -> int:
        return self._rein(sample).probe

    def witness_of(self, sample: int, stripe: int) -> int | None:
        found = self._rein(sample).witness
        return None if found is None else found[stripe]

    def pairs_of(self, block: int, stripe: int, chosen: Sequence[int]) -> list[np.ndarray]:
        """Pairs of some views of a stripe: their params of mixing, int32 `[S, 6]` each.

        Raises:
            StoreError: the file beside the shards is damaged.
            SourceError: the file cannot be read.
        """
        _, _, views = self.stripe_of(stripe * self.settings.stripe_views)
        return self._pairs.read(block, stripe, views, len(self.samples_of(block)), chosen)


def labels_manifest(pack: Pack) -> Manifest | None:
    """The manifest of the labels in a pack's shards; None if the pack has no labels.

    Raises:
        StoreError: the manifest is not valid, or does not fit what the pack lists.
    """
    if pack.labels is None:
        return None
    manifest = read_model(Manifest, json.dumps(pack.labels), f"The labels of {PACK}")
    if fault := _list_fault(pack, manifest):
        raise StoreError(
            f"The labels of {PACK} do not fit its lists.",
            found=fault,
            expected="the samples, classes and pairs of the data set that was packed",
            cause="it was edited, or made to fill the memory",
            fix="get the pack again",
        )
    return manifest


def _list_fault(pack: Pack, manifest: Manifest) -> str | None:
    settings, counts, files = manifest.settings, manifest.counts, pack.files
    known = counts.ok + counts.missing + counts.corrupt
    if known != settings.source.num_samples:
        return f"{known} samples by status, {settings.source.num_samples} in all"
    if pack.num_samples > counts.ok or (manifest.blocks is None and pack.num_samples != counts.ok):
        return f"{pack.num_samples} samples in the shards, {counts.ok} with labels"
    if manifest.files != {SAMPLES: files[SAMPLES]}:
        return f"{len(manifest.files)} files of the labels, or another {SAMPLES} than that of the pack"
    if bool(settings.source.class_names) != (CLASS_NAMES in files):
        return f"{len(settings.source.class_names)} classes, and {'a' if CLASS_NAMES in files else 'no'} {CLASS_NAMES}"
    pairs = [path for path in files if path.startswith("mixing/")]
    blocks = settings.num_blocks if manifest.blocks is None else len(manifest.blocks)
    expected = blocks * settings.num_stripes if settings.policy.mix is not None else 0
    if len(pairs) != expected:
        return f"{len(pairs)} files of pairs, expected {expected}"
    here = range(settings.num_blocks) if manifest.blocks is None else manifest.blocks
    listed = {mixing_path(block, stripe) for block in here for stripe in range(settings.num_stripes)} if pairs else set()
    return f"{min(listed ^ set(pairs))}, in only one of the lists" if listed != set(pairs) else None
