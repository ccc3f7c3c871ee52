"""Folder: a source of image files. Order and class ids are those of torchvision's ImageFolder.

The key of an image is its path without the suffix. Classes are the sorted folder names; the images of a class are in the order
of their sorted paths. A folder with images and without class folders is unlabelled. A remote folder such as
`s3://bucket/train` is listed once, and the files that are read from it are kept in the cache.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NoReturn

from reinforce.errors import SourceError
from reinforce.sources.column import texts
from reinforce.sources.location import ServerDownError, is_remote, opened
from reinforce.sources.remote_names import names_below
from reinforce.sources.source import IMAGE_SUFFIXES, Source, check_index


class ImageFolder(Source):
    """An indexed image folder; `places` are the paths of the images, relative to the folder, with suffix."""

    kind = "folder"

    @classmethod
    def open(cls, root: str | Path) -> ImageFolder:
        """Index a folder.

        Raises:
            SourceError: no folder, no images, images beside class folders, or two files with the same key.
        """
        root = str(root)
        if is_remote(root):
            paths, classes, loose = _remote(root)
        else:
            paths, classes, loose = _local(root)
        if loose and classes:
            raise SourceError(
                f"{root} has images both in class folders and beside them.",
                found=f"{len(loose)} images directly in the folder, such as {loose[0]}, and {len(classes)} folders",
                expected="images in class folders only, or no class folders",
                fix="move the loose images into a class folder, or out of the folder",
            )
        if not (paths or loose):
            raise SourceError(f"There are no images below {root}.", expected="files ending in " + " ".join(IMAGE_SUFFIXES))
        number = {name: i for i, name in enumerate(classes)}
        labels = [number[p.partition("/")[0]] for p in paths] if classes else None
        paths = paths if classes else loose
        keys = [os.path.splitext(p)[0] for p in paths]
        check_index(keys, paths, classes)
        return cls(root, keys, labels, tuple(classes), texts(paths))

    def read(self, index: int) -> bytes:
        path = self.where(index)
        if is_remote(path):
            try:
                return opened(path).read()
            except ServerDownError:
                raise
            except SourceError as error:
                raise OSError(error.what) from None
        # A pipe would wait for its writer, and a device may have no end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(f"{path} is no file but a pipe, a device or a folder")
        with open(path, "rb") as file:
            return file.read()

    def where(self, index: int) -> str:
        return f"{self.location.rstrip('/')}/{self.places[index]}"

    def looks_in(self, path: str | Path) -> bool:
        if is_remote(self.location) or is_remote(str(path)):
            return f"{path}/".startswith(f"{self.location.rstrip('/')}/")
        return Path(path).resolve().is_relative_to(Path(self.location).resolve())


def _local(root: str) -> tuple[list[str], list[str], list[str]]:
    """Paths of images in class folders, class names, and images beside the class folders."""
    if not os.path.isdir(root):
        raise SourceError(
            f"There is no image folder at {root}.",
            expected="a folder of class folders with images, a folder of images, or another source",
            fix="check --data",
        )
    try:
        entries = list(os.scandir(root))
    except OSError as error:
        raise _unreadable(error) from None
    classes = sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    loose = sorted(e.name for e in entries if e.name.lower().endswith(IMAGE_SUFFIXES) and e.is_file())
    return [f"{name}/{path}" for name in classes for path in _images(root, name)], classes, loose


def _images(top: str, name: str) -> list[str]:
    """Paths of the images of a class, relative to its folder."""
    root = os.path.join(top, name)
    found, walked = [], []
    above = {root: [_identity(top)]}
    for folder, below, names in os.walk(root, onerror=_refuse, followlinks=True):
        chain = above.pop(folder)
        if (own := _identity(folder)) in chain:
            raise SourceError(
                f"{folder} is a folder that it is in itself.",
                found=f"a link to {os.path.realpath(folder)}",
                expected="links that do not lead in a circle, where each image would be found again and again",
                fix="remove the link",
            )
        above |= {os.path.join(folder, each): [*chain, own] for each in below}
        walked.append((folder, names))
    for folder, names in sorted(walked):
        relative = os.path.relpath(folder, root)
        prefix = "" if relative == "." else relative.replace(os.sep, "/") + "/"
        found += [prefix + n for n in sorted(names) if n.lower().endswith(IMAGE_SUFFIXES)]
    return found


def _identity(folder: str) -> tuple[int, int]:
    try:
        about = os.stat(folder)
    except OSError as error:
        raise _unreadable(error) from None
    return about.st_dev, about.st_ino


def _refuse(error: OSError) -> NoReturn:
    raise _unreadable(error)


def _unreadable(error: OSError) -> SourceError:
    return SourceError(
        f"The folder {error.filename} cannot be read.",
        found=error.strerror,
        expected="permission to list every folder with images: without it they would be left out",
        fix="change its permissions, or move it out of --data",
    )


def _remote(root: str) -> tuple[list[str], list[str], list[str]]:
    try:
        listed = names_below(root)
    except OSError as error:
        raise SourceError(f"{root} cannot be listed.", found=f"{type(error).__name__}: {error}", fix="check --data") from None
    images = [p for p in listed if p.lower().endswith(IMAGE_SUFFIXES)]
    classes = sorted({p.partition("/")[0] for p in listed if "/" in p and not p.startswith(".")})
    inside = sorted((p for p in images if "/" in p and p.partition("/")[0] in classes), key=lambda p: _as_walked(p))
    return inside, classes, sorted(p for p in images if "/" not in p)


def _as_walked(path: str) -> tuple[str, str, str]:
    """Sort key of a path in the order in which `os.walk` visits local class folders: by class, then by folder, then by name."""
    folder, _, name = path.rpartition("/")
    return folder.partition("/")[0], folder, name
