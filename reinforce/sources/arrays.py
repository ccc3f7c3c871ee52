"""Arrays: a source of images in an .npz file, a usual form of CIFAR and MNIST. The encoded bytes of an image are a PPM file.

A PPM file (PGM if the image is grey) is a header of a few bytes and then the pixels, so every machine writes the same bytes.
"""

from __future__ import annotations

import struct
import zipfile
import zlib

import numpy as np

from reinforce.errors import SourceError, first_line
from reinforce.files import open_plain
from reinforce.sources.location import File, is_remote
from reinforce.sources.source import Source, check_index, numbered_classes

MAX_BYTES = 64 << 30
"""Largest .npz file that is read: bytes of all its arrays together, when decompressed."""
_IMAGES = ("x", "images", "image", "data", "X")
_LABELS = ("y", "labels", "label", "targets", "Y")
# What numpy, zipfile and zlib raise of any bytes.
_DAMAGE = (
    OSError, ValueError, EOFError, ArithmeticError, LookupError, TypeError, SyntaxError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip
_PARTS = ("train", "test", "val")


def ppm(pixels: np.ndarray) -> bytes:
    """An image, uint8 `[H, W]`, `[H, W, 1]` or `[H, W, 3]`, as PGM or PPM."""
    grey = pixels.ndim == 2 or pixels.shape[2] == 1
    return b"P%d\n%d %d\n255\n" % (5 if grey else 6, pixels.shape[1], pixels.shape[0]) + np.ascontiguousarray(pixels).tobytes()


class Arrays(Source):
    """Images of an .npz file.

    `places` are the images, uint8 `[N, H, W]`, `[N, H, W, 1]` or `[N, H, W, 3]`. The key of an image is its number.
    """

    kind = "npz"
    suffix = ".npz"

    @classmethod
    def open(cls, location: str) -> Arrays:
        """Read a file. `FILE.npz#test` reads `x_test` and `y_test`.

        Without `#PART`, names without a part are tried first, then train, test, val; the first that has images is read.

        Raises:
            SourceError: no such file, not an .npz of plain arrays, or no array of images.
        """
        path, _, part = location.partition("#")
        arrays = _load(path)
        for infix in (part,) if part else ("", *_PARTS):
            names = {end: _named(arrays, prefixes, infix) for end, prefixes in (("images", _IMAGES), ("labels", _LABELS))}
            if names["images"]:
                break
        else:
            raise _not_images(location, ", ".join(arrays))
        images = _unfolded(arrays[names["images"]])
        if images.ndim == 4 and images.shape[1] == 3 != images.shape[3]:
            images = images.transpose(0, 2, 3, 1)
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (1, 3)):
            raise _not_images(location, f"{names['images']}: {images.dtype} {list(images.shape)}")
        keys = tuple(f"{i:0{max(5, len(str(len(images))))}d}" for i in range(len(images)))
        check_index(keys, keys)
        labels = _labels(arrays, names["labels"], len(images), location)
        given = arrays.get("class_names")
        names_of = [str(n) for n in given] if given is not None and given.dtype.kind == "U" else None
        classes = numbered_classes(labels, names_of, location) if labels else ()
        return cls(location, keys, labels, classes, images)

    def read(self, index: int) -> bytes:
        return ppm(self.places[index])


def _unfolded(images: np.ndarray) -> np.ndarray:
    """Images, where each image is one flat row of pixels: of CIFAR's batches (3 x 32 x 32) or MNIST (28 x 28)."""
    shape = {3072: (3, 32, 32), 784: (28, 28)}.get(images.shape[1]) if images.ndim == 2 else None
    return images if shape is None else images.reshape(-1, *shape)


def _named(arrays: dict[str, np.ndarray], prefixes: tuple[str, ...], part: str) -> str | None:
    wanted = [name for p in prefixes for name in ((f"{p}_{part}", f"{part}_{p}") if part else (p,))]
    return next((name for name in wanted if name in arrays), None)


def _labels(arrays: dict[str, np.ndarray], name: str | None, count: int, location: str) -> tuple[int, ...] | None:
    if name is None:
        return None
    found = arrays[name].reshape(-1) if arrays[name].ndim == 2 and arrays[name].shape[1] == 1 else arrays[name]
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise SourceError(
            f"{name} of {location} are no class ids.",
            found=f"{arrays[name].dtype} {list(arrays[name].shape)}",
            expected=f"integers, one for each of {count} images",
        )
    return tuple(found.tolist())


def _load(location: str) -> dict[str, np.ndarray]:
    file = File.open(location) if is_remote(location) else None
    try:
        path = location if file is None else file.copied()
        open_plain(path).close()  # a pipe would wait for its writer
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise ValueError(f"arrays of more than {MAX_BYTES} bytes")
        with np.load(path, allow_pickle=False) as file:
            return {name: found for name in file.files if isinstance(found := file[name], np.ndarray)}
    except _DAMAGE as error:
        raise SourceError(
            f"{location} cannot be read.",
            found=first_line(error),
            expected="an .npz file of plain arrays",
            fix="check --data; arrays of Python objects are not read, they would have to be unpickled",
        ) from None


def _not_images(location: str, found: str) -> SourceError:
    return SourceError(
        f"There is no array of images in {location}.",
        found=found,
        expected="uint8 [N, H, W] or [N, H, W, 3] called x_train, x_test, images or data, labels called y_train or labels",
        fix="npz:FILE.npz#test takes x_test and y_test",
    )
