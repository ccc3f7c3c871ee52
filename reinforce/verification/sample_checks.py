"""Sample checks: find faults in the params and labels of one sample; and `Check`, which counts faults."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from reinforce.errors import LabelError
from reinforce.store.label_store import LabelStore
from reinforce.store.partners import partner_fault
from reinforce.views.one_way import ALONE
from reinforce.views.operations import OPERATIONS
from reinforce.views.params import OP_SLOT_BASE, Field, PixelSpec

ALL_VIEWS_LIMIT = 2_000_000
"""In a data set of at most this many views, every label is decoded; in a larger one, one view per sample."""
_KEPT_FAILURES = 10


@dataclass
class Check:
    """One kind of check: how many things were looked at, how many failed, and the first failures in words."""

    name: str
    total: int = 0
    failed: int = 0
    failures: list[str] = field(default_factory=list)
    note: str = ""

    def add(self, failure: str | None) -> None:
        """Count one checked thing; `failure` says what is wrong with it; None: nothing is."""
        self.total += 1
        if failure is not None:
            self.failed += 1
            if len(self.failures) < _KEPT_FAILURES:
                self.failures.append(failure)


def bad_params(store: LabelStore, key: str, params: np.ndarray, width_height: np.ndarray) -> str | None:
    """What is wrong with the params of a sample, int32 `[V, P]`, or None."""
    bad = np.flatnonzero(~_sound(store.spec, params, width_height[None]))
    what = "a box outside of the image or view, an unknown op, or an argument that it does not take"
    if len(bad):
        return f"{key}, view {bad[0]}: {what}"
    if store.spec.other is None:
        return None
    if fault := partner_fault(params, store.spec, store.samples):
        return f"{key}: {fault}"
    others = params[:, store.spec.fields.index(Field.OTHER)]
    mixed = np.flatnonzero(others != ALONE)
    theirs = params[mixed][:, store.spec.other_columns]
    bad = mixed[~_sound(store.spec.other, theirs, store.samples.width_height[others[mixed]])]
    return f"{key}, view {bad[0]}: of the other view, {what}" if len(bad) else None


def _sound(spec: PixelSpec, params: np.ndarray, width_height: np.ndarray) -> np.ndarray:
    """Which views, int32 `[n, P]`, of images of these sizes, `[n, 2]` or `[1, 2]`, can be made: bool `[n]`."""
    columns = {f: params[:, c].astype(np.int64) for c, f in enumerate(spec.fields)}
    width, height = width_height.T.astype(np.int64)
    top, left = columns[Field.CROP_TOP], columns[Field.CROP_LEFT]
    bottom, right = top + columns[Field.CROP_HEIGHT], left + columns[Field.CROP_WIDTH]
    inside: np.ndarray = (top >= 0) & (left >= 0) & (bottom > top) & (right > left)
    inside &= (bottom <= height) & (right <= width)
    if Field.ERASE_TOP in columns:
        for start, length in ((Field.ERASE_TOP, Field.ERASE_HEIGHT), (Field.ERASE_LEFT, Field.ERASE_WIDTH)):
            inside &= (columns[start] >= 0) & (columns[length] >= 0)
            inside &= columns[start] + columns[length] <= spec.size
    for slot in range(spec.num_slots):
        op, interpolation, a, b = (columns[OP_SLOT_BASE + 4 * slot + part] for part in range(4))
        known = np.zeros(len(op), bool)
        for each in np.intersect1d(op, list(OPERATIONS)).tolist():
            known |= (op == each) & ~OPERATIONS[each].faults(interpolation, a, b)
        inside &= known
    return inside


def bad_labels(store: LabelStore, key: str, sample: int, view: int | None) -> str | None:
    """What is wrong with the labels of one view of a sample, or of all (None); or None."""
    try:
        labels = store.labels_of(sample) if view is None else [store.label_of(sample, view)]
    except LabelError as error:
        return f"{key}: {error.what}"
    faults = (fault for label in labels if (fault := store.kind.label_fault(label)) is not None)
    return next((f"{key}: {fault}" for fault in faults), None)
