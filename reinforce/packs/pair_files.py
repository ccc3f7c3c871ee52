"""Pair files: reads which samples of a pack are mixed with which, from files beside its shards. Source: FORMAT.md, "Packs"."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from reinforce.errors import SourceError, StoreError
from reinforce.packs.columns import decompress_columns, frame_ends
from reinforce.sources.location import File
from reinforce.sources.pack_folder import PackFolder
from reinforce.views.mix import MIX_FIELDS

_DIGEST_BYTES = 16


class _Known(NamedTuple):
    """A file that was read completely and checked: offsets of its frames, int64 `[v + 1]`, and their digests, joined."""

    file: File
    ends: np.ndarray
    digests: bytes


class PairFiles:
    """The files of pairs of a pack. The first read of a file reads and checks all of it; later reads fetch single frames.

    This is because an epoch needs only one view of each block. What stays in memory of a file is 24 bytes for each of its views
    and about 700 bytes more: 2.2 kB for 64 views of 512 samples, 4.4 bytes per sample, 22 MB for ImageNet with 256 views. The
    frames themselves are not kept in memory.

    Args:
        folder: The pack.
    """

    def __init__(self, folder: PackFolder) -> None:
        self.folder = folder
        self._known: dict[str, _Known] = {}

    def read(self, block: int, stripe: int, views: int, samples: int, chosen: Sequence[int]) -> list[np.ndarray]:
        """Pairs of some views of a stripe: their params of mixing, int32 `[S, 6]` each.

        Args:
            block: Number of the block.
            stripe: Number of the stripe in the block.
            views: Number of views of the stripe.
            samples: Number of samples of the block.
            chosen: The views to read, counted from the first view of the stripe.

        Raises:
            StoreError: the file is damaged, or was changed since it was checked.
            SourceError: the file cannot be read.
        """
        path = mixing_path(block, stripe)
        try:
            frames = self._frames(path, views, chosen)
            return [decompress_columns(frame, samples, len(MIX_FIELDS)) for frame in frames]
        except ValueError as error:
            raise StoreError(f"{path} is damaged.", found=error, fix="copy it again") from None

    def _frames(self, path: str, views: int, chosen: Sequence[int]) -> list[bytes]:
        known = self._known.get(path)
        if known is None:
            file, content = self.folder.checked(path)
            ends = frame_ends(content, views)
            frames = [content[start:end] for start, end in pairwise(ends.tolist())]
            self._known[path] = _Known(file, ends, b"".join(map(_digest, frames)))
            return [frames[own] for own in chosen]
        return [self._frame(path, known, own) for own in chosen]

    def _frame(self, path: str, known: _Known, own: int) -> bytes:
        start, end = known.ends[own : own + 2].tolist()
        try:
            frame = known.file.read(start, end - start)
        except OSError as error:
            raise SourceError(f"{known.file.location} cannot be read.", found=error, fix="copy it again") from None
        if _digest(frame) != known.digests[own * _DIGEST_BYTES : (own + 1) * _DIGEST_BYTES]:
            raise StoreError(
                f"{path} is not the file of the pack any more.",
                found=f"other pairs for view {own} of it than when it was first read",
                expected="files that stay as they are while they are used",
                cause="another pack was written in its place",
                fix="start again",
            )
        return frame


def mixing_path(block: int, stripe: int) -> str:
    """The path, in a pack, of the file with the pairs of a stripe."""
    return f"mixing/{block:06d}.{stripe:03d}.bin"


def _digest(frame: bytes) -> bytes:
    return hashlib.sha256(frame).digest()[:_DIGEST_BYTES]
