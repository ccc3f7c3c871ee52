"""Selection of `sqrt`: which probabilities of a sample's soft labels are worth their bytes; `sqrt` asks this when it encodes.

Every probability is either kept for its view, as a symbol s that stands for about (s delta)^2, or left to the tail, which the
views of a sample share. An error of a given size in sqrt(p) costs the same KL for large and for small p. A probability is
kept where this lowers the KL by more than `RATE * delta^2` nats for each bit that it takes; and so is, beside others, the top
class of a view, whatever it saves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RATE = 0.06
"""Nats that a bit must save, in units of delta^2; from .04 to .08, it and delta move along the same curve of KL and bytes."""
CLASS_BITS = 13.0
"""Approximate bits that one more class in the dictionary takes, for its id and its level."""
_ROUNDS = 2
_TINY = 1e-15


@dataclass(frozen=True)
class Kept:
    """What is kept of the soft labels of one sample.

    Attributes:
        class_ids: int64 `[D]`, the dictionary, rising: every class kept in some view or with a tail weight of its own.
        symbols: int64 `[V, D]`; 0: left to the tail.
        weights: float64 `[D]`, mean probability over the views in which a class is left to the tail.
        floor: The same, averaged over all classes that are not in the dictionary.
        one: Mean probability where the symbol is 1, in units of delta^2; without top classes below half a step.
    """

    class_ids: np.ndarray
    symbols: np.ndarray
    weights: np.ndarray
    floor: float
    one: float


def choose(probs: np.ndarray, delta: float, flat: np.ndarray | None = None) -> Kept:
    """Choose what to keep.

    Args:
        probs: float64 `[V, C]`, distributions.
        delta: Step of sqrt(p). Nothing below half a step is kept, but for the top classes of `flat`.
        flat: Views whose top class is kept in any case, bool `[V]`; of other views, where any class is kept.
    """
    views, unit = len(probs), delta * delta
    # A class below half a step in every view is never kept: this rules out most classes, whose roots are not needed.
    possible = np.sqrt(probs.max(axis=0)) / delta >= 0.5
    top = probs.argmax(axis=1)
    if flat is not None:
        possible[top[flat]] = True
    candidates = np.flatnonzero(possible)
    p = probs[:, candidates]
    x = np.sqrt(p) / delta
    steps = np.maximum(np.rint(x), 1).astype(np.int64)
    is_one = steps == 1
    value_bits = np.where(is_one, 0.5, np.log2(steps) + 1.5)
    keep = x >= 0.5
    for _ in range(_ROUNDS):
        one, weights, counts = _mean(p, keep & is_one, unit), _tail_weights(p, keep, unit), keep.sum(axis=0)
        place_bits = np.log2((views + 1) / (counts + 0.5)) + 1 + CLASS_BITS / np.maximum(counts, 1)
        saved = _divergence(p, weights) - _divergence(p, np.where(is_one, one, unit * steps**2))
        keep = (x >= 0.5) & (saved > RATE * unit * (place_bits + value_bits))
    keep |= (candidates == top[:, None]) & (keep.any(axis=1) | (flat if flat is not None else False))[:, None]
    all_weights = np.maximum(probs.mean(axis=0), _TINY)
    all_weights[candidates] = _tail_weights(p, keep, unit)
    listed = np.zeros(probs.shape[1], bool)
    listed[candidates] = keep.any(axis=0)
    listed, floor = _extend(listed, all_weights, RATE * unit * CLASS_BITS / views)
    class_ids = np.flatnonzero(listed)
    symbols = np.zeros((views, len(class_ids)), np.int64)
    column = np.flatnonzero(listed[candidates])
    symbols[:, np.searchsorted(class_ids, candidates[column])] = np.where(keep, steps, 0)[:, column]
    return Kept(class_ids, symbols, all_weights[class_ids], floor, _mean(p, keep & is_one & (x >= 0.5), unit) / unit)


def _extend(kept: np.ndarray, weights: np.ndarray, worth: float) -> tuple[np.ndarray, float]:
    """Add the classes that no view keeps, but so far above the others' mean that a weight of their own is worth its bits."""
    listed = kept
    for _ in range(4):  # each round leaves fewer others, with a lower mean
        floor = float(weights[~listed].mean()) if not listed.all() else _TINY
        listed = kept | ((weights > floor) & (_divergence(weights, floor) > worth))
    floor = float(weights[~listed].mean()) if not listed.all() else _TINY
    return listed, max(floor, _TINY)


def _tail_weights(p: np.ndarray, keep: np.ndarray, unit: float) -> np.ndarray:
    left = len(p) - keep.sum(axis=0)
    mean = np.where(keep, 0, p).sum(axis=0) / np.maximum(left, 1)
    # A class that every view keeps has no tail; it gets a weight among the highest.
    return np.maximum(np.where(left > 0, mean, unit / 8), _TINY)


def _mean(p: np.ndarray, where: np.ndarray, otherwise: float) -> float:
    return float(p[where].mean()) if where.any() else otherwise


def _divergence(p: np.ndarray, q: np.ndarray | float) -> np.ndarray:
    """Each term of KL(p || q) for masses that need not sum to one: never negative, 0 where p = q."""
    made: np.ndarray = p * np.log(np.maximum(p, _TINY) / q) - p + q
    return made
