"""Label store: the base of every kind of store, with access to params and labels of a reinforced dataset.

A kind of store says where the record, the params and the probe of a sample are (`reinforce.store.store`: in folders of blocks;
`reinforce.packs.packed_store`: in shards, beside the images). How they are decoded is the same for all kinds and is done here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from reinforce.labels.box import Box
from reinforce.labels.codec import Label, decode_stripes
from reinforce.labels.codecs import codec_from_dict
from reinforce.labels.label_kind import kind_of
from reinforce.sources.source import Source
from reinforce.store.manifest import Manifest
from reinforce.store.samples import Samples
from reinforce.views.layout import pixel_spec


class LabelStore(ABC):
    """A complete reinforced dataset, or a part of one.

    Args:
        root: Its folder.
        manifest: Its manifest.
        samples: Its table of samples.

    Attributes:
        images: The images, if the store has them beside the labels.
        kind: The kind of labels: soft labels of stored views, or of any crop.
    """

    images: Source | None = None

    def __init__(self, root: Path, manifest: Manifest, samples: Samples) -> None:
        self.root, self.manifest, self.samples = root, manifest, samples
        self.settings = manifest.settings
        self.codec = codec_from_dict(self.settings.codec)
        self.kind = kind_of(self.settings.codec)
        spec = pixel_spec(self.settings.policy, self.settings.size)
        self.spec = replace(spec, fields=tuple(manifest.params_fields))
        # Copied because every label needs them: reading an attribute of a pydantic model takes a microsecond.
        self._views, self._stripe_views, self._classes = (
            self.settings.views,
            self.settings.stripe_views,
            self.settings.num_classes,
        )
        self._order = np.argsort(samples.block * self.settings.block_size + samples.row)

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Hash of the manifest, which differs between any two data sets."""

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
        """The encoded labels of one stripe of views of a sample; empty if the sample is not ok."""

    @abstractmethod
    def params_of(self, sample: int, view: int) -> np.ndarray:
        """Params of one view of one sample: int32 `[P]`."""

    @abstractmethod
    def probe_of(self, sample: int) -> int:
        """CRC-32 of the pixels of the probed view of a sample."""

    def witness_of(self, sample: int, stripe: int) -> int | None:
        """CRC-32C of the pixels of all views of a stripe of a sample; None: the writer stored none."""
        return None

    @abstractmethod
    def params_of_view(self, block: int, view: int) -> np.ndarray | None:
        """Params of one view of all samples of a block, int32 `[S, P]`; None if params are stored beside each image instead."""

    @abstractmethod
    def pairs_of_view(self, block: int, view: int) -> np.ndarray:
        """The mixing columns of one view of all samples of a block, int32 `[S, 6]`; only for a policy that mixes."""

    def params_of_stripe(self, samples: np.ndarray, stripe: int) -> np.ndarray:
        """Params of all views of a stripe of some samples of one block: int32 `[n, v, P]`."""
        return np.stack([[self.params_of(sample, view) for view in self.views_of(stripe)] for sample in samples.tolist()])

    def views_of(self, stripe: int) -> range:
        """The views of a stripe."""
        return range(stripe * self._stripe_views, min(self._views, (stripe + 1) * self._stripe_views))

    def samples_of(self, block: int) -> np.ndarray:
        """Indices of the samples of a block, row by row: int64 `[S]`."""
        size = self.settings.block_size
        return self._order[block * size : (block + 1) * size]

    def stripe_of(self, view: int) -> tuple[int, int, int]:
        """The number of the stripe that has a view, the position of the view in it, and how many views the stripe has."""
        stripe, own = divmod(view, self._stripe_views)
        return stripe, own, min(self._stripe_views, self._views - stripe * self._stripe_views)

    def label_of(self, sample: int, view: int) -> Label:
        """Label of one view of one sample."""
        stripe, own, views = self.stripe_of(view)
        return self.codec.decode(self.record(sample, stripe), own, views, self._classes)

    def labels_of(self, sample: int) -> list[Label]:
        """Labels of all views of one sample."""
        settings = self.settings
        records = (self.record(sample, stripe) for stripe in range(settings.num_stripes))
        return decode_stripes(self.codec, records, settings.views, settings.num_classes, settings.stripe_views)

    def crop_labels_of(self, sample: int, boxes: Sequence[Box]) -> list[Label]:
        """Labels of crops of one sample, if its kind of labels has labels of any crop."""
        return self.codec.decode_crops(self.record(sample, 0), boxes, self._classes)
