"""Epoch views: gives the loader the views of an epoch: stored views with their labels, or fresh views with drawn labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch

from reinforce.errors import DataError, ImageError
from reinforce.labels.codec import Label
from reinforce.labels.label_kind import LabelBatch
from reinforce.memory import shortage
from reinforce.policy import Policy
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.drawn_labels import DrawnLabels
from reinforce.sources.source import Source
from reinforce.views.apply import apply
from reinforce.views.decode import decode
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import Mixing, draw_mixing
from reinforce.views.one_way import ALONE, one_way_view, other_of, share_of
from reinforce.views.rescale import rescale
from reinforce.views.seeds import fresh_mixing_rngs, fresh_view_rng
from reinforce.views.top_rows import rows_needed


class Item(NamedTuple):
    """One view of one sample.

    Attributes:
        image: uint8 `[3, size, size]`, before any mixing.
        soft: The teacher's label; None if there is none. If the view is stored, it is the label of the view after mixing; if
            the view is fresh, it is the label of this view alone.
        hard: The sample's own label; -1 if it has none.
        other: Hard label of the sample with which the image is mixed one-way already; -1 if it has none.
        share: Share of the sample's own hard label; None if views are not mixed one-way.
    """

    image: torch.Tensor
    soft: Label | None
    hard: int
    other: int = -1
    share: float | None = None


class Views(Protocol):
    """What the loader uses: samples with their views of the epoch that was chosen with `set_epoch`."""

    @property
    def num_classes(self) -> int: ...
    @property
    def size(self) -> int:
        """Height and width of a view in pixels; boxes of mixing are in these pixels."""

    @property
    def repeats(self) -> int:
        """Number of views of a sample in the current epoch."""

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each sample, int64 `[N]`: samples of one group lie together in the source; None: there are no groups."""

    @property
    def groups_at_once(self) -> int | None:
        """Most groups that fit in memory at a time; None: any number."""

    @property
    def location(self) -> str:
        """Where the images are: a path or a URL."""

    @property
    def mixing(self) -> list[Mixing] | None:
        """One per repeat; partners are positions and the same in all repeats. None if the policy does not mix."""

    def __len__(self) -> int: ...
    def set_epoch(self, epoch: int, repeats: int = 1) -> None: ...
    def items(self, index: int, size: int | None = None) -> list[Item]:
        """The views of one sample, one per repeat; its image is decoded once. `size` in pixels; None: the views' own size."""

    def soft_labels(
        self, items: Sequence[Item], mixing: Mixing | None = None, share: np.ndarray | None = None
    ) -> LabelBatch | None:
        """The soft labels of a batch after mixing.

        Args:
            items: The views of the batch.
            mixing: How these views are mixed with each other; None: they are not mixed.
            share: The share of each view in its mixed view: float32 `[B]`.
        """


class ReplayedViews:
    """Gives stored views and their labels."""

    def __init__(self, dataset: ReinforcedDataset) -> None:
        self.dataset = dataset
        self.mixing: list[Mixing] | None = None

    @property
    def num_classes(self) -> int:
        return self.dataset.num_classes

    @property
    def size(self) -> int:
        return self.dataset.store.settings.size

    @property
    def repeats(self) -> int:
        return self.dataset.epoch.repeats

    @property
    def groups(self) -> np.ndarray | None:
        groups = self.dataset.source.groups
        return None if groups is None else groups[self.dataset.source_index]

    @property
    def groups_at_once(self) -> int | None:
        return self.dataset.source.groups_at_once

    @property
    def location(self) -> str:
        return self.dataset.source.location

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int, repeats: int = 1) -> None:
        self.dataset.set_epoch(epoch, repeats)
        mixing = self.dataset.epoch.mixing
        self.mixing = None if mixing is None else [m.among(self.dataset.samples) for m in mixing]

    def items(self, index: int, size: int | None = None) -> list[Item]:
        data = self.dataset
        sample, views = int(data.samples[index]), data.params_of(index)
        hard, old = data.store.samples.labels, data.store.spec
        image, spec = data.decoded(index, rows_needed(views, old)), data.spec(size or data.size)
        made = []
        for repeat, params in enumerate(views):
            pixels = one_way_view(image, rescale(params, old, spec.size), spec, data.others.image)
            label = data.store.label_of(sample, data.view_of(index, repeat))
            other = other_of(params, old)
            mixed = (-1 if other == ALONE else int(hard[other]), share_of(params, old)) if old.other else ()
            made.append(Item(pixels, label, int(hard[sample]), *mixed))
        return made

    def soft_labels(self, items: Sequence[Item], mixing: Mixing | None = None, share: np.ndarray | None = None) -> LabelBatch:
        # The teacher saw the mixed views, so their labels are not mixed again.
        return self.dataset.store.kind.collate([item.soft for item in items], self.num_classes)


