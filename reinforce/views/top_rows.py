"""Top rows: decodes a JPEG no further down than a crop needs, with the decoder and the pixels of the whole image.

A JPEG is decoded from its top downwards, so whoever wants the rows above a line can stop there. simplejpeg has no way to say
where; but a JPEG whose header names a smaller height ends there. What follows its last row is then something that libjpeg-turbo
warns of, and simplejpeg reports the first warning: if it is any other, the rows above may be damaged, and the whole image must
be decoded, as if this module did not exist.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import simplejpeg

from reinforce.views.params import Field, PixelSpec

_BLOCK = 8
"""Rows of a block. Images whose colours have half of the rows are decoded by two of them at once."""
_PASSED = (*range(0xE0, 0xF0), 0xFE, 0xDB, 0xC4)
"""Segments that may stand before the pixels: of applications, comments, and both kinds of tables."""
_BASELINE, _SCAN = (0xC0, 0xC1), 0xDA
_REST = " extraneous bytes before marker 0xd9"
"""How libjpeg-turbo ends its warning that bytes follow the last row, and nothing else but the end of the image."""


def rows_needed(params: np.ndarray, spec: PixelSpec) -> int:
    """How many rows of an image, from its top, views with these params are made of: params int32 `[R, P]`."""
    return max(spec.read(row, Field.CROP_TOP, 0) + spec.read(row, Field.CROP_HEIGHT, 0) for row in params)


def top_rows(encoded: bytes, rows: int) -> np.ndarray | None:
    """Decode the top of a JPEG.

    Args:
        encoded: A JPEG in grey, YCbCr or RGB, of which the header is sound.
        rows: Number of rows wanted.

    Returns:
        uint8 `[rows, W, 3]`, RGB, C-contiguous: the first rows of the image. None if nothing would be gained,
        or not surely the same pixels: the image is progressive, arithmetic-coded or in several scans, has restart markers, is
        truncated or damaged, or `rows` is near its height or beyond.
    """
    if rows < 1 or not _stops():
        return None
    return _top_rows(encoded, rows)


def _top_rows(encoded: bytes, rows: int) -> np.ndarray | None:
    frame = _plain_frame(encoded)
    if frame is None:
        return None
    height, width = (int.from_bytes(encoded[at : at + 2], "big") for at in (frame + 5, frame + 7))
    if all(encoded[at] & 15 == 1 for at in range(frame + 11, frame + 10 + 3 * encoded[frame + 9], 3)):
        cut = -(-rows // _BLOCK) * _BLOCK
    else:  # one row more at the least: where colours have half of the rows, the next of these weighs in the last wanted one
        cut = (rows // (2 * _BLOCK) + 1) * 2 * _BLOCK
    if cut + _BLOCK > height:
        return None
    shorter = bytearray(encoded)
    shorter[frame + 5 : frame + 7] = cut.to_bytes(2, "big")
    pixels = np.empty((cut, width, 3), np.uint8)
    try:
        simplejpeg.decode_jpeg(shorter, "RGB", fastdct=False, fastupsample=False, buffer=pixels)
    except ValueError as error:
        return pixels[:rows] if str(error).endswith(_REST) else None
    return None  # the image ends there, though its header says otherwise


def _plain_frame(encoded: bytes) -> int | None:
    """Where the frame header of a baseline JPEG of one scan and without restart markers begins; None: it is none such."""
    at, frame = 2, None
    while at + 10 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker == _SCAN:
            # All components in the first scan: there is no other.
            return frame if frame is not None and encoded[at + 4] == encoded[frame + 9] else None
        if marker in _BASELINE and frame is None:
            frame = at
        elif marker not in _PASSED:
            return None
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return None


@cache
def _stops() -> bool:
    """Whether the decoder that is installed stops as described; a JPEG is made and looked at, once in each process."""
    image = (np.arange(64 * 32 * 3, dtype=np.uint32) * 2654435761 >> 22).astype(np.uint8).reshape(64, 32, 3)
    encoded = simplejpeg.encode_jpeg(image, 90, "RGB", "420")
    whole = simplejpeg.decode_jpeg(encoded, "RGB", fastdct=False, fastupsample=False)
    top = _top_rows(encoded, 31)
    return top is not None and np.array_equal(top, whole[:31])
