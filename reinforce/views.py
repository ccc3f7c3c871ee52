"""Views: from a sample's bytes to the pixels of its views. Stage one and every replay go through these few functions.

`make_views` draws and applies all views of one sample from one decode; `read_sample` reads and decodes with the errors of
real life named. Runs in worker processes.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from reinforce.apply import apply
from reinforce.block import Status
from reinforce.decode import decode
from reinforce.draw import draw
from reinforce.errors import ImageError, StoreError
from reinforce.manifest import Settings
from reinforce.seeds import view_rng
from reinforce.source import ImageFolder


@dataclass(frozen=True)
class SampleViews:
    """All views of one sample, or why there are none.

    Attributes:
        sample: Index of the sample.
        status: See `Status`; unless OK, `pixels` and `params` are empty.
        reason: Why the sample is not ok.
        sha256: uint8 `[32]`, of the encoded bytes; zeros where they could not be read.
        width_height: Of the decoded image.
        params: int32 `[V, P]`.
        pixels: uint8 `[V, 3, size, size]`.
    """

    sample: int
    status: Status
    reason: str | None
    sha256: np.ndarray
    width_height: tuple[int, int]
    params: np.ndarray
    pixels: torch.Tensor

    def probe(self, row: int) -> int:
        """CRC-32 of the pixels of view (row % V)."""
        return pixel_crc(self.pixels[row % len(self.pixels)])


def pixel_crc(pixels: torch.Tensor) -> int:
    """CRC-32 of uint8 `[3, H, W]` in C order: what a probe stores."""
    return zlib.crc32(pixels.contiguous().numpy().tobytes())


def make_views(image: np.ndarray, sample: int, settings: Settings) -> tuple[np.ndarray, torch.Tensor]:
    """Draw and apply every view of one decoded image: params int32 `[V, P]`, pixels uint8 `[V, 3, size, size]`."""
    spec = settings.policy.spec(settings.size)
    height, width = image.shape[:2]
    params = np.stack(
        [draw(view_rng(settings.seed, sample, v), settings.policy, settings.size, width, height) for v in range(settings.views)]
    )
    pixels = torch.empty(settings.views, 3, settings.size, settings.size, dtype=torch.uint8)
    for view, row in enumerate(params):
        pixels[view] = apply(image, row, spec)
    return params, pixels


class ViewMaker(Dataset[SampleViews]):
    """Samples as a torch dataset: `maker[sample]` reads, decodes once, and makes all views. Never raises for a bad image."""

    def __init__(self, source: ImageFolder, settings: Settings) -> None:
        self.source = source
        self.settings = settings

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, sample: int) -> SampleViews:
        digest = np.zeros(32, np.uint8)
        try:
            encoded = self.source.read(sample)
            digest = np.frombuffer(hashlib.sha256(encoded).digest(), np.uint8)
            image = decode(encoded)
        except OSError as error:
            return self._failed(sample, Status.MISSING, f"{error.strerror or error}", digest)
        except ImageError as error:
            return self._failed(sample, Status.CORRUPT, error.what, digest)
        try:
            params, pixels = make_views(image, sample, self.settings)
        except StoreError:  # resized to the view's height, it would be too wide for any memory
            reason = f"The image is too long and narrow: {image.shape[1]}x{image.shape[0]} pixels."
            return self._failed(sample, Status.CORRUPT, reason, digest)
        return SampleViews(sample, Status.OK, None, digest, (image.shape[1], image.shape[0]), params, pixels)

    def _failed(self, sample: int, status: Status, reason: str, digest: np.ndarray) -> SampleViews:
        size = self.settings.size
        empty = torch.empty(0, 3, size, size, dtype=torch.uint8)
        return SampleViews(sample, status, reason, digest, (0, 0), np.empty((0, 0), np.int32), empty)


def views_loader(maker: ViewMaker, samples: list[int], workers: int) -> DataLoader[SampleViews]:
    """A loader that yields `SampleViews` in the order of `samples`, made by `workers` processes (0: in this one)."""
    return DataLoader(
        maker,
        batch_size=None,
        sampler=samples,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
