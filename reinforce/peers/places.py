"""Places: which image of a source the labels in a file belong to, found by the key or the number that the file has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np

from reinforce.errors import StoreError
from reinforce.peers.reader import Reader
from reinforce.sources.source import Source

_TWICE = -1


class Places:
    """The images of a source, to be found by what files of labels call them.

    Args:
        source: The images.
        counted: Numbers in the files count the images as torchvision's ImageFolder does, whatever the order of the source: by
            class folder, then by folder, then by name, each compared as text, so that `x_10` stands before `x_9`. Images whose
            keys are numbers already, as those of CIFAR-100, are counted as they are.
    """

    def __init__(self, source: Source, counted: bool = False) -> None:
        self.source, self.counted = source, counted

    def find(self, which: str | int) -> int | None:
        """Position of an image in the source; None: there is no such image.

        A key may have a path of its authors' disk in front of the class folder. A key without any folder is looked for among
        the last parts of the images' keys.

        Raises:
            StoreError: several images have this name.
        """
        if isinstance(which, int):
            if not 0 <= which < len(self.source):
                return None
            return int(self.positions(np.array([which]))[0])
        parts = which.split("/")
        if len(parts) == 1 and which not in self._by_key:
            return self._by_last_part(which)
        names = (which, "/".join(parts[-2:]), parts[-1])
        return next((self._by_key[name] for name in names if name in self._by_key), None)

    def positions(self, numbers: np.ndarray) -> np.ndarray:
        """Positions in the source of images by their numbers in the files, int `[n]`; a number of no image stays as it is."""
        if self._order is None:
            return numbers
        inside = (numbers >= 0) & (numbers < len(self._order))
        return np.where(inside, self._order[np.where(inside, numbers, 0)], numbers)

    def missing(self, which: str | int) -> StoreError:
        """The error for labels of an image that is not there."""
        if isinstance(which, int):
            return StoreError(
                f"There are labels of image {which}, and {len(self.source)} images.",
                expected="all images that the labels were made from, in the order of torchvision's ImageFolder",
                cause="another set of images, or not all of them: then every number after the first gap means another image",
                fix="check --data",
            )
        return StoreError(
            f"There are labels of {which!r}, and no such image.",
            found=f"{len(self.source)} images, such as {self.source.keys[0]!r}",
            expected="the images that the labels were made from",
            fix="check --data; --missing skip leaves such labels out and counts them",
        )

    def _by_last_part(self, name: str) -> int | None:
        position = self._last_parts.get(name)
        if position == _TWICE:
            same = [key for key in self.source.keys if key.rpartition("/")[2] == name]
            raise StoreError(
                f"There are labels of {name!r}, and {len(same)} images of this name.",
                found=", ".join(map(repr, same[:3])),
                expected="one image of each name, because the files of labels have no folders",
                cause="another set of images, or copies of images in several folders",
                fix="give the images that the labels were made from as --data",
            )
        return position

    @cached_property
    def _by_key(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self.source.keys)}

    @cached_property
    def _last_parts(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for i, key in enumerate(self.source.keys):
            name = key.rpartition("/")[2]
            found[name] = _TWICE if name in found else i
        return found

    @cached_property
    def _order(self) -> np.ndarray | None:
        """Position of each number, int64 `[N]`; None: numbers are positions."""
        return np.argsort(folder_numbers(self.source.kind, self.source.keys)) if self.counted else None


class Matched:
    """Position of an image and its labels as found in the files, for all labels in their order there. It counts as it goes.

    Args:
        reader: Reader of the files.
        source: The images.
        skip_missing: Leave out labels of images that the source does not have; else they are refused. Labels that count the
            images are refused in any case, because without some images every number means another one.

    Attributes:
        seen: bool `[N]`: the images of which there were labels so far.
        by_number: Whether labels count the images.
        without_image: How many labels were left out so far.

    Raises:
        StoreError: while it is iterated: labels of an unknown image, two for one image, or none of any image.
    """

    def __init__(self, reader: Reader, source: Source, skip_missing: bool) -> None:
        self.reader, self.source, self.skip_missing = reader, source, skip_missing
        self.places = Places(source, reader.counted)
        self.seen = np.zeros(len(source), bool)
        self.without_image = 0
        self.by_number = False

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for entry in self.reader.entries():
            position = self.places.find(entry.which)
            self.by_number = isinstance(entry.which, int)
            if position is None:
                if not self.skip_missing or self.by_number:
                    raise self.places.missing(entry.which)
                self.without_image += 1
                continue
            if self.seen[position]:
                raise StoreError(
                    f"There are two files of labels of {self.source.keys[position]}.", found=entry.which, fix="remove one"
                )
            self.seen[position] = True
            yield position, entry.content
        if not self.seen.any():
            raise StoreError(
                "There are labels of none of the images.",
                found=f"{self.without_image} labels, and images such as {self.source.keys[0]!r}",
                expected="the images that the labels were made from",
                fix="check --data",
            )


def folder_numbers(kind: str, keys: Sequence[str]) -> np.ndarray:
    """The number of each image as torchvision's ImageFolder counts, int64 `[N]`; images without names are counted as they are.

    Args:
        kind: Kind of the source; a folder is in that order already.
        keys: Keys of its images.
    """
    numbers = np.arange(len(keys))
    if kind != "folder" and not all(key.isdecimal() for key in keys):
        numbers[folder_order(keys)] = np.arange(len(keys))
    return numbers


def folder_order(keys: Iterable[str]) -> list[int]:
    """Positions of keys in the order of torchvision's ImageFolder: by class folder, then by folder, then by file name."""

    def as_walked(key: str) -> tuple[str, str, str]:
        folder, _, name = key.rpartition("/")
        return folder.partition("/")[0], folder, f"{name}."  # the suffix, which a key lacks, begins with a dot

    ordered = list(keys)
    return sorted(range(len(ordered)), key=lambda i: as_walked(ordered[i]))
