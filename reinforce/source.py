"""Source: where encoded images and hard labels come from. An image folder is indexed once and read by key.

Order and class ids are torchvision's ImageFolder's: classes are the sorted folder names, images follow by sorted path. The
key of a sample is its path below the root without the suffix. A folder with images and no class folders is unlabelled.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reinforce.errors import SourceError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class ImageFolder:
    """An indexed image folder.

    Attributes:
        root: The folder.
        paths: Path of every sample below the root, with suffix, in index order.
        keys: Key of every sample: the path without its suffix, with forward slashes.
        labels: Class id of every sample, or None where the folder is unlabelled.
        class_names: Sorted class folder names; empty where the folder is unlabelled.
    """

    root: Path
    paths: tuple[str, ...]
    keys: tuple[str, ...]
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...]

    kind = "folder"

    @classmethod
    def open(cls, root: str | Path) -> ImageFolder:
        """Index a folder.

        Raises:
            SourceError: no folder, no images, images beside class folders, or two files with one key.
        """
        root = Path(root)
        if not root.is_dir():
            raise SourceError(
                f"There is no image folder at {root}.",
                expected="a folder of class folders with images, or a folder of images",
                fix="check --data",
            )
        classes = sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))
        loose = _loose_images(root)
        if loose and classes:
            raise SourceError(
                f"{root} has images both in class folders and beside them.",
                found=f"{len(loose)} images directly in the folder, such as {loose[0]}, and {len(classes)} folders",
                expected="one or the other",
                fix="move the loose images into a class folder, or out",
            )
        labelled = [(f"{name}/{path}", label) for label, name in enumerate(classes) for path in _images(root / name)]
        paths = [path for path, _ in labelled] if classes else loose
        if not paths:
            raise SourceError(f"There are no images below {root}.", expected="files ending in " + " ".join(IMAGE_SUFFIXES))
        _check_text([*classes, *paths])
        keys = [os.path.splitext(p)[0] for p in paths]
        _check_keys(keys, paths)
        labels = tuple(label for _, label in labelled) if classes else None
        return cls(root, tuple(paths), tuple(keys), labels, tuple(classes))

    def __len__(self) -> int:
        return len(self.keys)

    def label(self, index: int) -> int | None:
        """Class id of a sample, or None."""
        return None if self.labels is None else self.labels[index]

    def read(self, index: int) -> bytes:
        """The encoded bytes of a sample.

        Raises:
            OSError: the file is gone or cannot be read.
        """
        with open(self.root / self.paths[index], "rb") as file:
            return file.read()

    def take(self, indices: list[int]) -> ImageFolder:
        """The same source with only the samples at `indices`, in that order."""
        labels = None if self.labels is None else tuple(self.labels[i] for i in indices)
        keys, paths = tuple(self.keys[i] for i in indices), tuple(self.paths[i] for i in indices)
        return ImageFolder(self.root, paths, keys, labels, self.class_names)

    def index_sha256(self) -> str:
        """A hash of what the index says: classes, keys and labels in order. Image bytes are hashed one by one elsewhere."""
        return index_sha256(self.class_names, self.keys, self.labels or [None] * len(self))


def index_sha256(class_names: Sequence[str], keys: Sequence[str], labels: Sequence[int | None]) -> str:
    """Hash over class names, keys and labels in order (FORMAT.md, "Manifest")."""
    digest = hashlib.sha256("\0".join(class_names).encode())
    for key, label in zip(keys, labels, strict=True):
        digest.update(f"\n{label}\0{key}".encode())
    return digest.hexdigest()


def _loose_images(root: Path) -> list[str]:
    return sorted(e.name for e in os.scandir(root) if e.name.lower().endswith(IMAGE_SUFFIXES) and e.is_file())


def _images(root: Path) -> list[str]:
    found = []
    for folder, _, names in sorted(os.walk(root, followlinks=True)):
        relative = os.path.relpath(folder, root)
        prefix = "" if relative == "." else relative.replace(os.sep, "/") + "/"
        found += [prefix + n for n in sorted(names) if n.lower().endswith(IMAGE_SUFFIXES)]
    return found


def _check_keys(keys: list[str], paths: list[str]) -> None:
    seen: dict[str, str] = {}
    for key, path in zip(keys, paths, strict=True):
        if key in seen:
            raise SourceError(
                "Two images have one key.",
                found=f"{seen[key]} and {path}",
                expected="paths that differ without their suffix: that is how a sample is known",
                fix="rename one of them",
            )
        seen[key] = path


def _check_text(names: list[str]) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise SourceError(
                "A file name is not UTF-8.", found=ascii(name), expected="names that can be stored as text", fix="rename it"
            ) from None