@dataclass
class FreshViews:
    """Gives fresh views, which are drawn anew in every epoch.

    Attributes:
        source: The images.
        samples: Positions in the source: int64 `[N]`.
        labeller: Gives the labels of the views.
        policy: The policy from which views are drawn.
        size: Height and width of a view in pixels.
        num_classes: C, the number of classes.
        seed: Seed of the views.
        decoded: Function that reads the image of a sample, if it must be compared with the image that the teacher saw; None:
            images are read from the source.
        mixup_off_epoch: From this epoch on, views are not mixed; 0: never.
        visits: Numbers of the views of a sample in this epoch, one per repeat; the views of a sample are counted over all
            epochs.
        mixing: As in `Views`.
    """

    source: Source
    samples: np.ndarray
    labeller: DrawnLabels
    policy: Policy
    size: int
    num_classes: int
    seed: int = 0
    decoded: Callable[[int], np.ndarray] | None = None
    mixup_off_epoch: int = 0
    visits: range = range(1)
    mixing: list[Mixing] | None = field(default=None, init=False)

    @property
    def repeats(self) -> int:
        return len(self.visits)

    @property
    def groups(self) -> np.ndarray | None:
        return None if self.source.groups is None else self.source.groups[self.samples]

    @property
    def groups_at_once(self) -> int | None:
        return self.source.groups_at_once

    @property
    def location(self) -> str:
        return self.source.location

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int, repeats: int = 1) -> None:
        first = epoch // repeats * repeats
        self.visits = range(first, first + repeats)
        self.mixing = None
        if (options := self.policy.mix) and not 0 < self.mixup_off_epoch <= epoch:
            rngs = [fresh_mixing_rngs(self.seed, visit, repeats) for visit in self.visits]
            self.mixing = [draw_mixing(*pair, len(self), options, self.size) for pair in rngs]

    def items(self, index: int, size: int | None = None) -> list[Item]:
        size = size or self.size
        position, image, spec = int(self.samples[index]), self._image(index), pixel_spec(self.policy, size)
        height, width = image.shape[:2]
        rngs = [fresh_view_rng(self.seed, position, visit) for visit in self.visits]
        drawn = [draw(rng, self.policy, size, width, height) for rng in rngs]
        soft = self.labeller.soft(index, drawn, spec, (width, height))
        hard = self.labeller.hard(index)
        return [Item(apply(image, params, spec), label, hard) for params, label in zip(drawn, soft, strict=True)]

    def soft_labels(
        self, items: Sequence[Item], mixing: Mixing | None = None, share: np.ndarray | None = None
    ) -> LabelBatch | None:
        labels = [item.soft for item in items]
        if mixing is not None and share is not None:
            each = zip(labels, mixing.partner, share.tolist(), strict=True)
            labels = [self.labeller.mixed(own, labels[other], of_own) for own, other, of_own in each]
        return self.labeller.collate(labels)

    def _image(self, index: int) -> np.ndarray:
        if self.decoded is not None:
            return self.decoded(index)
        position = int(self.samples[index])
        try:
            return decode(self.source.read(position))
        except (OSError, ImageError) as error:
            if (short := shortage(error)) is not None:
                raise short from None
            reason = error.what if isinstance(error, ImageError) else error.strerror or error
            fix = "remove or replace the image; `reinforce generate` notes such images and goes on"
            raise DataError(f"Image {self.source.keys[position]} cannot be used.", found=reason, fix=fix) from None
