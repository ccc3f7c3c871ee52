"""Label means: averages over the stored labels of a data set, for the manifest, from the sums of each block."""

from __future__ import annotations

import numpy as np

from reinforce.errors import StoreError
from reinforce.labels.codec import decode_stripes
from reinforce.labels.codecs import codec_from_dict
from reinforce.labels.label_kind import kind_of
from reinforce.labels.sparse import SparseLabel, SparseLabels
from reinforce.settings import Model, Settings
from reinforce.store.block import Block
from reinforce.store.manifest import Statistics


class LabelSums(Model):
    """Sums over the labels of one block, or of several.

    Attributes:
        samples: How many have labels.
        views: Labels that are distributions over classes, and so have a top class and a remainder.
        top1: Of the highest probabilities.
        remainder: Of the remainders.
        agreeing: Labels whose top class is the hard label.
        labelled: Labels of samples with a hard label.
        measured: Samples on which the error of the codec was measured.
        label_error: Of its three figures, as in `BlockData.label_error`.
    """

    samples: int = 0
    views: int = 0
    top1: float = 0.0
    remainder: float = 0.0
    agreeing: int = 0
    labelled: int = 0
    measured: int = 0
    label_error: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __add__(self, other: LabelSums) -> LabelSums:
        both = {name: getattr(self, name) + getattr(other, name) for name in LabelSums.model_fields if name != "label_error"}
        error = tuple(a + b for a, b in zip(self.label_error, other.label_error, strict=True))
        return LabelSums(**both, label_error=error)

    def means(self) -> Statistics:
        """The averages.

        Raises:
            StoreError: not a single sample could be read.
        """
        if not self.samples:
            raise StoreError("No sample could be read.", expected="at least one image", fix="check --data")
        errors = [round(error / self.measured, 9) if self.measured else None for error in self.label_error]
        return Statistics(
            top1_probability=round(self.top1 / self.views, 6) if self.views else None,
            remainder=round(self.remainder / self.views, 6) if self.views else None,
            hard_label_agreement=round(self.agreeing / self.labelled, 6) if self.labelled else None,
            codec_samples=self.measured,
            codec_kl=errors[0],
            codec_top1_bias=errors[1],
            codec_image_bias=errors[2],
        )


def sums_of(block: Block, hard_labels: list[int | None], settings: Settings) -> LabelSums:
    """The sums of a block, from its labels as they are stored.

    Args:
        block: The block.
        hard_labels: Of its samples, row by row.
        settings: Settings of the data set.
    """
    codec, kind = codec_from_dict(settings.codec), kind_of(settings.codec)
    samples, views, agreeing, labelled = 0, 0, 0, 0
    top1, remainder = 0.0, 0.0
    for row, hard_label in enumerate(hard_labels):
        records = [stripe.record(row) for stripe in block.stripes]
        if not len(records[0]):
            continue
        decoded = map(
            kind.distribution, decode_stripes(codec, records, settings.views, settings.num_classes, settings.stripe_views)
        )
        labels = [label for label in decoded if label is not None]
        tops = [_top(label, settings.num_classes) for label in labels]
        samples, views = samples + 1, views + len(labels)
        top1 += sum(probability for _, probability in tops)
        remainder += sum(label.remainder for label in labels)
        if hard_label is not None:
            agreeing += sum(class_id == hard_label for class_id, _ in tops)
            labelled += len(labels)
    errors = block.label_error().astype(np.float64)
    errors = errors[~np.isnan(errors[:, 0])]
    return LabelSums(
        samples=samples,
        views=views,
        top1=float(top1),
        remainder=float(remainder),
        agreeing=agreeing,
        labelled=labelled,
        measured=len(errors),
        label_error=tuple(errors.sum(axis=0).tolist()),
    )


def _top(label: SparseLabel, num_classes: int) -> tuple[int, float]:
    """The class of the highest probability, of equal ones the lowest as in a dense row, and that probability."""
    if not len(label.probs):  # no class was kept, there is only the tail
        dense = SparseLabels.stack([label], num_classes).dense()[0]
        return int(dense.argmax()), float(dense.max())
    highest = label.probs.max()
    return int(label.class_ids[label.probs == highest].min()), float(highest)
