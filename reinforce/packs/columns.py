"""Columns: int32 columns in one Blosc frame, the form of params outside of a block. Bytes in, arrays out; opens no files."""

from __future__ import annotations

import struct

import numpy as np
from numcodecs import blosc

_HEADER = 16


def compress_columns(values: np.ndarray) -> bytes:
    """Compress rows int32 `[n, P]`: a Blosc frame (zstd, byte shuffle) of `<i4 [P, n]`."""
    return bytes(blosc.compress(np.ascontiguousarray(values.T, "<i4"), b"zstd", 9, shuffle=blosc.SHUFFLE, typesize=4))


def decompress_columns(frame: bytes, rows: int, columns: int) -> np.ndarray:
    """Decompress a frame: rows int32 `[n, P]`.

    Raises:
        ValueError: the frame is damaged, or has another size.
    """
    size = 4 * rows * columns
    # Blosc does not check the sizes in the header of a frame (decompressed and compressed bytes): check them before decoding.
    if len(frame) < _HEADER or [int.from_bytes(frame[i : i + 4], "little") for i in (4, 12)] != [size, len(frame)]:
        raise ValueError(f"a frame of {len(frame)} bytes that is not of {rows} rows and {columns} columns")
    try:
        return np.frombuffer(blosc.decompress(frame), "<i4").reshape(columns, rows).T
    except RuntimeError as error:
        raise ValueError(f"Blosc: {error}") from None


def join_frames(frames: list[bytes]) -> bytes:
    """Join frames: first the length of each frame, `<u4`, then the frames one after the other."""
    return struct.pack(f"<{len(frames)}I", *map(len, frames)) + b"".join(frames)


def frame_ends(content: bytes, count: int) -> np.ndarray:
    """Byte offsets of the `count` frames that `join_frames` joined: int64 `[count + 1]`.

    Item 0 is the start of the first frame, item i the end of frame i - 1.

    Raises:
        ValueError: the lengths do not fit the content.
    """
    if len(content) < 4 * count:
        raise ValueError(f"{len(content)} bytes for {count} frames")
    lengths = np.frombuffer(content, "<u4", count).astype(np.int64)
    ends = 4 * count + np.concatenate([[0], np.cumsum(lengths)])
    if ends[-1] != len(content):
        raise ValueError(f"{len(content)} bytes, {ends[-1]} by its lengths")
    return ends
