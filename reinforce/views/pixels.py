"""Pixels: from a sample's bytes to the pixels of its views. Stage one and every replay go through these few functions.

`make_views` draws and applies views of one sample from one decode, before any mixing. `stored_view` makes a stored view again,
mixing included. `ViewMaker` runs in worker processes and turns bad images into a status and a reason.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

import google_crc32c
import numpy as np
import torch
from torch.utils.data import Dataset

from reinforce.errors import ImageError, StoreError
from reinforce.memory import shortage
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.views.apply import apply
from reinforce.views.decode import decode
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import mix, read_mixing
from reinforce.views.params import Field, PixelSpec
from reinforce.views.ring import InRing, Ring
from reinforce.views.seeds import view_rng
from reinforce.views.status import Status
from reinforce.views.workers import affordable, made_by_workers

_PREFETCH = 4
"""Samples that each worker makes in advance."""


@dataclass(frozen=True)
class SampleViews:
    """Views of one sample before any mixing, or why there are none.

    Attributes:
        sample: Index of the sample.
        status: See `Status`; unless OK, `pixels` and `params` are empty.
        reason: Why the sample is not ok.
        sha256: uint8 `[32]`, of the encoded bytes; zeros where they could not be read.
        crc32c: CRC-32C of the encoded bytes, which replay compares at each read; 0 where they could not be read.
        width_height: Of the decoded image.
        params: int32 `[v, P]`, for the v views that were asked for, without the columns of mixing.
        pixels: uint8 `[v, 3, size, size]`.
        witness: uint32 `[stripes]`, of the pixels of each stripe of views; empty where views are mixed later.
    """

    sample: int
    status: Status
    reason: str | None
    sha256: np.ndarray
    crc32c: int
    width_height: tuple[int, int]
    params: np.ndarray
    pixels: torch.Tensor
    witness: np.ndarray


def pixel_crc(pixels: torch.Tensor) -> int:
    """CRC-32 of uint8 `[3, H, W]` in C order: what a probe stores."""
    return zlib.crc32(pixels.contiguous().numpy().tobytes())


def witness_of(pixels: torch.Tensor, before: int = 0) -> int:
    """CRC-32C of views uint8 `[v, 3, H, W]` in C order, one view after the other: what a stripe stores of its pixels.

    Args:
        pixels: The views.
        before: The CRC of the views before them; 0: there are none.
    """
    for view in pixels:
        before = google_crc32c.extend(before, view.contiguous().numpy().tobytes())
    return before


class ViewRange(NamedTuple):
    """One item of a loader: views `first` to `stop` of one sample."""

    sample: int
    first: int
    stop: int


def make_views(
    image: np.ndarray, sample: int, settings: Settings, first: int = 0, stop: int | None = None
) -> tuple[np.ndarray, torch.Tensor]:
    """Draw and apply views `first` to `stop` (all) of one decoded image, before any mixing.

    Returns:
        Params int32 `[v, P]` without the columns of mixing, pixels uint8 `[v, 3, size, size]`.
    """
    spec = pixel_spec(settings.policy, settings.size)
    height, width = image.shape[:2]
    views = range(first, settings.views if stop is None else stop)
    params = np.stack([draw(view_rng(settings.seed, sample, v), settings.policy, settings.size, width, height) for v in views])
    pixels = torch.empty(len(views), 3, settings.size, settings.size, dtype=torch.uint8)
    for i, row in enumerate(params):
        pixels[i] = apply(image, row, spec)
    return params, pixels


def stored_view(
    params_of: Callable[[int], np.ndarray], rows: int, row: int, spec: PixelSpec, image_of: Callable[[int], np.ndarray]
) -> torch.Tensor:
    """The pixels of one stored view as the teacher saw them, mixed with its partner's where it has one.

    Args:
        params_of: Row of a block to its params of that view, int32 `[P]`.
        rows: How many samples the block has.
        row: The sample.
        spec: Size, layout and fill of the reinforced dataset.
        image_of: Row to decoded image, uint8 `[H, W, 3]`.

    Raises:
        StoreError: params that this image cannot give, or a partner that is none.
    """
    params = params_of(row)
    own = apply(image_of(row), params, spec)
    other = spec.read(params, Field.PARTNER, row)
    if other == row:
        return own
    if not 0 <= other < rows:
        raise unmatched(f"row {row} with row {other}")
    theirs = params_of(other)
    mixing = read_mixing(np.stack([params, theirs]), spec)
    if mixing is None or mixing.partner[1] != row:
        raise unmatched(f"row {row} with row {other}")
    pair = mixing._replace(partner=np.array([1, 0]))
    if fault := pair.fault(spec.size):
        raise unmatched(fault)
    both = np.stack([own.numpy(), apply(image_of(other), theirs, spec).numpy()])
    return torch.from_numpy(mix(both, pair)[0])


def unmatched(fault: str) -> StoreError:
    """The error for stored params in which two samples are not each other's partner."""
    return StoreError(
        "Params pair samples that cannot be mixed.",
        found=fault,
        expected="two samples of a block that name each other, with one share and one box",
        cause="the params are damaged",
        fix="reinforce verify DIR",
    )


