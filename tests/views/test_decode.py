"""Decode: every kind of image that people have, equal to Pillow's pixels; what is no image is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from reinforce.errors import ImageError
from reinforce.views.decode import decode
from tests.conftest import picture

pytestmark = pytest.mark.unit


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("mode", "kind"),
    [(m, "PNG") for m in ("RGB", "P", "L", "RGBA", "LA", "1")]
    + [("RGB", "JPEG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "WEBP"), ("RGB", "BMP"), ("CMYK", "TIFF"), ("RGB", "PPM")],
)
def test_all_modes_have_pillows_pixels(mode: Any, kind: Any) -> None:
    data = encoded(picture(3).convert(mode), kind)
    pixels = decode(data)
    assert np.array_equal(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable


@pytest.mark.parametrize(
    "options", [{"quality": 30}, {"quality": 95, "subsampling": 0}, {"progressive": True}, {"subsampling": 1}]
)
def test_jpegs_of_all_sorts_have_pillows_pixels(options: Any) -> None:
    data = encoded(picture(4, 77, 51), "JPEG", **options)
    assert np.array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_sixteen_bits_keep_the_high_byte() -> None:
    wide = np.arange(48 * 60, dtype=np.uint16).reshape(48, 60) * 22
    pixels = decode(encoded(Image.fromarray(wide), "PNG"))
    assert np.array_equal(pixels[:, :, 1], wide >> 8)


def test_orientation_is_ignored_as_torchvision_does() -> None:
    exif = Image.Exif()
    exif[274] = 6  # rotated by a quarter
    image = picture(5, 60, 40)
    assert np.array_equal(decode(encoded(image, "JPEG", exif=exif)), decode(encoded(image, "JPEG")))


def test_a_jpeg_with_harmless_garbage_inside_is_read_as_pillow_reads_it() -> None:
    data = encoded(picture(6), "JPEG")
    dirty = data[:-2] + b"\x11\x22\x33" + data[-2:]
    assert np.array_equal(decode(dirty), np.asarray(Image.open(io.BytesIO(dirty)).convert("RGB")))


JPEG = encoded(picture(1), "JPEG")
PNG = encoded(picture(1), "PNG")


def bomb() -> bytes:
    """A small PNG whose header claims 60000 x 60000 pixels."""
    header = b"IHDR" + struct.pack(">II", 60000, 60000) + PNG[24:29]
    return PNG[:12] + header + struct.pack(">I", zlib.crc32(header)) + PNG[33:]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot identify image file"),
        (b"this is no image", "cannot identify image file"),
        (b"\xff\xd8\xff", "cannot be decoded"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (PNG[: len(PNG) // 2], "cannot be decoded"),
        (bomb(), "3600000000 pixels|60000x60000"),
    ],
)
def test_what_cannot_be_decoded_is_refused(data: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        decode(data)


def test_a_jpeg_that_claims_too_many_pixels_is_not_decoded() -> None:
    start = JPEG.index(b"\xff\xc0")
    claimed = JPEG[: start + 5] + struct.pack(">HH", 65000, 65000) + JPEG[start + 9 :]
    with pytest.raises(ImageError, match="65000x65000"):
        decode(claimed)
