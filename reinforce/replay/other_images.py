"""Other images: those with which views are mixed one way. They may be any of the data set, with labels here or not."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from reinforce.errors import ImageError, ReplayError
from reinforce.memory import shortage
from reinforce.packs.open_labels import find_keys
from reinforce.sources.source import Source
from reinforce.store.label_store import LabelStore
from reinforce.store.probes import read_checked
from reinforce.views.decode import decode
from reinforce.views.one_way import ALONE
from reinforce.views.status import Status


class OtherImages:
    """Finds and reads images by their sample.

    Args:
        store: The reinforced dataset.
        source: Images; those that are not needed may be absent.
        check: Compare each image with its hash when it is read.
    """

    def __init__(self, store: LabelStore, source: Source, check: bool) -> None:
        self.store, self.source, self.check = store, source, check

    @cached_property
    def _positions(self) -> np.ndarray:
        """Position in the source of each sample, int64 `[N]`; -1: it has no image, or the source has not."""
        ok = np.flatnonzero(self.store.samples.status == Status.OK)
        found = np.full(len(self.store.samples), -1)
        found[ok] = find_keys(self.store, self.source, ok)
        return found

    def image(self, sample: int) -> np.ndarray:
        """The image of a sample: uint8 `[H, W, 3]`.

        Raises:
            ReplayError: the image is not in the source, cannot be read, or is not the one that the teacher saw.
        """
        position = int(self._found(np.array([sample]))[0])
        if self.check:
            known = self.store.samples
            return decode(read_checked(self.source, position, known.sha256[sample], int(known.crc32c[sample])))
        return read_decoded(self.source, position)

    def require(self, samples: np.ndarray) -> None:
        """Look for the images of these samples, of any shape; -1: a view is not mixed.

        Raises:
            ReplayError: one of them is not in the source.
        """
        others = np.unique(samples)
        self._found(others[others != ALONE])

    def _found(self, samples: np.ndarray) -> np.ndarray:
        count = len(self.store.samples)
        inside = (samples >= 0) & (samples < count)
        found: np.ndarray = np.where(inside, self._positions[np.where(inside, samples, 0)], -1)
        if (absent := samples[found < 0]).size:
            named = f" ({self.store.samples.key(int(absent[0]))})" if absent[0] in range(count) else ""
            raise ReplayError(
                "A view is mixed with an image that is not here.",
                found=f"{absent.size} such images, as sample {absent[0]}{named}, not in {self.source.location}",
                expected="all images that the labels were made from: partners are any of them",
                cause="only some of the images or shards, or damaged params",
                fix="give all of them as --data",
            )
        return found


def read_decoded(source: Source, position: int, rows: int | None = None) -> np.ndarray:
    """An image of a source, not compared with anything: uint8 `[H, W, 3]`, or the first `rows` of its rows.

    Raises:
        ReplayError: it cannot be read.
    """
    try:
        return decode(source.read(position), rows)
    except (OSError, ImageError) as error:
        if (short := shortage(error)) is not None:
            raise short from None
        found = error.what if isinstance(error, ImageError) else error.strerror or error
        raise ReplayError(f"Image {source.keys[position]} cannot be read.", found=found) from None
