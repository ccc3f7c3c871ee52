"""Top of `sqrt`: makes the top class of every decoded label the teacher's; `sqrt` asks this when it encodes.

Where several classes of a view share its highest symbol, the top class is marked (FORMAT.md, "Records") and decodes to more
than the others. Symbol 1 has no mark. There, and where no class was worth keeping, the symbols of the view are changed, in the
way that adds the least KL: views so flat that their top class is below one and a half steps of sqrt(p).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

OTHERS, RISE = -3 / 8, 1 / 2
"""A symbol s > 1 has the value s^2 - 3/8; that of the view's top class has 1/2 more."""
ONE = 128
"""The value of symbol 1 is stored in 1/128 delta^2."""
_MARGIN = 1 + 1e-5
"""A kept class counts as the top one if it exceeds every share of the tail by more than float32 rounds."""
_TINY = 1e-30


class Layout(NamedTuple):
    """What the views of a record share once it is read.

    Attributes:
        class_ids: int64 `[D]`, rising.
        weights: float64 `[D]`, tail weight of each, as stored.
        floor: Tail weight of every other class, as stored.
        one: Value of symbol 1.
        remainders: float64 `[T]`, remainder of each step.
        num_classes: C.
    """

    class_ids: np.ndarray
    weights: np.ndarray
    floor: float
    one: float
    remainders: np.ndarray
    num_classes: int


