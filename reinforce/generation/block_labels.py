"""Block labels: stage one for one block: makes the views of its samples, asks the teacher, and encodes the answers.

Without mixing, each sample is decoded once and all its views are made at once. With mixing, one view needs all samples of the
block at the same time, so the views are made in chunks that fit in memory, and every sample is decoded once per chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice

import numpy as np
import torch

from reinforce.errors import SourceError
from reinforce.generation.label_stream import LabelStream
from reinforce.labels.codec import encode_stripes
from reinforce.labels.codecs import codec_from_dict
from reinforce.labels.fidelity import Fidelity
from reinforce.labels.label_kind import Labeller, kind_of
from reinforce.settings import Settings
from reinforce.store.block import BlockData
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import draw_mixing, mix, mixing_columns
from reinforce.views.pixels import SampleViews, ViewRange, pixel_crc, witness_of
from reinforce.views.seeds import block_order, mixing_rngs
from reinforce.views.status import Status

MEASURE_EVERY = 16
"""The error of the codec is measured on one sample out of so many; measuring all would cost as much as encoding."""
CHUNK_BYTES = 1 << 30
"""Most bytes of pixels of a block that are in memory at once where its samples are mixed."""


@lru_cache(maxsize=4)
def _samples_by_block(seed: int | None, num_samples: int) -> np.ndarray:
    return np.arange(num_samples) if seed is None else block_order(seed, num_samples)


def block_samples(settings: Settings, block: int) -> np.ndarray:
    """Indices of the samples of a block, row by row: int64 `[S]`.

    If samples are mixed with others of their block, samples are distributed over the blocks at random: in the order of a sorted
    folder, all images of a block would be of one class.
    """
    part = slice(block * settings.block_size, (block + 1) * settings.block_size)
    return _samples_by_block(settings.seed if settings.policy.mix else None, settings.source.num_samples)[part]


def block_items(settings: Settings, block: int) -> list[ViewRange]:
    """What must be decoded for a block, in the order in which `label_block` takes it."""
    samples = block_samples(settings, block).tolist()
    step = _views_at_once(settings, len(samples))
    firsts = range(0, settings.views, step)
    return [ViewRange(s, first, min(first + step, settings.views)) for first in firsts for s in samples]


def most_views(settings: Settings) -> int:
    """Most views of an item of any block; the last block may have few samples."""
    return _views_at_once(settings, 1 + (settings.source.num_samples - 1) % settings.block_size)


def _views_at_once(settings: Settings, samples: int) -> int:
    if not settings.policy.mix:
        return settings.views
    return min(settings.views, max(1, CHUNK_BYTES // (3 * settings.size**2 * samples)))


def label_block(made: Iterator[SampleViews], block: int, labeller: Labeller, settings: Settings, batch_size: int) -> BlockData:
    """Label the samples of one block.

    Args:
        made: Gives the views of `block_items`, in order; no more of it is read than these.
        block: Its number.
        labeller: What the codec encodes, of uint8 `[B, 3, H, W]`: float32 `[B, ...]`, such as distributions `[B, C]`.
        settings: What to make.
        batch_size: Views per teacher batch.

    Raises:
        SourceError: an image that changed between two chunks of views.
    """
    samples, items = block_samples(settings, block), block_items(settings, block)
    columns = len(pixel_spec(settings.policy, settings.size).fields)
    data = BlockData.empty(len(samples), settings.views, columns, settings.stripe_views)
    data.witness = np.zeros((len(samples), settings.num_stripes), np.uint32)
    codec, kind = codec_from_dict(settings.codec), kind_of(settings.codec)
    label_all = _label_mixed if settings.policy.mix else _label_alone
    for row, answers in label_all(islice(made, len(items)), data, block, labeller, settings, batch_size):
        records = encode_stripes(codec, answers, data.stripe_views)
        data.set_records(row, records)
        if samples[row] % MEASURE_EVERY == 0:
            _note_loss(data, row, kind.lost(codec, records, answers, data.stripe_views))
    return data


def _label_alone(
    made: Iterator[SampleViews], data: BlockData, block: int, labeller: Labeller, settings: Settings, batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    assert data.witness is not None
    labelled = LabelStream(labeller, batch_size)
    for row, item in enumerate(made):
        _note(data, row, item)
        if item.status == Status.OK:
            data.params[row], data.probes[row] = item.params, pixel_crc(item.pixels[row % settings.probe_views])
            data.witness[row] = item.witness
            yield from labelled.push(row, item.pixels)
    yield from labelled.flush()


def _label_mixed(
    made: Iterator[SampleViews], data: BlockData, block: int, labeller: Labeller, settings: Settings, batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
    options, rows = settings.policy.mix, len(data.status)
    assert options is not None
    assert data.witness is not None
    answers: np.ndarray | None = None
    first = 0
    while first < settings.views:
        chunk = list(islice(made, rows))
        for row, item in enumerate(chunk):
            if first and (item.status, item.sha256.tobytes()) != (data.status[row], data.sha256[row].tobytes()):
                raise SourceError(
                    f"Sample {item.sample} changed while its block was generated.",
                    expected="images that stay as they are",
                    fix="the same command makes the block again",
                )
            _note(data, row, item)
        ok = np.flatnonzero(data.status == Status.OK)
        if not len(ok):
            return
        stop = first + len(chunk[ok[0]].pixels)
        for view in range(first, stop):
            rngs = mixing_rngs(settings.seed, block, view, options.repeats)
            mixing = draw_mixing(*rngs, len(ok), options, settings.size)
            columns = mixing_columns(mixing._replace(partner=ok[mixing.partner]))
            drawn = np.stack([chunk[row].params[view - first] for row in ok])
            data.params[ok, view] = np.concatenate([drawn, columns], axis=1)
            pixels = torch.from_numpy(mix(np.stack([chunk[row].pixels[view - first].numpy() for row in ok]), mixing))
            asked = np.concatenate([labeller(batch).cpu().numpy() for batch in pixels.split(batch_size)])
            if answers is None:
                answers = np.empty((len(ok), settings.views, *asked.shape[1:]), np.float32)
            answers[:, view] = asked
            for each in np.flatnonzero(ok % settings.probe_views == view):
                data.probes[ok[each]] = pixel_crc(pixels[each])
            stripe = view // settings.stripe_views  # views come in order, so the CRC of a stripe grows by one view at a time
            for i, row in enumerate(ok.tolist()):
                data.witness[row, stripe] = witness_of(pixels[i : i + 1], int(data.witness[row, stripe]))
        first = stop
    assert answers is not None
    yield from zip(ok.tolist(), answers, strict=True)


def _note(data: BlockData, row: int, item: SampleViews) -> None:
    data.status[row], data.sha256[row], data.crc32c[row] = item.status, item.sha256, item.crc32c
    data.width_height[row] = item.width_height
    if item.status != Status.OK:
        data.reasons[row] = item.reason or ""


def _note_loss(data: BlockData, row: int, lost: Fidelity | None) -> None:
    if lost is not None:
        # Rounded, so that another number of threads does not change these bytes, as it does not change the records.
        data.label_error[row] = np.round([lost.kl.mean(), lost.top1_bias.mean(), lost.image_bias], 6)
