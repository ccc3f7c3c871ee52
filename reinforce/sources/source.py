"""Source: where encoded images and hard labels come from, whatever the kind: indexed once, read by position, known by key.

`reinforce.sources.open_source` opens any kind. A kind is a subclass with a `kind`, an `open` and a `read`, and one line in its
registry; what a sample's `places` hold is its own affair. All pass one set of tests (tests/sources/test_sources.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np

from reinforce.errors import SourceError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Source:
    """An indexed source of N samples.

    Attributes:
        location: What it was opened from, as given.
        keys: Key of every sample, unique, in index order.
        labels: Class id of every sample, or None where the source is unlabelled.
        class_names: Name of every class; empty where the source is unlabelled.
        places: Where each sample's bytes lie: something of length N.
        groups: int64 `[N]`, samples with one number lie together and are quick to read one after the other; None: no matter.
    """

    location: str
    keys: tuple[str, ...]
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...]
    places: Any
    groups: np.ndarray | None = None

    kind: ClassVar[str]
    """What may be stated in front: `wds:...`."""
    suffix: ClassVar[str | None] = None
    """How files of this kind end, where it is recognised by that; in lower case."""
    in_folders: ClassVar[bool] = False
    """Whether a folder with such files stands for all of them."""

    @classmethod
    def recognises(cls, text: str, names: Sequence[str]) -> bool:
        """Whether `--data` means this kind without stating it.

        Args:
            text: What was given, in lower case.
            names: Of the files in it, where it is a folder.
        """
        if cls.suffix is None:
            return False
        return text.endswith(cls.suffix) or (cls.in_folders and any(name.endswith(cls.suffix) for name in names))

    @classmethod
    def open(cls, location: str) -> Source:
        """Index it.

        Raises:
            SourceError: whatever is wrong with it.
        """
        raise NotImplementedError

    @classmethod
    def open_option(cls, location: str, download: bool) -> Source:
        """Open what `--data` says; `download`: fetch it, where it is not there.

        Raises:
            SourceError: whatever is wrong with it.
        """
        if download:
            raise SourceError(
                "--download is for data sets of torchvision.",
                found=location,
                expected="torchvision:NAME",
                fix="leave --download out",
            )
        return cls.open(location)

    @property
    def has_labels(self) -> bool:
        """Whether soft labels stand beside the images, as `reinforce pack` puts them there."""
        return False

    @property
    def groups_at_once(self) -> int | None:
        """How many groups a process holds at a time, at most; None: it holds none, and reads samples one by one."""
        return None

    def __len__(self) -> int:
        return len(self.keys)

    def label(self, index: int) -> int | None:
        """Class id of a sample, or None."""
        return None if self.labels is None else self.labels[index]

    def read(self, index: int) -> bytes:
        """The encoded bytes of a sample.

        Raises:
            OSError: they are gone or cannot be read.
        """
        raise NotImplementedError

    def where(self, index: int) -> str:
        """Where a sample lies, for people."""
        return f"{self.keys[index]} in {self.location}"

    def take(self, indices: Sequence[int]) -> Self:
        """The same source with only the samples at `indices`, in that order."""
        rows = np.asarray(indices, np.int64)
        return replace(
            self,
            keys=tuple(self.keys[i] for i in rows),
            labels=None if self.labels is None else tuple(self.labels[i] for i in rows),
            places=self.places[rows] if isinstance(self.places, np.ndarray) else tuple(self.places[i] for i in rows),
            groups=None if self.groups is None else self.groups[rows],
        )

    def index_sha256(self) -> str:
        """A hash of what the index says: classes, keys and labels in order. Image bytes are hashed one by one elsewhere."""
        return index_sha256(self.class_names, self.keys, self.labels or [None] * len(self))


def index_sha256(class_names: Sequence[str], keys: Sequence[str], labels: Sequence[int | None]) -> str:
    """Hash over class names, keys and labels in order (FORMAT.md, "Manifest")."""
    digest = hashlib.sha256("\0".join(class_names).encode())
    for key, label in zip(keys, labels, strict=True):
        digest.update(f"\n{label}\0{key}".encode())
    return digest.hexdigest()


def check_index(keys: Sequence[str], names: Sequence[str], class_names: Sequence[str] = ()) -> None:
    """Refuse an index that a sample could not be known by.

    Args:
        keys: Key of every sample.
        names: What each is called where it lies.
        class_names: Of the source.

    Raises:
        SourceError: no samples, two with one key, or a name that is not text.
    """
    if not len(keys):
        raise SourceError("There are no images.", expected="files ending in " + " ".join(IMAGE_SUFFIXES), fix="check --data")
    for name in (*class_names, *keys):
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(
                "A file name is not UTF-8.", found=ascii(name), expected="names that can be stored as text", fix="rename it"
            ) from None
    if len(set(keys)) == len(keys):
        return
    seen: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key in seen:
            raise SourceError(
                "Two images have one key.",
                found=f"{seen[key]} and {name}",
                expected="paths that differ without their suffix: that is how a sample is known",
                fix="rename one of them",
            )
        seen[key] = name


def numbered_classes(labels: Sequence[int], names: Sequence[str] | None, location: str) -> tuple[str, ...]:
    """Names of the classes of a source whose labels are numbers: those given, or the numbers up to the highest.

    Raises:
        SourceError: labels without a name, or negative ones.
    """
    low, high = min(labels, default=0), max(labels, default=-1)
    count = high + 1 if names is None else len(names)
    if low < 0 or high >= min(count, 1 << 24):
        raise SourceError(
            f"The labels of {location} are not class ids.", found=f"{low} to {high}", expected=f"0 to {min(count, 1 << 24) - 1}"
        )
    return tuple(names) if names is not None else tuple(map(str, range(count)))