def decoded(layout: Layout, top: np.ndarray, symbols: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Probabilities as a reader has them: float64 `[V, D + 1]`; the last column is of each class outside of the dictionary.

    Args:
        layout: Of the record.
        top: Class id of each view's top class, int64 `[V]`; it has the rise where its symbol is above 1.
        symbols: int64 `[V, D]`, by rising class id.
        steps: Step of each view's remainder, int `[V]`.
    """
    kept = symbols > 0
    values = np.where(symbols > 1, symbols**2 + OTHERS, layout.one * kept)
    values += np.where((layout.class_ids == top[:, None]) & (symbols > 1), RISE, 0)
    tail = np.where(kept, 0, layout.weights)
    tail = np.concatenate([tail, np.full((len(tail), 1), layout.floor)], axis=1)
    mass = tail[:, :-1].sum(axis=1) + layout.floor * (layout.num_classes - len(layout.class_ids))
    count = kept.sum(axis=1)
    remainder = np.where(count > 0, np.where(count < layout.num_classes, layout.remainders[steps], 0), 1)
    tail *= (remainder / np.maximum(mass, _TINY))[:, None]
    tail[:, :-1] += values * ((1 - remainder) / np.maximum(values.sum(axis=1), _TINY))[:, None]
    return tail


def wrong_tops(layout: Layout, top: np.ndarray, symbols: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The views whose decoded top class, of equal ones the lowest id, is not `top`: bool `[V]`."""
    probs = decoded(layout, top, symbols, steps)
    kept = symbols > 0
    tail = np.concatenate([~kept, np.ones((len(kept), 1), bool)], axis=1)
    # Among shares of the tail equal ones are equal in every reader; a kept class and a share of the tail need a distance.
    probs = np.where(tail & (symbols.sum(axis=1) > 0)[:, None], probs * _MARGIN, probs)
    class_ids = layout.class_ids
    if len(class_ids) < layout.num_classes:
        holes = np.flatnonzero(class_ids != np.arange(len(class_ids)))
        outside = int(holes[0]) if len(holes) else len(class_ids)  # the lowest id that is not in the dictionary
        place = int(np.searchsorted(class_ids, outside))
        probs = np.insert(probs[:, :-1], place, probs[:, -1], axis=1)
        class_ids = np.insert(class_ids, place, outside)
    else:
        probs = probs[:, :-1]
    found: np.ndarray = class_ids[probs.argmax(axis=1)] != top
    return found


def settle(layout: Layout, probs: np.ndarray, symbols: np.ndarray, delta: float) -> tuple[np.ndarray, np.ndarray]:
    """Symbols and steps of remainders with which every view decodes to its top class, where it is kept.

    Args:
        layout: Of the record.
        probs: The teacher's, float64 `[V, C]`.
        symbols: int64 `[V, D]`, by rising class id.
        delta: Step of sqrt(p).
    """
    top, steps = probs.argmax(axis=1), remainder_steps(probs, layout.class_ids, symbols, delta)
    is_top = layout.class_ids == top[:, None]
    views = np.flatnonzero(wrong_tops(layout, top, symbols, steps) & (is_top & (symbols > 0)).any(axis=1))
    if not len(views):
        return symbols, steps
    p, own, tops, is_top = probs[views], symbols[views], top[views], is_top[views]
    lower = layout.class_ids < tops[:, None]
    tries = [
        np.where(is_top, np.maximum(own, 2), own),  # one symbol higher than the others
        np.where(is_top | ~lower | (own > 1), own, 0),  # those of a lower id, which win a tie, are left to the tail
        np.where(is_top, own, 0),  # all others are left to the tail
    ]
    chances = [(each, remainder_steps(p, layout.class_ids, each, delta)) for each in tries]
    alone = tries[-1], _alone(layout, tops, tries[-1], chances[-1][1])
    losses = [
        np.where(wrong_tops(layout, tops, *each), np.inf, _divergence(layout, p, decoded(layout, tops, *each)))
        for each in (*chances, alone)
    ]
    best = np.argmin(losses, axis=0)
    each = np.arange(len(views))
    symbols, steps = symbols.copy(), steps.copy()
    symbols[views] = np.stack([made for made, _ in (*chances, alone)])[best, each]
    steps[views] = np.stack([made for _, made in (*chances, alone)])[best, each]
    return symbols, steps


def least_biased_one(probs: np.ndarray, class_ids: np.ndarray, symbols: np.ndarray, mass: np.ndarray, one: float) -> int:
    """The value of symbol 1, in 1/128 delta^2, with which the mean probability of the views' top classes stays unbiased.

    The format fixes the values of all other symbols. This one moves mass between the top class and the rest.

    Args:
        probs: float64 `[V, C]`.
        class_ids: `[D]`, in the order of `symbols`.
        symbols: int64 `[V, D]`.
        mass: float64 `[V]`, what the decoded probabilities of a view sum to.
        one: The value to use if no view that keeps its top class has a symbol 1.
    """
    views, top = np.arange(len(probs)), probs.argmax(axis=1)
    is_top = (class_ids == top[:, None]) & (symbols > 0)
    stored, ones = is_top.any(axis=1), symbols == 1
    if not ones[stored].any():
        return int(np.clip(round(one * ONE), 1, 255))
    values = np.where(symbols > 1, symbols**2 + OTHERS + RISE * is_top, 0)
    candidates = np.arange(32, 256)
    each = candidates[:, None] / ONE
    top_values = np.where(is_top, values, 0).sum(axis=1) + each * (is_top & ones).any(axis=1)
    decoded = top_values / np.maximum(values.sum(axis=1) + each * ones.sum(axis=1), 1e-9) * mass
    bias = np.where(stored, decoded - probs[views, top], 0).mean(axis=1)
    return int(candidates[np.abs(bias).argmin()])


def remainder_steps(probs: np.ndarray, class_ids: np.ndarray, symbols: np.ndarray, delta: float) -> np.ndarray:
    """Step of the remainder of each view, int64 `[V]`."""
    left = 1 - np.where(symbols > 0, probs[:, class_ids], 0).sum(axis=1)
    # Equal steps of arcsin(sqrt(r)) cost equal KL near r = 0 and near r = 1; steps of sqrt(r) do so near 0 only.
    steps: np.ndarray = np.rint(np.arcsin(np.sqrt(left.clip(0, 1))) / (delta / 3)).astype(np.int64)
    return steps


def _alone(layout: Layout, top: np.ndarray, symbols: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The highest step of the remainder, at most the one given, with which a top class kept alone is above the tail."""
    steps = steps.copy()
    while (wrong := wrong_tops(layout, top, symbols, steps) & (steps > 0)).any():
        steps[wrong] -= 1
    return steps


def _divergence(layout: Layout, p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of each view, from `decoded`, up to a number that is the same for all q: float64 `[V]`."""
    listed = p[:, layout.class_ids]
    logs = np.log(np.maximum(q, _TINY))
    lost: np.ndarray = -(listed * logs[:, :-1]).sum(axis=1) - (1 - listed.sum(axis=1)) * logs[:, -1]
    return lost
