"""Reader: the base of all readers of other systems' soft labels, and the checks that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from reinforce.errors import StoreError, first_line
from reinforce.labels.codec import Codec
from reinforce.labels.sparse import SparseLabel, SparseLabels
from reinforce.labels.topk import top_columns
from reinforce.policy import Policy
from reinforce.settings import Origin

MAX_VIEWS = 65535
"""Most views of a sample, as `Settings` has them."""
LARGEST_ID = 1 << 31
"""Class ids above this are no class ids."""


class PeerEntry(NamedTuple):
    """The labels of one sample as found in the files: which sample (a key, or a position in the source), and the bytes."""

    which: str | int
    content: bytes


@dataclass(frozen=True)
class PeerViews:
    """The views of one sample.

    Attributes:
        params: int32 `[V, P]`.
        record: The labels of all views, encoded.
    """

    params: np.ndarray
    record: bytes


@dataclass(frozen=True)
class ReadOptions:
    """Facts that the files do not contain, so the user states them.

    Attributes:
        num_classes: C.
        teachers: Names; None: the teachers that are known for the format.
        size: Height and width of the views in pixels, as the students of these labels see them.
        tail: FKD: the mass not listed is spread evenly (`uniform`), or the listed mass is scaled to one (`renorm`).
        axes: ReLabel: order of the last two axes of a map: `wh`, as its own loader reads them, or `hw`.
        scratch: TinyViT: a folder for a temporary file of four bytes per image and epoch; None: the system's.
    """

    num_classes: int = 1000
    teachers: list[str] | None = None
    size: int = 224
    tail: str = "uniform"
    axes: str = "wh"
    scratch: Path | None = None

    @property
    def names(self) -> list[str]:
        """Names of the teachers, for formats whose files do not name them."""
        return self.teachers or ["unknown"]


class Reader(ABC):
    """The files of one format.

    Attributes:
        format: Name of the format, as `reinforce import` takes it.
        origin: Entry for the manifest.
        policy: The policy whose params layout the views have.
        views: V.
        codec: Codec of the records.
        size: Height and width of the views in pixels.
        num_classes: C.
        teachers: Names of the teachers.
        arithmetic: What makes the pixels of `peer_view`, as text; None: nothing does.
        counted: Numbers of samples count the images as torchvision's ImageFolder does, whatever the order of the source is.
    """

    format: ClassVar[str]
    arithmetic: str | None = None
    counted: ClassVar[bool] = False
    origin: Origin
    policy: Policy
    views: int
    codec: Codec
    size: int
    num_classes: int
    teachers: list[str]

    @classmethod
    @abstractmethod
    def open(cls, path: Path, given: ReadOptions) -> Reader:
        """A reader of the files at `path`; it reads the first file to find out the layout.

        Raises:
            StoreError: there are no files, or they are damaged.
            UsageError: this variant of the format cannot be imported.
        """

    @abstractmethod
    def entries(self) -> Iterator[PeerEntry]:
        """All samples, in any order."""

    @abstractmethod
    def parse(self, content: bytes, width: int, height: int) -> PeerViews:
        """The views of a sample whose image has this width and height in pixels.

        Raises:
            StoreError: the labels are damaged, or do not follow the format.
        """

    def peer_view(self, content: bytes, view: int, image: Image.Image) -> np.ndarray | None:
        """The pixels that the authors' own loader makes of a view, from the params as the file has them.

        Args:
            content: Labels of the sample as found in the files; `parse` accepted them.
            view: Which of its views.
            image: The image, RGB.

        Returns:
            uint8 `[3, size, size]`; None: how the loader makes them is not known here.
        """
        return None


def check_top(ids: np.ndarray, probs: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Top classes of views in the form that `TopK.pack` needs: sorted by falling probability, sums of at most one.

    Args:
        ids: `[V, K]`, whole numbers of any dtype.
        probs: `[V, K]`.
        num_classes: C.

    Raises:
        StoreError: the values are not class ids and probabilities.
    """
    if ids.shape != probs.shape or ids.ndim != 2 or not ids.size:
        raise bad_labels(f"class ids {list(ids.shape)} and probabilities {list(probs.shape)}")
    if ids.dtype.kind not in "fiu" or probs.dtype.kind not in "fiu":  # an id of more than 64 bits makes an array of objects
        raise bad_labels("class ids or probabilities that are no numbers, or too large")
    if not np.isfinite(ids).all() or not np.isfinite(probs).all() or np.abs(ids.astype(np.float64)).max() > LARGEST_ID:
        raise bad_labels("NaN, infinity, or a class id of more digits than there are classes")
    whole, values = ids.astype(np.int64), probs.astype(np.float64)
    if not np.array_equal(whole, ids):
        raise bad_labels("a class id that is no whole number")
    if whole.min() < 0 or whole.max() >= num_classes or values.min() < 0:
        raise bad_labels(f"class ids {whole.min()} to {whole.max()}, lowest probability {values.min():.3g}")
    if ids.shape[1] > 1 and not np.diff(np.sort(whole, axis=1), axis=1).all():
        raise bad_labels("a class twice in a view")
    sums = values.sum(axis=1)
    if sums.max() > 1.02:
        raise bad_labels(f"probabilities that sum to {sums.max():.3g}")
    values /= np.maximum(sums, 1.0)[:, None]  # sums may exceed one where half floats were rounded up
    order = np.argsort(-values, axis=1, kind="stable")
    return np.take_along_axis(whole, order, axis=1), np.take_along_axis(values, order, axis=1).astype(np.float32)


def check_views(count: int) -> None:
    """Refuse more views of a sample than a store holds.

    Raises:
        StoreError: there are more, or none.
    """
    if not 1 <= count <= MAX_VIEWS:
        raise bad_labels(f"{count} views of a sample, and at most {MAX_VIEWS} can be stored")


@contextmanager
def reading() -> Iterator[None]:
    """While files of unknown origin are read: what no reader has foreseen is told as damage, and never as a traceback.

    Raises:
        StoreError: something else than an error of ours was raised.
    """
    try:
        yield
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError, AssertionError) as error:
        raise bad_labels(first_line(error)) from error


def top_of(label: SparseLabel, k: int, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The k likeliest classes of a decoded label and their probabilities: int64 `[k]`, float32 `[k]`."""
    dense = SparseLabels.stack([label], num_classes).dense()[0].numpy()
    ids = top_columns(dense[None], min(k, num_classes))[0]
    return ids, dense[ids]


def check_boxes(boxes: np.ndarray, width: int, height: int) -> None:
    """Refuse boxes, int `[V, 4]` (top, left, height, width), that are not within an image.

    Raises:
        StoreError: a box is not within the image.
    """
    ends = boxes[:, :2] + boxes[:, 2:]
    outside = (boxes.min(axis=1) < 0) | (boxes[:, 2:].min(axis=1) < 1) | (ends > (height, width)).any(axis=1)
    if outside.any():
        bad = int(np.argmax(outside))
        raise StoreError(
            "A crop is not within its image.",
            found=f"{boxes[bad].tolist()}, {width}x{height} pixels",
            expected="boxes in pixels of the image that the labels were made from",
            cause="other images than those, or resized ones",
            fix="give the original images as --data",
        )


def bad_labels(found: str) -> StoreError:
    """The error for labels that are damaged or do not follow the format."""
    return StoreError(
        "Labels of a view are damaged.",
        found=found,
        expected="class ids below the number of classes, each once, and probabilities that sum to one at most",
        cause="a damaged file, or another variant of the format",
        fix="see the options of `reinforce import`",
    )
