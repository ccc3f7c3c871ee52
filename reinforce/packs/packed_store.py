"""Packed store: the labels that stand in webdataset shards beside their images, as a store; all of a sample comes with it."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reinforce.errors import ReplayError, StoreError, UsageError
from reinforce.labels.codec import decode_stripes
from reinforce.labels.codec_names import codec_from_dict
from reinforce.labels.label_map import LabelMap, MapCodec
from reinforce.labels.sparse import SparseLabel
from reinforce.packs.columns import decompress_columns, frame_of
from reinforce.packs.rein_file import ReinFile
from reinforce.settings import read_model
from reinforce.sources.pack_folder import PackFolder
from reinforce.sources.pack_manifest import PACK, Pack
from reinforce.sources.shards import Shards
from reinforce.sources.table_guard import guard_table
from reinforce.store.manifest import Manifest
from reinforce.store.samples import Samples
from reinforce.store.store import SAMPLES
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import MIX_FIELDS
from reinforce.views.status import Status


class PackedStore:
    """What `Store` is for a folder of blocks, for shards; of some of the shards, it has the samples that are in them.

    Args:
        source: The shards.

    Raises:
        UsageError: shards without labels in them.
        StoreError: files beside the shards are damaged, or shards with samples that the pack does not have.
    """

    reads_ahead = False

    def __init__(self, source: Shards) -> None:
        manifest = None if source.pack is None else labels_manifest(source.pack.pack)
        if source.pack is None or manifest is None:
            raise UsageError(
                f"There are no labels in {source.location}.",
                found="shards with images alone",
                expected="shards that `reinforce pack LABELS --data SOURCE` made",
                fix="--labels DIR",
            )
        self.source = source
        self.folder: PackFolder = source.pack
        self.root = Path(source.location)
        self.manifest = manifest
        self.settings = self.manifest.settings
        self.codec = codec_from_dict(self.settings.codec)
        spec = pixel_spec(self.settings.policy, self.settings.size)
        self.spec = replace(spec, fields=tuple(self.manifest.params_fields))
        self._mixes = self.settings.policy.mix is not None
        table = io.BytesIO(self.folder.read(SAMPLES))
        guard_table(table, SAMPLES, self.settings.source.num_samples)
        shape = (self.settings.source.num_samples, self.settings.block_size, self.settings.is_dealt)
        self.samples = Samples.from_parquet(table, *shape)
        self._order = np.argsort(self.samples.block * self.settings.block_size + self.samples.row)
        found = pc.index_in(self.samples.key_column, value_set=pa.array(source.keys, pa.string()))
        self._position = found.fill_null(-1).to_numpy().astype(np.int64)
        self.ok_samples = self._present()
        self._rein = lru_cache(maxsize=2)(self._read_rein)  # label and params of a sample are asked for one after the other

    def __getstate__(self) -> dict[str, object]:
        return {"source": self.source}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["source"])  # type: ignore[misc]

    def _present(self) -> np.ndarray:
        """Samples with labels whose shard is here; where samples are mixed, only of blocks that are here whole."""
        ok = self.samples.status == Status.OK
        here = ok & (self._position >= 0)
        if self._mixes:
            torn = np.unique(self.samples.block[ok & ~here])
            here &= ~np.isin(self.samples.block, torn)
        if not here.any():
            raise StoreError("None of the samples is in these shards.", found=str(self.root), fix="check --data")
        return np.flatnonzero(here)

    @property
    def blocks(self) -> list[int]:
        """Numbers of the blocks that have samples here."""
        found: list[int] = np.unique(self.samples.block[self.ok_samples]).tolist()
        return found

    @property
    def sha256(self) -> str:
        """Of `pack.json`."""
        return self.folder.sha256

    def samples_of(self, block: int) -> np.ndarray:
        """Indices of the samples of a block, row by row: int64 `[S]`."""
        size = self.settings.block_size
        return self._order[block * size : (block + 1) * size]

    def _read_rein(self, sample: int) -> ReinFile:
        key = self.samples.key(sample)
        try:
            rein = ReinFile.parse(self.source.read_rein(int(self._position[sample])))
        except OSError as error:
            found = error.strerror or error
            raise ReplayError(f"Labels of {key} cannot be read.", found=found, fix="copy the shard again") from None
        told = (rein.views, rein.record_views, rein.columns, rein.block, rein.row)
        settings = self.settings
        place = (int(self.samples.block[sample]), int(self.samples.row[sample]))
        if told != (settings.views, settings.record_views, len(self.spec.fields), *place):
            raise StoreError(
                f"The .rein of {key} is of another data set.",
                found=f"views, views per record, columns, block, row: {told}",
                expected=(settings.views, settings.record_views, len(self.spec.fields), *place),
                fix="copy the shard again",
            )
        return rein

    def params_of(self, sample: int, view: int) -> np.ndarray:
        """Params of one view of one sample: int32 `[P]`."""
        return self._rein(sample).params(view)

    def all_params_of(self, sample: int) -> np.ndarray:
        """Params of all views of one sample: int32 `[V, P]`."""
        return self._rein(sample).all_params()

    def probe_of(self, sample: int) -> int:
        """CRC-32 of the pixels of the probed view of a sample."""
        return self._rein(sample).probe

    def labels_of(self, sample: int) -> list[SparseLabel]:
        """Sparse soft labels of all views of one sample."""
        rein, settings = self._rein(sample), self.settings
        records = (record for _, record in rein.parts)
        return decode_stripes(self.codec, records, settings.views, settings.num_classes, settings.record_views)

    def label_of(self, sample: int, view: int) -> SparseLabel:
        """Sparse soft label of one view of one sample."""
        rein = self._rein(sample)
        stripe, own = divmod(view, rein.record_views)
        return self.codec.decode(rein.record(stripe), own, rein.stripe_views(stripe), self.settings.num_classes)

    def map_of(self, sample: int) -> LabelMap:
        """The label map of one sample, where `settings.has_maps`."""
        assert isinstance(self.codec, MapCodec)
        return self.codec.read(self._rein(sample).record(0), self.settings.num_classes)

    def view_columns(self, block: int, view: int) -> np.ndarray:
        """Params of one view of all samples of a block, of which those of mixing are filled in: int32 `[S, P]`."""
        stripe, own = divmod(view, self.settings.record_views)
        columns = np.zeros((len(self.samples_of(block)), len(self.spec.fields)), np.int32)
        columns[:, -len(MIX_FIELDS) :] = self.pairs_of(block, stripe, [own])[0]
        return columns

    def pairs_of(self, block: int, stripe: int, chosen: Sequence[int]) -> list[np.ndarray]:
        """The columns of mixing of some views of a stripe: int32 `[S, 6]` each.

        Raises:
            StoreError: the file beside the shards is damaged.
        """
        views = min(self.settings.record_views, self.settings.views - stripe * self.settings.record_views)
        path, samples = mixing_path(block, stripe), len(self.samples_of(block))
        content = self.folder.read(path)
        try:
            return [decompress_columns(frame_of(content, own, views), samples, len(MIX_FIELDS)) for own in chosen]
        except ValueError as error:
            raise StoreError(f"{path} is damaged.", found=error, fix="copy it again") from None


def labels_manifest(pack: Pack) -> Manifest | None:
    """The manifest of the labels in a pack's shards; None where there are none.

    Raises:
        StoreError: it is not valid.
    """
    return None if pack.labels is None else read_model(Manifest, json.dumps(pack.labels), f"The labels of {PACK}")


def mixing_path(block: int, stripe: int) -> str:
    """Where the pairs of a block's views stand in a pack."""
    return f"mixing/{block:06d}.{stripe:03d}.bin"
