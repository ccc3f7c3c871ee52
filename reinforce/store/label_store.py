"""Label store: params and labels of a reinforced dataset, wherever they stand; what every kind of store has.

A kind says where a record, the params and the probe of a sample are (`reinforce.store.store`: folders of blocks;
`reinforce.packs.packed_store`: shards, beside the images). What labels mean follows from these and is written once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

import numpy as np

from reinforce.labels.codec import decode_stripes
from reinforce.labels.codecs import codec_from_dict
from reinforce.labels.label_kind import kind_of
from reinforce.labels.label_map import LabelMap, MapCodec
from reinforce.labels.sparse import SparseLabel
from reinforce.sources.source import Source
from reinforce.store.manifest import Manifest
from reinforce.store.samples import Samples
from reinforce.views.layout import pixel_spec


class LabelStore(ABC):
    """A complete reinforced dataset, or a part of one.

    Args:
        root: Where it is.
        manifest: What it is.
        samples: Its table.

    Attributes:
        images: The images, where they stand beside the labels.
        kind: What is stored: soft labels of views, or of any crop.
    """

    images: Source | None = None

    def __init__(self, root: Path, manifest: Manifest, samples: Samples) -> None:
        self.root, self.manifest, self.samples = root, manifest, samples
        self.settings = manifest.settings
        self.codec = codec_from_dict(self.settings.codec)
        self.kind = kind_of(self.settings.codec)
        spec = pixel_spec(self.settings.policy, self.settings.size)
        self.spec = replace(spec, fields=tuple(manifest.params_fields))
        # Read for every label: a model's attribute takes a microsecond.
        self._views, self._record_views, self._classes = (
            self.settings.views,
            self.settings.stripe_views,
            self.settings.num_classes,
        )
        self._order = np.argsort(samples.block * self.settings.block_size + samples.row)

    @property
    @abstractmethod
    def sha256(self) -> str:
        """What tells it from every other: the hash of its manifest."""

    @property
    @abstractmethod
    def blocks(self) -> list[int]:
        """Numbers of the blocks that have samples here."""

    @property
    @abstractmethod
    def ok_samples(self) -> np.ndarray:
        """Indices of the samples that have labels here: int64 `[n]`."""

    @abstractmethod
    def record(self, sample: int, stripe: int) -> bytes | memoryview:
        """The encoded labels of one stripe of views of a sample; empty where it is not ok."""

    @abstractmethod
    def params_of(self, sample: int, view: int) -> np.ndarray:
        """Params of one view of one sample: int32 `[P]`."""

    @abstractmethod
    def probe_of(self, sample: int) -> int:
        """CRC-32 of the pixels of the probed view of a sample."""

    @abstractmethod
    def params_of_view(self, block: int, view: int) -> np.ndarray | None:
        """Params of one view of all samples of a block, int32 `[S, P]`; None where each sample has its own with its image."""

    @abstractmethod
    def pairs_of_view(self, block: int, view: int) -> np.ndarray:
        """The columns of mixing of one view of all samples of a block, of a policy that mixes: int32 `[S, 6]`."""

    def samples_of(self, block: int) -> np.ndarray:
        """Indices of the samples of a block, row by row: int64 `[S]`."""
        size = self.settings.block_size
        return self._order[block * size : (block + 1) * size]

    def stripe_of(self, view: int) -> tuple[int, int, int]:
        """The stripe that a view stands in, its place there, and how many views the stripe has."""
        stripe, own = divmod(view, self._record_views)
        return stripe, own, min(self._record_views, self._views - stripe * self._record_views)

    def label_of(self, sample: int, view: int) -> SparseLabel:
        """Sparse soft label of one view of one sample."""
        stripe, own, views = self.stripe_of(view)
        return self.codec.decode(self.record(sample, stripe), own, views, self._classes)

    def labels_of(self, sample: int) -> list[SparseLabel]:
        """Sparse soft labels of all views of one sample."""
        settings = self.settings
        records = (self.record(sample, stripe) for stripe in range(settings.num_stripes))
        return decode_stripes(self.codec, records, settings.views, settings.num_classes, settings.stripe_views)

    def map_of(self, sample: int) -> LabelMap:
        """The label map of one sample, where that is what is stored."""
        assert isinstance(self.codec, MapCodec)
        return self.codec.read(self.record(sample, 0), self.settings.num_classes)
