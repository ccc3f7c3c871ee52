"""Epoch: which stored view each sample shows in one epoch, with its params and its partners in mixing.

Each epoch chooses one view per block (or R views, with repeats) and reads the params of this view once per block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from reinforce.errors import UsageError
from reinforce.store.label_store import LabelStore
from reinforce.views.mix import Mixing, mixing_of, pairs_in
from reinforce.views.pixels import unmatched
from reinforce.views.seeds import scheduled_views
from reinforce.views.status import Status


@dataclass(frozen=True)
class Epoch:
    """The views of one epoch, for N samples of the store, R views of each.

    Attributes:
        number: The number of the epoch.
        views: The views that each block shows: int64 `[R, blocks]`.
        params: The params of each sample: int32 `[R, N, P]`; None if the store keeps them with the sample (shards).
        mixing: One per repeat; partners are samples of the store and the same in all repeats. None if views are not mixed.
    """

    number: int
    views: np.ndarray
    params: np.ndarray | None
    mixing: list[Mixing] | None

    @property
    def repeats(self) -> int:
        """R, the number of views of a sample in this epoch."""
        return len(self.views)

    @classmethod
    def read(cls, store: LabelStore, number: int, *, seed: int, num_views: int, repeats: int = 1) -> Epoch:
        """Choose and read the views of an epoch.

        Args:
            store: The reinforced dataset.
            number: The number of the epoch.
            seed: Seed of the view schedule.
            num_views: Use only this many of the stored views, the first ones.
            repeats: R, the number of views of each sample.

        Raises:
            UsageError: the views of one sample would need different partners in one batch.
            StoreError: the stored pairs are not valid.
        """
        mix = store.settings.policy.mix
        if mix is not None and mix.repeats % repeats:
            raise UsageError(
                f"{repeats} views of a sample in one batch need their partners in it too.",
                found=f"views that share their pairs by {mix.repeats}",
                expected=f"labels generated with a policy of repeats={repeats}",
                cause="--aug-repeats with a policy that mixes",
                fix="--aug-repeats 1, or generate with --policy NAME:repeats=" + str(repeats),
            )
        every = range(store.settings.num_blocks)
        views = np.array([scheduled_views(seed, b, number, num_views, repeats) for b in every]).T
        count = len(store.samples)
        params: np.ndarray | None = np.zeros((repeats, count, len(store.spec.fields)), np.int32)
        mixing = None if mix is None else [_unmixed(count) for _ in range(repeats)]
        for block in store.blocks:
            samples = store.samples_of(block)
            for repeat in range(repeats):
                view = int(views[repeat, block])
                rows = store.params_of_view(block, view)
                if rows is None:
                    params = None
                elif params is not None:
                    params[repeat, samples] = rows
                if mixing is not None:
                    pairs = None if rows is None else pairs_in(rows, store.spec)
                    _fill(mixing[repeat], store.pairs_of_view(block, view) if pairs is None else pairs, samples, store)
            if params is None and mixing is None:
                break
        return cls(number, views, params, mixing)


def _unmixed(count: int) -> Mixing:
    return Mixing(np.arange(count), np.full(count, 255), np.zeros((count, 4), np.int64))


def _fill(mixing: Mixing, pairs: np.ndarray, samples: np.ndarray, store: LabelStore) -> None:
    """Copy the pairs of one block, int32 `[S, 6]`, to the positions of its samples in `mixing`."""
    ok = np.flatnonzero(store.samples.status[samples] == Status.OK)
    among_ok = mixing_of(pairs).among(ok)
    if fault := among_ok.fault(store.spec.size):
        raise unmatched(fault)
    mixing.partner[samples[ok]] = samples[ok[among_ok.partner]]
    mixing.lam[samples[ok]], mixing.boxes[samples[ok]] = among_ok.lam, among_ok.boxes
