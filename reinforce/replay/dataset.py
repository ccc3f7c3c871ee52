"""Dataset: a reinforced dataset and its images, as a torch dataset of exactly the views that the teacher saw.

dataset = ReinforcedDataset("runs/imagenette", data="imagenette/train")
dataset.set_epoch(0)
image, soft_label, hard_label = dataset[0]
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from reinforce.errors import UsageError
from reinforce.packs.open_labels import match_keys, open_labels
from reinforce.replay.epoch import Epoch
from reinforce.replay.other_images import OtherImages, read_decoded
from reinforce.replay.start_check import check_start
from reinforce.sources.open_source import open_source
from reinforce.sources.source import Source
from reinforce.store.label_store import LabelStore
from reinforce.store.probes import check_probe, read_checked
from reinforce.store.witness import check_stripe
from reinforce.views.decode import decode
from reinforce.views.one_way import one_way_view
from reinforce.views.params import Field, PixelSpec
from reinforce.views.pixels import pixel_crc, stored_view, unmatched
from reinforce.views.rescale import rescale
from reinforce.views.top_rows import rows_needed


class ReinforcedDataset(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """All samples that have labels, each with the view that the current epoch shows.

    In one epoch, all samples of a block show the same view number. Each block goes through all its views, in its own random
    order, before it shows any view again. Items are `(image uint8 [3, size, size], soft label float32 [C], hard label int)`; a
    hard label of -1 means that there is none.

    Call `set_epoch` before you iterate a DataLoader. Do not use `persistent_workers=True`: workers that are already running do
    not notice a call of `set_epoch`.

    Args:
        root: The reinforced dataset.
        data: The images from which it was generated: a value as for `--data`, or an opened source. Samples are matched by key.
            Default: the images in `root`, if it is shards.
        seed: Seed of the view schedule.
        views: Use only this many views, the first ones. Default: all stored views.
        size: Height and width of the views in pixels. Default: those of the teacher. At another size the crop boxes are the
            same, but the pixels are not those that the teacher saw.
        check: Now, replay a few probes and stripes, so that every op is among their views, and hash up to 32 MB of images;
            later, compare the CRC-32C of every image when it is read.

    Raises:
        StoreError: `root` is not a complete reinforced dataset.
        SourceError: images are missing from `data`.
        ReplayError: images or pixels differ from those that the teacher saw.
        UsageError: `views` is larger than the number of stored views, or there are no images or no params of views.
    """

    def __init__(
        self,
        root: str | Path | LabelStore,
        data: str | Path | Source | None = None,
        *,
        seed: int = 0,
        views: int | None = None,
        size: int | None = None,
        check: bool = True,
    ) -> None:
        self.store: LabelStore = open_labels(root) if isinstance(root, (str, Path)) else root
        self.size = self.store.settings.size if size is None else size
        images = self.store.images if data is None else open_source(data)
        if images is None:
            raise UsageError("The images are not given.", found=f"{self.store.root}, labels alone", fix="data=SOURCE")
        self.source = images
        self.seed = seed
        self.views = self.store.settings.views if views is None else views
        if not 1 <= self.views <= self.store.settings.views:
            raise UsageError(
                f"{self.views} views are asked for.", expected=f"1 to {self.store.settings.views}, as many as are stored"
            )
        if (origin := self.store.settings.origin) is not None and origin.replay == "none":
            raise UsageError(
                "The views of these labels cannot be shown.",
                found=f"labels imported from {origin.format}, whose pixels were made by {origin.pixels}",
                expected="labels with params of their views",
                fix="use them by `reinforce.store.store.Store(DIR).labels_of(sample)`, or generate labels of your own",
            )
        self.check_reads = check
        self.samples = self.store.ok_samples
        self.source_index = match_keys(self.store, self.source, self.samples)
        self._index_of = np.full(len(self.store.samples), -1)
        self._index_of[self.samples] = np.arange(len(self.samples))
        self.others = OtherImages(self.store, self.source, check)
        self._specs: dict[int, PixelSpec] = {}
        self._epoch: Epoch | None = None
        if check:
            self.check()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        view, sample = self.view_of(index), int(self.samples[index])
        label = self.store.kind.collate([self.store.label_of(sample, view)], self.num_classes).dense()[0]
        return self.replay(index, view), label, int(self.store.samples.labels[sample])

    @property
    def num_classes(self) -> int:
        """C, the number of classes."""
        return self.store.settings.num_classes

    def spec(self, size: int) -> PixelSpec:
        """The layout of the stored params, for views of another size in pixels."""
        if size not in self._specs:  # to make one takes as long as to decode a label
            self._specs[size] = replace(self.store.spec, size=size)
        return self._specs[size]

    def set_epoch(self, epoch: int, repeats: int = 1) -> None:
        """Choose the views of an epoch, `repeats` views per block, and read the params of each chosen view once per block.

        Raises:
            ReplayError: a view is mixed with an image that is not in the source.
        """
        self._epoch = Epoch.read(self.store, epoch, seed=self.seed, num_views=self.views, repeats=repeats)
        column = self.store.spec.column(Field.OTHER)
        if column is not None and self._epoch.params is not None:
            self.others.require(self._epoch.params[:, self.samples, column])

    @property
    def epoch(self) -> Epoch:
        """The views of the epoch that was set, or of epoch 0."""
        if self._epoch is None:
            self.set_epoch(0)
        assert self._epoch is not None
        return self._epoch

    def view_of(self, index: int, repeat: int = 0) -> int:
        """The view of item `index` in the current epoch."""
        return int(self.epoch.views[repeat, self.store.samples.block[self.samples[index]]])

    def replay(self, index: int, view: int) -> torch.Tensor:
        """The pixels of any stored view of item `index`, mixed if the teacher saw it mixed: uint8 `[3, size, size]`."""
        store, sample = self.store, int(self.samples[index])
        rows = store.samples_of(int(store.samples.block[sample]))
        spec = self.spec(self.size)
        if spec.other is not None:
            params = rescale(self._params_of(sample, view), store.spec, self.size)
            return one_way_view(self.decoded(index, rows_needed(params[None], spec)), params, spec, self.others.image)

        def params_of(row: int) -> np.ndarray:
            return rescale(self._params_of(int(rows[row]), view), store.spec, self.size)

        def image_of(row: int) -> np.ndarray:
            return self.decoded(self._item(int(rows[row])), rows_needed(params_of(row)[None], spec))

        return stored_view(params_of, len(rows), int(store.samples.row[sample]), spec, image_of)

    def _params_of(self, sample: int, view: int) -> np.ndarray:
        """Params of one stored view, int32 `[P]`; if the epoch shows this view, they were already read with it."""
        epoch = self._epoch
        if epoch is not None and epoch.params is not None:
            shown = np.flatnonzero(epoch.views[:, self.store.samples.block[sample]] == view)
            if len(shown):
                params: np.ndarray = epoch.params[shown[0], sample]
                return params
        return self.store.params_of(sample, view)

    def params_of(self, index: int) -> np.ndarray:
        """Params of the views of item `index` in the current epoch: int32 `[R, P]`."""
        sample, epoch = int(self.samples[index]), self.epoch
        if epoch.params is not None:
            return epoch.params[:, sample]
        return np.stack([self.store.params_of(sample, self.view_of(index, repeat)) for repeat in range(epoch.repeats)])

    def decoded(self, index: int, rows: int | None = None) -> np.ndarray:
        """The image of item `index`: uint8 `[H, W, 3]`; at least the first `rows` of its rows, if not all are wanted.

        Raises:
            ReplayError: the image cannot be read, or is not the one that the teacher saw.
        """
        position = int(self.source_index[index])
        if not self.check_reads:
            return read_decoded(self.source, position, rows)
        sample, known = int(self.samples[index]), self.store.samples
        return decode(read_checked(self.source, position, known.sha256[sample], int(known.crc32c[sample])), rows)

    def checked(self, sample: int) -> np.ndarray:
        """The image of a sample of the store, compared with its SHA-256: uint8 `[H, W, 3]`.

        Raises:
            ReplayError: the image cannot be read, or is not the one that the teacher saw.
        """
        position = int(self.source_index[self._item(sample)])
        return decode(read_checked(self.source, position, self.store.samples.sha256[sample]))

    def items_of(self, samples: np.ndarray) -> np.ndarray:
        """The item of each sample of the store, int64 `[n]`; -1: it is none."""
        found: np.ndarray = self._index_of[samples]
        return found

    def _item(self, sample: int) -> int:
        index = int(self._index_of[sample])
        if index < 0:
            raise unmatched(f"{self.store.samples.key(sample)}, which has no labels, as a partner")
        return index

    def check_probe(self, index: int) -> None:
        """Compare the image of item `index` with its hash and replay its probe; imported labels have no probe.

        Raises:
            ReplayError: an image changed, or this machine makes different pixels from it.
        """
        store, sample = self.store, int(self.samples[index])
        rows, row = store.samples_of(int(store.samples.block[sample])), int(store.samples.row[sample])
        if store.settings.origin is not None:
            self.checked(sample)
            return
        view = row % store.settings.probe_views
        found = pixel_crc(
            stored_view(
                lambda other: store.params_of(int(rows[other]), view),
                len(rows),
                row,
                store.spec,
                lambda other: self.checked(int(rows[other])),
            )
        )
        check_probe(found, store.probe_of(sample), f"{store.samples.key(sample)}, view {view}", store.manifest.environment)

    def check_stripe(self, index: int, stripe: int) -> bool:
        """Replay all views of a stripe of item `index`, and compare their pixels with those that the teacher saw.

        Returns:
            Whether that could be done: older data sets and imported labels have no witness of their pixels.

        Raises:
            ReplayError: an image changed, or this machine makes different pixels from it.
        """
        store, sample = self.store, int(self.samples[index])
        expected = store.witness_of(sample, stripe)
        if expected is None:
            return False
        rows, row = store.samples_of(int(store.samples.block[sample])), int(store.samples.row[sample])
        check_stripe(
            lambda other, view: store.params_of(int(rows[other]), view),
            store.views_of(stripe),
            len(rows),
            row,
            store.spec,
            lru_cache(maxsize=2)(lambda other: self.checked(int(rows[other]))),
            expected,
            store.samples.key(sample),
            store.manifest.environment,
        )
        return True

    def check(self) -> int:
        """Replay a few probes and stripes, and hash some of the images; see `check_start`.

        Raises:
            ReplayError: an image changed, or this machine makes different pixels from it.
        """
        return check_start(self)