class ViewMaker(Dataset[SampleViews]):
    """Samples as a torch dataset: `maker[sample]` reads, decodes once, and makes all views; `maker[ViewRange]` makes some.

    Never raises for a bad image; raises TooManyFilesError or OutOfMemoryError where this process is at fault: no image is
    missing for that.
    """

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source = source
        self.settings = settings

    def __len__(self) -> int:
        return len(self.source)

    @property
    def no_pixels(self) -> torch.Tensor:
        """The pixels of a sample that is not ok."""
        return torch.empty(0, 3, self.settings.size, self.settings.size, dtype=torch.uint8)

    def __getitem__(self, item: int | ViewRange) -> SampleViews:
        sample, first, stop = item if isinstance(item, tuple) else (item, 0, self.settings.views)
        digest, crc = np.zeros(32, np.uint8), 0
        try:
            encoded = self.source.read(sample)
            digest, crc = np.frombuffer(hashlib.sha256(encoded).digest(), np.uint8), google_crc32c.value(encoded)
            image = decode(encoded)
        except OSError as error:
            if (short := shortage(error)) is not None:
                raise short from None
            return self._failed(sample, Status.MISSING, f"{error.strerror or error}", digest, crc)
        except ImageError as error:
            return self._failed(sample, Status.CORRUPT, error.what, digest, crc)
        try:
            params, pixels = make_views(image, sample, self.settings, first, stop)
        except StoreError:  # an image so narrow that, resized, it would not fit in memory
            reason = f"The image is too long and narrow: {image.shape[1]}x{image.shape[0]} pixels."
            return self._failed(sample, Status.CORRUPT, reason, digest, crc)
        # Computed here, in a worker, because the process that runs the teacher is the one that all others wait for.
        parts = () if self.settings.policy.mix else pixels.split(self.settings.stripe_views)
        witness = np.array([witness_of(part) for part in parts], np.uint32)
        return SampleViews(sample, Status.OK, None, digest, crc, (image.shape[1], image.shape[0]), params, pixels, witness)

    def _failed(self, sample: int, status: Status, reason: str, digest: np.ndarray, crc: int) -> SampleViews:
        none, empty = np.empty((0, 0), np.int32), np.empty(0, np.uint32)
        return SampleViews(sample, status, reason, digest, crc, (0, 0), none, self.no_pixels, empty)


class _Sent(Dataset[tuple[SampleViews, InRing | None]]):
    """What workers send: pixels in the ring, and the rest in a message."""

    def __init__(self, maker: ViewMaker, ring: Ring) -> None:
        self.maker = maker
        self.ring = ring

    def __len__(self) -> int:
        return len(self.maker)

    def __getitem__(self, numbered: tuple[int, int | ViewRange]) -> tuple[SampleViews, InRing | None]:
        number, item = numbered
        made = self.maker[item]
        if made.status != Status.OK:
            return made, None
        sent = InRing(self.ring.key, self.ring.slot(number), tuple(made.pixels.shape))
        self.ring.view(sent.slot, sent.shape).copy_(made.pixels)
        return replace(made, pixels=self.maker.no_pixels), sent


def views_loader(
    maker: ViewMaker, items: Iterable[int | ViewRange], workers: int, most_views: int | None = None
) -> Generator[SampleViews, None, None]:
    """`SampleViews` in the order of `items`, made by `workers` processes (0: in this one).

    Args:
        maker: Makes them.
        items: What to make; with workers, some more of it is read than has been given back.
        workers: Number of processes.
        most_views: Most views of an item; default: all that a sample has.

    Raises:
        WorkerError: workers cannot be started, do not answer, or (`DeadWorkerError`) one was killed.
        TooManyFilesError, OutOfMemoryError: file descriptors or memory are too few to read an image.
    """
    workers = affordable(workers)
    if not workers:
        yield from (maker[item] for item in items)
        return
    settings = maker.settings
    ring = Ring(workers, (most_views or settings.views) * 3 * settings.size**2, _PREFETCH)
    numbered, location = enumerate(items), maker.source.location
    sent = made_by_workers(_Sent(maker, ring), numbered, workers=workers, location=location, prefetch=_PREFETCH)
    with closing(sent):
        for made, place in sent:
            # A copy, because many samples wait for their batch, or for their partner; the buffer is used again soon.
            yield made if place is None else replace(made, pixels=place.pixels().clone())
