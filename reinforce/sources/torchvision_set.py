"""Torchvision set: a source made from a data set that torchvision has by name, as in `torchvision:CIFAR10#test`.

Torchvision returns pixels, not files, so the encoded bytes of an image are a PPM of its pixels (`arrays.py`). Some of its data
sets are pickles, such as CIFAR: torchvision compares their MD5 with a fixed value before it reads them.
"""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from reinforce.errors import SourceError, first_line
from reinforce.sources.arrays import ppm
from reinforce.sources.location import cache_root
from reinforce.sources.source import Source, check_index, numbered_classes


@dataclass(frozen=True)
class TorchvisionSet(Source):
    """An opened data set; `places` are positions in it, int64 `[N]`; the key of an image is its number.

    Attributes:
        dataset: The data set object of torchvision.
    """

    dataset: Any = None

    kind = "torchvision"

    @classmethod
    def open(cls, location: str, download: bool = False) -> TorchvisionSet:
        """Open `NAME`, `NAME#SPLIT` or `NAME@ROOT#SPLIT`; the default ROOT is the folder `torchvision` in the cache.

        Args:
            location: Name, root and split.
            download: Fetch the files if they are missing.

        Raises:
            SourceError: no such name or split, files are missing, or it has no images with class ids.
        """
        place, _, split = location.partition("#")
        name, _, root = place.partition("@")
        dataset = _open(name, root or os.fspath(cache_root() / "torchvision"), split or "train", download)
        labels = _labels(dataset)
        keys = tuple(f"{i:07d}" for i in range(len(dataset)))
        check_index(keys, keys)
        given = getattr(dataset, "classes", None)
        names = numbered_classes(labels, [str(n) for n in given] if given else None, location) if labels else ()
        return cls(location, keys, labels, names, np.arange(len(keys)), dataset=dataset)

    @classmethod
    def open_option(cls, location: str, download: bool) -> TorchvisionSet:
        return cls.open(location, download)

    def read(self, index: int) -> bytes:
        try:
            image = self.dataset[int(self.places[index])][0]
            return ppm(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))
        except Exception as error:  # noqa: BLE001 - data sets and Pillow raise many kinds of errors
            raise OSError(first_line(error)) from None


def _open(name: str, root: str, split: str, download: bool) -> Any:
    import torchvision  # here, because the import takes seconds

    kind = getattr(torchvision.datasets, name, None)
    if not (inspect.isclass(kind) and issubclass(kind, torchvision.datasets.VisionDataset)):
        known = [n for n in torchvision.datasets.__all__ if n.lower().startswith(name[:3].lower())]
        raise SourceError(
            f"torchvision has no data set {name}.", found=name, expected=", ".join(known) or "a name as in its docs"
        )
    takes = inspect.signature(kind).parameters
    options: dict[str, Any] = {"root": root} if "root" in takes else {}
    if "train" in takes:
        options["train"] = split == "train"
    elif "split" in takes:
        options["split"] = split
    if download and "download" in takes:
        options["download"] = True
    try:
        return kind(**options)
    except Exception as error:  # noqa: BLE001 - RuntimeError where files are missing, ValueError for a split, what urllib raises
        raise SourceError(
            f"{name} cannot be opened in {root}.",
            found=first_line(error),
            expected="its files, as torchvision lays them out",
            fix="--download, where there is a network; or torchvision:NAME@ROOT#SPLIT for files elsewhere",
        ) from None


def _labels(dataset: Any) -> tuple[int, ...] | None:
    found = next(
        (getattr(dataset, n) for n in ("targets", "labels", "_labels", "y") if getattr(dataset, n, None) is not None), None
    )
    if found is None and len(dataset):
        targets = [dataset[i][1] for i in range(len(dataset))]
        found = None if all(t is None for t in targets) else targets
    if found is None:
        return None
    numbers = np.asarray(found)
    if numbers.shape != (len(dataset),) or numbers.dtype.kind not in "iu":
        raise SourceError(
            f"{type(dataset).__name__} has no class ids.",
            found=f"targets {numbers.dtype} {list(numbers.shape)}",
            expected="one integer for each image",
        )
    return tuple(numbers.tolist())
