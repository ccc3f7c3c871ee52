"""Epoch views: stored ones with the teacher's labels, or fresh ones with what a labeller knows of them; for the loader."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch

from reinforce.errors import DataError, ImageError
from reinforce.labels.codec import Label
from reinforce.labels.label_kind import LabelBatch
from reinforce.policy import Policy
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.drawn_labels import DrawnLabels
from reinforce.sources.source import Source
from reinforce.views.apply import apply
from reinforce.views.decode import decode
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import Mixing, draw_mixing
from reinforce.views.rescale import rescale
from reinforce.views.seeds import fresh_mixing_rngs, fresh_view_rng


class Item(NamedTuple):
    """One view of one sample.

    Attributes:
        image: uint8 `[3, size, size]`, before any mixing.
        soft: The teacher's label; of the mixed view, if a stored one, else of this one. None where there is none.
        hard: The sample's own label, -1 where there is none.
    """

    image: torch.Tensor
    soft: Label | None
    hard: int


class Views(Protocol):
    """What a loader needs: samples that know their views of the epoch that was set."""

    @property
    def num_classes(self) -> int: ...
    @property
    def size(self) -> int:
        """Height and width in pixels that boxes of mixing refer to."""

    @property
    def repeats(self) -> int:
        """Views of a sample that the epoch which was set shows."""

    @property
    def groups(self) -> np.ndarray | None:
        """Which samples lie together, int64 `[N]`; None: no matter."""

    @property
    def groups_at_once(self) -> int | None:
        """How many of these groups can be held at a time; None: any number."""

    @property
    def mixing(self) -> list[Mixing] | None:
        """One per repeat, with partners as positions, the same in all repeats; None where the policy does not mix."""

    def __len__(self) -> int: ...
    def set_epoch(self, epoch: int, repeats: int = 1) -> None: ...
    def items(self, index: int, size: int | None = None) -> list[Item]:
        """The views of one sample from one decode, one per repeat; at `size` pixels, or at their own."""

    def soft_labels(
        self, items: Sequence[Item], mixing: Mixing | None = None, share: np.ndarray | None = None
    ) -> LabelBatch | None:
        """The soft labels of a batch, as it is after mixing.

        Args:
            items: Its views.
            mixing: How they are mixed with each other; None: not at all.
            share: float32 `[B]`, of each view in its mixed one.
        """


class ReplayedViews:
    """The stored views and labels."""

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

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int, repeats: int = 1) -> None:
        self.dataset.set_epoch(epoch, repeats)
        mixing = self.dataset.epoch.mixing
        self.mixing = None if mixing is None else [m.among(self.dataset.samples) for m in mixing]

    def items(self, index: int, size: int | None = None) -> list[Item]:
        data = self.dataset
        sample, image = int(data.samples[index]), data.decoded(index)
        hard, old = int(data.store.samples.labels[sample]), data.store.spec
        spec = replace(old, size=size or data.size)
        return [
            Item(
                apply(image, rescale(params, old, spec.size), spec),
                data.store.label_of(sample, data.view_of(index, repeat)),
                hard,
            )
            for repeat, params in enumerate(data.params_of(index))
        ]

    def soft_labels(self, items: Sequence[Item], mixing: Mixing | None = None, share: np.ndarray | None = None) -> LabelBatch:
        # The teacher saw the mixed view.
        return self.dataset.store.kind.collate([item.soft for item in items], self.num_classes)


@dataclass
class FreshViews:
    """Views drawn anew in every epoch.

    Attributes:
        source: The images.
        samples: Positions in the source: int64 `[N]`.
        labeller: What is known of each view beside its pixels.
        decoded: How the image of a sample is read, where it must be one that the labeller knows; None: from the source.
        visits: Which views of a sample, counted from its first, the epoch shows; one per repeat.
    """

    source: Source
    samples: np.ndarray
    labeller: DrawnLabels
    policy: Policy
    size: int
    num_classes: int
    seed: int = 0
    decoded: Callable[[int], np.ndarray] | None = None
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

    def __len__(self) -> int:
        return len(self.samples)

    def set_epoch(self, epoch: int, repeats: int = 1) -> None:
        first = epoch // repeats * repeats
        self.visits = range(first, first + repeats)
        if options := self.policy.mix:
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
            reason = error.what if isinstance(error, ImageError) else error.strerror
            fix = "remove or replace the image; `reinforce generate` notes such images and goes on"
            raise DataError(f"Image {self.source.keys[position]} cannot be used.", found=reason, fix=fix) from None
