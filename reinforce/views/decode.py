"""Decode: encoded bytes to uint8 `[H, W, 3]`, the same pixels everywhere (FORMAT.md, "Pixel contract").

JPEG in grey, YCbCr or RGB goes through libjpeg-turbo (simplejpeg) with the ISLOW DCT and fancy upsampling; everything else
that Pillow reads goes through Pillow. EXIF orientation is ignored, as torchvision and timm do.
"""

from __future__ import annotations

import io

import numpy as np
import simplejpeg
from PIL import Image

from reinforce.errors import ImageError, OutOfMemoryError
from reinforce.memory import making
from reinforce.silence import no_warnings
from reinforce.views.top_rows import top_rows

MAX_PIXELS = 178_956_970
"""Largest image that is decoded, in pixels: twice Pillow's warning limit. A larger one is taken for a decompression bomb."""


def decode(encoded: bytes, rows: int | None = None) -> np.ndarray:
    """Decode one image.

    Args:
        encoded: The bytes of a file.
        rows: How many rows are wanted, from the top; others may be absent from the result. None: all.

    Returns:
        uint8 `[H, W, 3]`, RGB, C-contiguous; with `rows`, the first ones of it, as many or more.

    Raises:
        ImageError: the bytes are no image, are truncated, or unfold to more than `MAX_PIXELS`.
    """
    if encoded[:3] == b"\xff\xd8\xff":
        image = _decode_jpeg(encoded, rows)
        if image is not None:
            return image
    return _decode_any(encoded)


def _decode_jpeg(encoded: bytes, rows: int | None) -> np.ndarray | None:
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
        _check_size(width, height)
        if colorspace not in ("Gray", "YCbCr", "RGB"):
            return None  # CMYK and YCCK: Pillow knows Adobe's inverted inks
        with making(f"an image of {width}x{height} pixels", 3 * width * height):
            if rows is not None and (top := top_rows(encoded, rows)) is not None:
                return top
            pixels: np.ndarray | None = simplejpeg.decode_jpeg(encoded, "RGB", fastdct=False, fastupsample=False)
        return pixels
    except ValueError:
        # simplejpeg refuses what libjpeg only warns of; Pillow, on the same library, tells the harmless from the truncated.
        return None


def _decode_any(encoded: bytes) -> np.ndarray:
    try:
        # Nothing that Pillow warns of is news: the size is checked below, EXIF is not read.
        with no_warnings(), Image.open(io.BytesIO(encoded)) as image:
            _check_size(*image.size)
            with making(f"an image of {image.width}x{image.height} pixels", 3 * image.width * image.height):
                return _to_rgb(image)
    except (
        ImageError,
        MemoryError,
        OutOfMemoryError,
    ):  # too little memory says nothing of the image: it must not be stored as corrupt
        raise
    except Exception as error:  # noqa: BLE001 - Pillow's plugins raise almost anything on hostile bytes
        reason = str(error).split("<_io")[0].strip() or type(error).__name__
        raise ImageError(f"The image cannot be decoded: {reason}") from None


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith(("I;16", "I")):
        wide = np.asarray(image.convert("I")).astype(np.int64)
        grey = np.clip(wide >> 8, 0, 255).astype(np.uint8)  # 16 bits to 8: the high byte
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image.convert("RGB"))  # a copy: torch wants memory that it may write to


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS or width < 1 or height < 1:
        raise ImageError(f"The image claims {width}x{height} pixels; at most {MAX_PIXELS} are decoded.")
