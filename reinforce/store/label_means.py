"""Label means: averages over the stored labels of a data set, for the manifest."""

from __future__ import annotations

import numpy as np

from reinforce.errors import StoreError
from reinforce.labels.codec import decode_stripes
from reinforce.labels.codecs import codec_from_dict
from reinforce.labels.label_kind import kind_of
from reinforce.labels.sparse import SparseLabel, SparseLabels
from reinforce.settings import Settings
from reinforce.store.block import Block
from reinforce.store.manifest import Statistics


class LabelMeans:
    """Running means over the labels as stored, block by block."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.codec, self.kind = codec_from_dict(settings.codec), kind_of(settings.codec)
        self.samples, self.views, self.top1, self.remainder, self.agreeing, self.labelled = 0, 0, 0.0, 0.0, 0, 0
        self.label_errors: list[np.ndarray] = []

    def add(self, block: Block, hard_labels: list[int | None]) -> None:
        """Add the labels of a block; samples that are not ok have none."""
        for row, hard_label in enumerate(hard_labels):
            records = [stripe.record(row) for stripe in block.stripes]
            if not len(records[0]):
                continue
            views, classes, stripe_views = self.settings.views, self.settings.num_classes, self.settings.stripe_views
            decoded = map(self.kind.distribution, decode_stripes(self.codec, records, views, classes, stripe_views))
            labels = [label for label in decoded if label is not None]
            self.samples += 1
            tops = [self._top(label) for label in labels]
            self.views += len(labels)
            self.top1 += sum(probability for _, probability in tops)
            self.remainder += sum(label.remainder for label in labels)
            if hard_label is not None:
                self.agreeing += sum(class_id == hard_label for class_id, _ in tops)
                self.labelled += len(labels)
        self.label_errors.append(block.label_error())

    def _top(self, label: SparseLabel) -> tuple[int, float]:
        if not len(label.probs):  # no class was kept, there is only the tail
            dense = SparseLabels.stack([label], self.settings.num_classes).dense()[0]
            return int(dense.argmax()), float(dense.max())
        highest = label.probs.max()
        return int(label.class_ids[label.probs == highest].min()), float(
            highest
        )  # of equal ones the lowest id, as in a dense row

    def result(self) -> Statistics:
        """The means.

        Raises:
            StoreError: not a single sample could be read.
        """
        if not self.samples:
            raise StoreError("No sample could be read.", expected="at least one image", fix="check --data")
        errors = np.concatenate(self.label_errors).astype(np.float64)
        errors = errors[~np.isnan(errors[:, 0])]
        kl, top1_bias, image_bias = (round(float(e), 9) for e in errors.mean(axis=0)) if len(errors) else (None,) * 3
        return Statistics(
            top1_probability=round(self.top1 / self.views, 6) if self.views else None,
            remainder=round(self.remainder / self.views, 6) if self.views else None,
            hard_label_agreement=round(self.agreeing / self.labelled, 6) if self.labelled else None,
            codec_samples=len(errors),
            codec_kl=kl,
            codec_top1_bias=top1_bias,
            codec_image_bias=image_bias,
        )
