"""Half floats: probabilities rounded to float16 so that a row stays a distribution with the same top class, for `topk`.

Rounded one by one, a row may sum to more than one, leave nothing for classes that had something, turn small probabilities into
zeros, and turn the top class into one of several equal ones. Source of the rules: FORMAT.md, "Records".
"""

from __future__ import annotations

import numpy as np

LEAST = np.float16(2**-24)
"""The smallest positive float16."""
NOTHING = 1e-6
"""Mass of a row that may be stored as zero where K < C; the half float below one would leave 500 times as much."""
_NONE, _MORE = np.float16(0), np.float16(1)
_MARGIN = 1e-5


def half_floats(ids: np.ndarray, kept: np.ndarray, others: int) -> np.ndarray:
    """Round the kept probabilities of each row, which stay in falling order.

    Args:
        ids: Their classes, int `[V, K]`.
        kept: float32 `[V, K]`, falling, classes of equal ones rising; the first one is the row's top class.
        others: Number of classes that are not kept; they share the remainder evenly.

    Returns:
        float16 little-endian `[V, K]`, each row's sum at most 1. Where all classes are kept, none above zero is stored as zero;
        otherwise, what is stored as zero, or left to a remainder of zero, is at most `NOTHING` of a row.
    """
    totals = kept.sum(axis=1, dtype=np.float64)
    left = 1 - totals if others else np.zeros(len(kept))
    below = np.where(kept < LEAST, kept, 0).sum(axis=1, dtype=np.float64)
    strict = left + below > (NOTHING if others else 0)
    least = np.where((kept > 0) & strict[:, None], LEAST, _NONE)
    strict &= others > 0
    stored = np.maximum(kept.astype(np.float16), least)
    over = _over(stored, strict)
    # Rows may sum to slightly over one. Rounding does not lower a value that is exactly a half float, so they are divided.
    stored[over] = np.maximum(_towards_zero(kept[over] / np.maximum(totals[over, None], 1)), least[over])
    while (over := _over(stored, strict)).any():
        stored[over] = np.maximum(np.nextafter(stored[over], _NONE), least[over])
    tied = (stored == stored[:, :1]) & (kept < kept[:, :1]) & (ids < ids[:, :1])
    rows = np.flatnonzero(tied.sum(axis=1))  # a reader would take the lowest id
    stored[rows, 0] = np.nextafter(stored[rows, 0], _MORE)
    rows = rows[_over(stored[rows], strict[rows])]
    stored[rows, 0] = np.nextafter(stored[rows, 0], _NONE)
    stored[rows, 1:] = np.maximum(np.nextafter(stored[rows, 1:], _NONE), least[rows, 1:])
    if others:
        _raise_above_others(stored, kept, left, others)
    return stored.astype("<f2")


def _raise_above_others(stored: np.ndarray, kept: np.ndarray, left: np.ndarray, others: int) -> None:
    """Raise the top class of rows so flat that it was rounded below what each class that is not kept has of the remainder."""
    is_top = kept[:, 0] >= left / others * (1 - _MARGIN)
    while True:
        share = (1 - stored.sum(axis=1, dtype=np.float64)) / others
        rows = np.flatnonzero(is_top & (stored[:, 0] < share * (1 + _MARGIN)))
        if not len(rows):
            return
        stored[rows, 0] = np.nextafter(stored[rows, 0], _MORE)


def _over(stored: np.ndarray, strict: np.ndarray) -> np.ndarray:
    """The rows that sum to more than one, or, where `strict`, to one: bool `[V]`."""
    sums = stored.sum(axis=1, dtype=np.float64)
    made: np.ndarray = (sums > 1) | ((sums >= 1) & strict)
    return made


def _towards_zero(values: np.ndarray) -> np.ndarray:
    rounded = values.astype(np.float16)
    return np.where(rounded.astype(np.float64) > values, np.nextafter(rounded, _NONE), rounded)
