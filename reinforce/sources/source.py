"""Source: the base class of all kinds of sources of encoded images and hard labels.

A source is indexed once; samples are read by position and identified by key. `reinforce.sources.open_source` opens any kind. To
add a kind, write a subclass with a `kind`, an `open` and a `read`, and add it to the registry in that module. Each kind decides
what its `places` hold. All kinds pass the same tests (tests/sources/test_sources.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow.compute as pc

from reinforce.errors import SourceError, UsageError
from reinforce.sources.column import Column, all_differ, numbers, texts

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Source:
    """An indexed source of N samples.

    Attributes:
        location: The text from which it was opened, as the user gave it.
        keys: Key of every sample, unique, in index order; a `Column`, whatever it was made from.
        labels: Class id of every sample, likewise; None if the source is unlabelled.
        class_names: Name of every class; empty if the source is unlabelled.
        places: Where the bytes of each sample are; a sequence of length N.
        groups: int64 `[N]`: samples with the same number lie together and are quick to read one after the other; None: the
            order of reading makes no difference.
    """

    location: str
    keys: Sequence[str]
    labels: Sequence[int] | None
    class_names: tuple[str, ...]
    places: Any
    groups: np.ndarray | None = None

    kind: ClassVar[str]
    """The name that a user may write before the location to state the kind, as in `wds:...`."""
    suffix: ClassVar[str | None] = None
    """The suffix by which files of this kind are recognised, in lower case; None: they are not recognised by a suffix."""
    in_folders: ClassVar[bool] = False
    """Whether a user may give a folder and mean all files with that suffix in it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", texts(self.keys))
        if self.labels is not None:
            object.__setattr__(self, "labels", numbers(self.labels))

    @classmethod
    def recognises(cls, text: str, names: Sequence[str]) -> bool:
        """Whether the value of `--data` means this kind, although the user did not state a kind.

        Args:
            text: The value of `--data`, in lower case.
            names: Names of the files in the folder, if the value is a folder.
        """
        if cls.suffix is None:
            return False
        return text.endswith(cls.suffix) or (cls.in_folders and any(name.endswith(cls.suffix) for name in names))

    @classmethod
    def open(cls, location: str) -> Source:
        """Open and index a source.

        Raises:
            SourceError: the source cannot be opened; the message says why.
        """
        raise NotImplementedError

    @classmethod
    def open_option(cls, location: str, download: bool) -> Source:
        """Open the value of `--data`; `download`: fetch the files if they are missing.

        Raises:
            SourceError: the source cannot be opened, or this kind cannot be downloaded.
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
        """Whether the source also has soft labels, which `reinforce pack` puts beside the images."""
        return False

    @property
    def groups_at_once(self) -> int | None:
        """Most groups that a process holds in memory at a time; None: it holds no groups and reads single samples."""
        return None

    def __len__(self) -> int:
        return len(self.keys)

    def label(self, index: int) -> int | None:
        """Class id of a sample; None if the source is unlabelled."""
        return None if self.labels is None else self.labels[index]

    def read(self, index: int) -> bytes:
        """The encoded bytes of a sample.

        Raises:
            OSError: the bytes are gone or cannot be read.
        """
        raise NotImplementedError

    def where(self, index: int) -> str:
        """Where a sample is, as text for messages."""
        return f"{self.keys[index]} in {self.location}"

    def looks_in(self, path: str | Path) -> bool:
        """Whether what is written at `path` could be found as images or classes when the source is opened again."""
        return False

    def take(self, indices: Sequence[int]) -> Self:
        """The same source with only the samples at `indices`, in that order."""
        rows = np.asarray(indices, np.int64)
        return replace(
            self,
            keys=texts(self.keys).take(rows),
            labels=None if self.labels is None else numbers(self.labels).take(rows),
            places=self._places_of(rows),
            groups=None if self.groups is None else self.groups[rows],
        )

    def _places_of(self, rows: np.ndarray) -> Any:
        if isinstance(self.places, Column):
            return self.places.take(rows)
        return self.places[rows] if isinstance(self.places, np.ndarray) else tuple(self.places[i] for i in rows)

    def index_sha256(self) -> str:
        """Hash of the index: class names, keys and labels in order. The bytes of each image have their own hash elsewhere."""
        return index_sha256(self.class_names, self.keys, self.labels)


def index_sha256(class_names: Sequence[str], keys: Iterable[str], labels: Iterable[int | None] | None) -> str:
    """Hash over class names, keys and labels in order (FORMAT.md, "Manifest"); `labels` None: no sample has one."""
    digest = hashlib.sha256("\0".join(class_names).encode())
    for key, label in zip(keys, labels, strict=True) if labels is not None else ((key, None) for key in keys):
        digest.update(f"\n{label}\0{key}".encode())
    return digest.hexdigest()


def check_outside(source: Source, out: str | Path, option: str = "--data") -> None:
    """Refuse to write into the source: the folder that is written would be a class when the images are read again.

    Raises:
        UsageError: `out` is inside of the source.
    """
    if source.looks_in(out):
        raise UsageError(
            f"--out is inside of {option}.",
            found=f"{out} in {source.location}",
            expected="a folder beside the images: inside, it would be taken for a class",
            fix="choose another --out",
        )


def check_index(keys: Sequence[str], names: Iterable[str], class_names: Sequence[str] = ()) -> None:
    """Refuse an index in which a key does not identify one sample.

    Args:
        keys: Key of every sample.
        names: Name of every sample in the source, such as its path; for messages.
        class_names: Names of the classes.

    Raises:
        SourceError: no samples, two samples with the same key, or a name that is not text.
    """
    if not len(keys):
        raise SourceError("There are no images.", expected="files ending in " + " ".join(IMAGE_SUFFIXES), fix="check --data")
    check_texts(class_names)
    if not isinstance(keys, Column):
        check_texts(keys)
    if all_differ(keys.array) if isinstance(keys, Column) else len(set(keys)) == len(keys):
        return
    seen: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key in seen:
            raise SourceError(
                "Two images have one key.",
                found=f"{seen[key]} and {name}",
                expected="paths that differ also without their suffix: a path without suffix is the key of its sample",
                fix="rename one of them",
            )
        seen[key] = name


def check_texts(names: Iterable[str]) -> None:
    """Refuse names of files that are no Unicode.

    Raises:
        SourceError: one is not.
    """
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(
                "A file name is not UTF-8.", found=ascii(name), expected="names that can be stored as text", fix="rename it"
            ) from None


def numbered_classes(labels: Sequence[int], names: Sequence[str] | None, location: str) -> tuple[str, ...]:
    """Names of the classes of a source whose labels are numbers: the given names, or the numbers from 0 to the highest label.

    Raises:
        SourceError: a label is negative or has no name.
    """
    if isinstance(labels, Column) and len(labels):
        low, high = (pc.min_max(labels.array)[end].as_py() for end in ("min", "max"))
    else:
        low, high = min(labels, default=0), max(labels, default=-1)
    count = high + 1 if names is None else len(names)
    if low < 0 or high >= min(count, 1 << 24):
        raise SourceError(
            f"The labels of {location} are not class ids.", found=f"{low} to {high}", expected=f"0 to {min(count, 1 << 24) - 1}"
        )
    return tuple(names) if names is not None else tuple(map(str, range(count)))
