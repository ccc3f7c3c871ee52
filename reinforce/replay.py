"""Replay: a reinforced dataset beside its images, as a torch dataset of exactly the views that the teacher saw.

dataset = ReinforcedDataset("runs/imagenette", data="imagenette/train")
dataset.set_epoch(0)
image, soft_label, hard_label = dataset[0]
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from reinforce.apply import apply
from reinforce.decode import decode
from reinforce.errors import ReplayError, SourceError, UsageError
from reinforce.probes import check_probe, read_checked
from reinforce.seeds import choice_rng, scheduled_view
from reinforce.source import ImageFolder
from reinforce.sparse import SparseLabel, SparseLabels
from reinforce.store import Store

STARTUP_PROBES = 16
STARTUP_HASH_BYTES = 32 << 20


class ReinforcedDataset(Dataset[tuple[torch.Tensor, torch.Tensor, int]]):
    """Every sample that has labels, at the view that the current epoch visits.

    An epoch visits one view of each block; each block goes through all its views, in an order of its own, before any
    repeats. Items are `(image uint8 [3, size, size], soft label float32 [C], hard label int, -1 where there is none)`.

    Call `set_epoch` before iterating a DataLoader; with `persistent_workers=True` the workers would not hear of it.

    Args:
        root: The reinforced dataset.
        data: The images it was generated from: a folder, or an `ImageFolder`. Samples are found by key.
        seed: Seed of the view schedule.
        views: Use only the first so many views. Default: all that are stored.
        check: Replay a few probes and hash up to 32 MB of images now, and every image when it is read.

    Raises:
        StoreError: not a complete reinforced dataset.
        SourceError: images are missing from `data`.
        ReplayError: images or pixels differ from what the teacher saw.
        UsageError: more views asked for than are stored.
    """

    def __init__(
        self, root: str | Path, data: str | Path | ImageFolder, *, seed: int = 0, views: int | None = None, check: bool = True
    ) -> None:
        self.store = Store(root)
        self.source = data if isinstance(data, ImageFolder) else ImageFolder.open(data)
        self.seed = seed
        self.views = self.store.settings.views if views is None else views
        if not 1 <= self.views <= self.store.settings.views:
            raise UsageError(
                f"{self.views} views are asked for.", expected=f"1 to {self.store.settings.views}, as many as are stored"
            )
        self.check_reads = check
        self.samples = self.store.ok_samples
        self.source_index = match_keys(self.store, self.source, self.samples)
        self._epoch = 0
        self._params: np.ndarray | None = None
        self._view_of_block: np.ndarray = np.zeros(0, np.int64)
        if check:
            self.check()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        image, row, label = self.sparse_item(index)
        return image, SparseLabels.stack([row], self.num_classes).dense()[0], label

    @property
    def num_classes(self) -> int:
        """C."""
        return self.store.settings.num_classes

    def set_epoch(self, epoch: int) -> None:
        """Choose the views of an epoch, and read their params: one column per block."""
        self._epoch = epoch
        settings = self.store.settings
        blocks = range(settings.num_blocks)
        self._view_of_block = np.array([scheduled_view(self.seed, b, epoch, self.views) for b in blocks])
        self._params = np.concatenate([self.store.block(b).params_of_view(int(self._view_of_block[b])) for b in blocks])

    def view_of(self, index: int) -> int:
        """The view of item `index` in the current epoch."""
        if self._params is None:
            self.set_epoch(self._epoch)
        return int(self._view_of_block[self.samples[index] // self.store.settings.block_size])

    def sparse_item(self, index: int) -> tuple[torch.Tensor, SparseLabel, int]:
        """Item `index` with its soft label in sparse form: `(image, sparse label, hard label)`."""
        view = self.view_of(index)
        sample = int(self.samples[index])
        assert self._params is not None
        image = apply(self._decoded(index), self._params[sample], self.store.spec)
        return image, self.store.label_of(sample, view), int(self.store.samples.labels[sample])

    def replay(self, index: int, view: int) -> torch.Tensor:
        """The pixels of any stored view of item `index`: uint8 `[3, size, size]`."""
        return apply(self._decoded(index), self.store.params_of(int(self.samples[index]), view), self.store.spec)

    def _decoded(self, index: int) -> np.ndarray:
        position = int(self.source_index[index])
        if self.check_reads:
            return decode(read_checked(self.source, position, self.store.samples.sha256[self.samples[index]]))
        try:
            return decode(self.source.read(position))
        except OSError as error:
            raise ReplayError(f"Image {self.source.keys[position]} cannot be read.", found=error.strerror or error) from None

    def check(self) -> int:
        """Replay a few probes and hash a share of the images; number of probes replayed.

        Raises:
            ReplayError: an image changed, or this machine makes other pixels from it.
        """
        order = choice_rng(self.seed).permutation(len(self))
        for index in order[:STARTUP_PROBES]:
            check_probe(self.store, self.source, int(self.source_index[index]), int(self.samples[index]))
        budget = STARTUP_HASH_BYTES
        for index in order[STARTUP_PROBES:]:
            budget -= len(
                read_checked(self.source, int(self.source_index[index]), self.store.samples.sha256[self.samples[index]])
            )
            if budget < 0:
                break
        return min(STARTUP_PROBES, len(self))


def match_keys(store: Store, source: ImageFolder, samples: np.ndarray) -> np.ndarray:
    """Position in `source` of each of the store's `samples`, found by key: int64 `[n]`.

    Raises:
        SourceError: a sample that has labels is not in the source.
    """
    position = {key: i for i, key in enumerate(source.keys)}
    found = np.array([position.get(store.samples.keys[s], -1) for s in samples], np.int64)
    absent = samples[found < 0]
    if len(absent):
        raise SourceError(
            f"{len(absent)} of {len(samples)} samples with labels are not in {source.root}.",
            found=f"no image with the key {store.samples.keys[absent[0]]!r}",
            expected="the images the data set was generated from",
            cause="another folder, or another level of it",
            fix="check --data: keys are paths below it, without the suffix",
        )
    return found
