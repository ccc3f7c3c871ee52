"""Randomness as an argument: every generator is made here, from one seed and the coordinates of its use.

No global generator is read or written. Streams are separated by `numpy.random.SeedSequence` spawn keys, never by adding
an index to the seed (which makes seed 0, item 1 equal seed 1, item 0). The stream number is the last element of the key.
"""

from __future__ import annotations

import numpy as np

_STREAM_VIEW = 0  # params of a stored view
_STREAM_FRESH_VIEW = 1  # params of a view drawn while training without a store
_STREAM_EPOCH_ORDER = 2  # order of the samples in an epoch
_STREAM_VIEW_SCHEDULE = 3  # which view of a block an epoch visits
_STREAM_TORCH = 4  # seed for torch's generator (initial weights, dropout)
_STREAM_CHOICE = 5  # random choices of samples to check


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def view_rng(seed: int, sample: int, view: int) -> np.random.Generator:
    """Generator for the params of one stored view."""
    return _generator(seed, sample, view, _STREAM_VIEW)


def fresh_view_rng(seed: int, sample: int, epoch: int) -> np.random.Generator:
    """Generator for the params of the view that `sample` gets in `epoch` when nothing is replayed."""
    return _generator(seed, sample, epoch, _STREAM_FRESH_VIEW)


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The order in which an epoch visits the samples: int64 `[num_samples]`, a permutation."""
    return _generator(seed, epoch, _STREAM_EPOCH_ORDER).permutation(num_samples)


def scheduled_view(seed: int, block: int, epoch: int, num_views: int) -> int:
    """The view that `epoch` visits in `block`: every view once, in a random order of the block's own, before any repeats."""
    cycle, position = divmod(epoch, num_views)
    return int(_generator(seed, block, cycle, _STREAM_VIEW_SCHEDULE).permutation(num_views)[position])


def torch_seed(seed: int, epoch: int) -> int:
    """A 63-bit seed for torch's generator at the start of `epoch` (epoch -1: the initial weights)."""
    return int(_generator(seed, epoch + 1, _STREAM_TORCH).integers(2**63 - 1))


def choice_rng(seed: int) -> np.random.Generator:
    """Generator for choosing which samples and views to check."""
    return _generator(seed, _STREAM_CHOICE)
