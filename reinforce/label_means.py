"""Label means: what the stored labels of a data set are like on average; goes into the manifest."""

from __future__ import annotations

import numpy as np

from reinforce.block import Block
from reinforce.codec import codec_from_dict
from reinforce.errors import StoreError
from reinforce.manifest import Settings, Statistics


class LabelMeans:
    """Running means over the labels as stored, block by block."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.codec = codec_from_dict(settings.codec)
        self.views, self.top1, self.remainder, self.agreeing, self.labelled = 0, 0.0, 0.0, 0, 0

    def add(self, block: Block, hard_labels: list[int | None]) -> None:
        """Count the labels of a block; samples that are not ok have none."""
        for row, hard_label in enumerate(hard_labels):
            record = block.record(row)
            if not len(record):
                continue
            rows = self.codec.decode_all(record, self.settings.views, self.settings.num_classes)
            self.views += len(rows)
            self.top1 += sum(float(probs.max()) for _, probs, _ in rows)
            self.remainder += sum(remainder for _, _, remainder in rows)
            if hard_label is not None:
                self.agreeing += sum(int(ids[np.argmax(probs)]) == hard_label for ids, probs, _ in rows)
                self.labelled += len(rows)

    def result(self) -> Statistics:
        """The means.

        Raises:
            StoreError: not a single sample could be read.
        """
        if not self.views:
            raise StoreError("No sample could be read.", expected="at least one image", fix="check --data")
        return Statistics(
            top1_probability=round(self.top1 / self.views, 6),
            remainder=round(self.remainder / self.views, 6),
            hard_label_agreement=round(self.agreeing / self.labelled, 6) if self.labelled else None,
        )
