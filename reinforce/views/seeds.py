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
_STREAM_BLOCK_ORDER = 6  # how samples are dealt to blocks where they are mixed with each other
_STREAM_PAIRS = 7  # who is mixed with whom in a stored view of a block
_STREAM_MIX = 8  # how they are mixed: lam and box
_STREAM_FRESH_PAIRS = 9  # pairs of views drawn while training without a store
_STREAM_FRESH_MIX = 10
_STREAM_GROUP_ORDER = 11  # order of the shards in an epoch


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def view_rng(seed: int, sample: int, view: int) -> np.random.Generator:
    """Generator for the params of one stored view."""
    return _generator(seed, sample, view, _STREAM_VIEW)


def fresh_view_rng(seed: int, sample: int, epoch: int) -> np.random.Generator:
    """Generator for the params of the view that `sample` gets in `epoch` when nothing is replayed."""
    return _generator(seed, sample, epoch, _STREAM_FRESH_VIEW)


def block_order(seed: int, num_samples: int) -> np.ndarray:
    """Samples in the order in which they are dealt to blocks: int64 `[num_samples]`, a permutation."""
    return _generator(seed, _STREAM_BLOCK_ORDER).permutation(num_samples)


def mixing_rngs(seed: int, block: int, view: int, repeats: int) -> tuple[np.random.Generator, np.random.Generator]:
    """Generators of the pairs and of the amounts of one stored view; `repeats` consecutive views share their pairs."""
    return _generator(seed, block, view // repeats, _STREAM_PAIRS), _generator(seed, block, view, _STREAM_MIX)


def fresh_mixing_rngs(seed: int, visit: int, repeats: int) -> tuple[np.random.Generator, np.random.Generator]:
    """As `mixing_rngs`, for views that are drawn while training without a store; `visit` counts the views of a sample."""
    return _generator(seed, visit // repeats, _STREAM_FRESH_PAIRS), _generator(seed, visit, _STREAM_FRESH_MIX)


def epoch_order(seed: int, epoch: int, num_samples: int) -> np.ndarray:
    """The order in which an epoch visits the samples: int64 `[num_samples]`, a permutation."""
    return _generator(seed, epoch, _STREAM_EPOCH_ORDER).permutation(num_samples)


def group_order(seed: int, epoch: int, groups: int) -> np.ndarray:
    """Place of each group in the order in which an epoch visits them: int64 `[groups]`, a permutation."""
    return _generator(seed, epoch, _STREAM_GROUP_ORDER).permutation(groups)


def scheduled_views(seed: int, block: int, epoch: int, num_views: int, repeats: int = 1) -> list[int]:
    """The `repeats` views that `epoch` visits in `block`; each block has a random order of its own.

    Views are visited in groups of `repeats` consecutive views. A group serves `repeats` epochs; each sample has its turn in one
    of these. All groups are visited before one comes again. If the last group is smaller, some of its views come twice.
    """
    groups = -(-num_views // repeats)
    cycle, position = divmod(epoch // repeats, groups)
    first = repeats * int(_generator(seed, block, cycle, _STREAM_VIEW_SCHEDULE).permutation(groups)[position])
    return [first + j % min(repeats, num_views - first) for j in range(repeats)]


def torch_seed(seed: int, epoch: int) -> int:
    """A 63-bit seed for torch's generator at the start of `epoch` (epoch -1: the initial weights)."""
    return int(_generator(seed, epoch + 1, _STREAM_TORCH).integers(2**63 - 1))


def choice_rng(seed: int) -> np.random.Generator:
    """Generator for choosing which samples and views to check."""
    return _generator(seed, _STREAM_CHOICE)
