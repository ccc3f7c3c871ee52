"""Codec: the soft labels of one sample, float32 `[V, C]`, to the bytes of a record and back, one view at a time.

A codec is a small frozen class; it opens no files. The byte layouts are normative in FORMAT.md, "Records";
`reinforce.labels.codecs` lists all codecs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from reinforce.errors import LabelError
from reinforce.labels.box import Box

Label = Any
"""What a codec decodes for one view: of classes a `SparseLabel`, else what its kind of labels knows (`label_kind.py`)."""


class Codec(ABC):
    """What a teacher said of the views of a sample, to bytes and back to labels."""

    name: ClassVar[str]
    form: ClassVar[str]
    """What a user types, for example `topk:K`."""
    labels: ClassVar[str] = "views"
    """The kind of labels that it stores (`label_kind.py`)."""
    drops_remainder: ClassVar[bool] = False
    """Whether other software with this form drops the remainder and trains on the stored classes alone; if so, `bench codec`
    measures that too."""
    keeps_top: ClassVar[bool] = False
    """Whether it promises that the top class of every decoded soft label, of equal ones the lowest id, is the teacher's."""
    description: ClassVar[str]
    """What it is, in one line."""

    @classmethod
    @abstractmethod
    def parse(cls, option: str) -> Codec:
        """The codec for the text that a user typed after the colon; empty: no option was given.

        Raises:
            UsageError: the codec has no such option.
        """

    @classmethod
    @abstractmethod
    def from_dict(cls, options: dict[str, Any]) -> Codec:
        """The codec with the options that `to_dict` gave, without the name.

        Raises:
            ValueError: other options, or values of another type or out of range.
        """

    @classmethod
    def named(cls) -> dict[str, Codec]:
        """Codecs of this class, with certain options, that users can call by a name of their own: name to codec."""
        return {}

    @property
    def about(self) -> str:
        """What it is with these options, in one line."""
        return self.description

    @abstractmethod
    def encode(self, answers: np.ndarray) -> bytes:
        """Encode the teacher's answers for one sample.

        Args:
            answers: float32 `[V, C]`, each row a distribution; for label maps scores, float32 `[1, h, w, C]`.

        Raises:
            LabelError: a row is not a distribution, or a score is not finite.
        """

    def probabilities(self, answers: np.ndarray) -> np.ndarray:
        """The distributions that `decode_all` would return if the codec lost nothing: float32 `[V, C]`."""
        return answers

    @abstractmethod
    def decode(self, record: memoryview | bytes, view: int, num_views: int, num_classes: int) -> Label:
        """Decode the label of one view.

        Raises:
            LabelError: the record is damaged.
        """

    @abstractmethod
    def decode_all(self, record: memoryview | bytes, num_views: int, num_classes: int) -> list[Label]:
        """Decode the labels of all views, faster than one by one.

        Raises:
            LabelError: the record is damaged.
        """

    def decode_crops(self, record: memoryview | bytes, boxes: Sequence[Box], num_classes: int) -> list[Label]:
        """The labels of any crops, where the kind of labels has them (`of_any_crop`).

        Raises:
            LabelError: the record is damaged, or its labels belong to the stored views.
        """
        raise LabelError(f"{self.name} has labels of the stored views.", expected="label maps, for labels of other crops")

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Configuration for the manifest; `codecs.codec_from_dict` reads it."""


def encode_stripes(codec: Codec, answers: np.ndarray, stripe_views: int) -> list[bytes]:
    """The records of one sample, each of `stripe_views` views; the last one has the views that are left."""
    return [codec.encode(answers[first : first + stripe_views]) for first in range(0, len(answers), stripe_views)]


def decode_stripes(
    codec: Codec, records: Iterable[memoryview | bytes], num_views: int, num_classes: int, stripe_views: int
) -> list[Label]:
    """The soft labels of all views of one sample.

    Raises:
        LabelError: a record is damaged.
    """
    lengths = [min(stripe_views, num_views - first) for first in range(0, num_views, stripe_views)]
    parts = zip(records, lengths, strict=True)
    return [label for record, views in parts for label in codec.decode_all(record, views, num_classes)]


def damaged(what: str, found: str, expected: str) -> LabelError:
    """The error for a record that cannot be decoded."""
    return LabelError(what, found=found, expected=expected, cause="a damaged file", fix="reinforce verify DIR")


def class_id_bytes(num_classes: int) -> int:
    """Bytes of one class id in a record: 2, or 4 when C > 65536."""
    return 2 if num_classes <= 1 << 16 else 4
