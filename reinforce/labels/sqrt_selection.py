"""Selection of `sqrt`: what of a sample's soft labels is worth its bytes. The choice that `sqrt` makes when it encodes.

Every probability is either kept for its view, as a symbol s that stands for about (s delta)^2, or left to the tail, which the
views of a sample share. KL is flat in sqrt(p), so equal steps of sqrt(p) cost equal KL wherever they are made. A probability
is kept where the KL it saves is worth the bits it takes: the saving must exceed `RATE * delta^2` nats for each bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RATE = 0.06
"""Nats that a bit must save, in units of delta^2; between .04 and .08 delta and rate trade along one curve."""
CLASS_BITS = 13.0
"""About what one more class in the dictionary costs: its id and its level."""
_ROUNDS = 2
_TINY = 1e-15


@dataclass(frozen=True)
class Kept:
    """What is kept of the soft labels of one sample.

    Attributes:
        class_ids: int64 `[D]`, the dictionary, rising: every class kept in some view or with a tail weight of its own.
        symbols: int64 `[V, D]`; 0: left to the tail.
        weights: float64 `[D]`, mean probability over the views in which a class is left to the tail.
        floor: The same of all classes that are not in the dictionary, their mean.
        one: Mean probability where the symbol is 1, in units of delta^2.
    """

    class_ids: np.ndarray
    symbols: np.ndarray
    weights: np.ndarray
    floor: float
    one: float


def choose(probs: np.ndarray, delta: float) -> Kept:
    """Choose what to keep.

    Args:
        probs: float64 `[V, C]`, distributions.
        delta: Step of sqrt(p). Nothing below half a step is kept.
    """
    views, unit = len(probs), delta * delta
    roots = np.sqrt(probs) / delta
    # Below half a step nothing is kept: most classes are done with here.
    candidates = np.flatnonzero(roots.max(axis=0) >= 0.5)
    p, x = probs[:, candidates], roots[:, candidates]
    steps = np.maximum(np.rint(x), 1).astype(np.int64)
    is_one = steps == 1
    value_bits = np.where(is_one, 0.5, np.log2(steps) + 1.5)
    keep = x >= 0.5
    for _ in range(_ROUNDS):
        one, weights, counts = _mean(p, keep & is_one, unit), _tail_weights(p, keep, unit), keep.sum(axis=0)
        place_bits = np.log2((views + 1) / (counts + 0.5)) + 1 + CLASS_BITS / np.maximum(counts, 1)
        saved = _divergence(p, weights) - _divergence(p, np.where(is_one, one, unit * steps**2))
        keep = (x >= 0.5) & (saved > RATE * unit * (place_bits + value_bits))
    all_weights = np.maximum(probs.mean(axis=0), _TINY)
    all_weights[candidates] = _tail_weights(p, keep, unit)
    listed = np.zeros(probs.shape[1], bool)
    listed[candidates] = keep.any(axis=0)
    listed, floor = _extend(listed, all_weights, RATE * unit * CLASS_BITS / views)
    class_ids = np.flatnonzero(listed)
    symbols = np.zeros((views, len(class_ids)), np.int64)
    column = np.flatnonzero(listed[candidates])
    symbols[:, np.searchsorted(class_ids, candidates[column])] = np.where(keep, steps, 0)[:, column]
    return Kept(class_ids, symbols, all_weights[class_ids], floor, _mean(p, keep & is_one, unit) / unit)


def _extend(kept: np.ndarray, weights: np.ndarray, worth: float) -> tuple[np.ndarray, float]:
    """Add the classes that are never kept, but so far above the others that a weight of their own is worth its bits."""
    listed = kept
    for _ in range(4):  # the others get fewer, and their mean lower
        floor = float(weights[~listed].mean()) if not listed.all() else _TINY
        listed = kept | ((weights > floor) & (_divergence(weights, floor) > worth))
    floor = float(weights[~listed].mean()) if not listed.all() else _TINY
    return listed, max(floor, _TINY)


def _tail_weights(p: np.ndarray, keep: np.ndarray, unit: float) -> np.ndarray:
    left = len(p) - keep.sum(axis=0)
    mean = np.where(keep, 0, p).sum(axis=0) / np.maximum(left, 1)
    # A class that every view keeps has no tail; it is put among those with the highest weight.
    return np.maximum(np.where(left > 0, mean, unit / 8), _TINY)


def _mean(p: np.ndarray, where: np.ndarray, otherwise: float) -> float:
    return float(p[where].mean()) if where.any() else otherwise


def _divergence(p: np.ndarray, q: np.ndarray | float) -> np.ndarray:
    """Each term of KL(p || q) for masses that do not sum to one: never negative, 0 where they agree."""
    made: np.ndarray = p * np.log(np.maximum(p, _TINY) / q) - p + q
    return made
