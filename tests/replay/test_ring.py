"""The ring that batches travel in: what comes out is what went in, none is overwritten too soon, tensors travel as arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data._utils.pin_memory import pin_memory

from reinforce.labels.sparse import SparseLabels
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.drawn_labels import HardLabels
from reinforce.replay.epoch_views import FreshViews, ReplayedViews
from reinforce.replay.loader import batch_plan, batches
from reinforce.replay.targets import Targets
from reinforce.sources.folder import ImageFolder
from reinforce.views.policy_text import parse_policy
from reinforce.views.ring import PREFETCH, InRing, Ring
from tests.conftest import CLASSES

pytestmark = pytest.mark.unit


def fresh(images: Path, policy: str = "rrc", size: int = 32) -> FreshViews:
    source = ImageFolder.open(images)
    return FreshViews(source, np.arange(24), HardLabels(np.array(source.labels)), parse_policy(policy), size, len(CLASSES))


@pytest.mark.process
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("repeats", [1, 3])
def test_batches_of_workers_are_those_of_one_process(images: Path, workers: int, repeats: int) -> None:
    views = fresh(images)
    views.set_epoch(1, repeats)
    plan = [np.array(b) for b in ([3, 4, 5], [0], [7, 9, 11, 2, 23], [1, 6], *([i] for i in range(24)))]
    sizes = [32, 48, 16, 32] + [24] * 24
    alone = [(images.clone(), t.hard) for images, t in batches(views, plan, workers=0, sizes=sizes)]
    for (pixels, hard), (images_, targets) in zip(alone, batches(views, plan, workers=workers, sizes=sizes), strict=True):
        assert torch.equal(pixels, images_)
        assert torch.equal(hard, targets.hard)


@pytest.mark.process
@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_stays_whole_until_the_second_one_behind_it_is_asked_for(images: Path, workers: int) -> None:
    views = fresh(images)
    views.set_epoch(0)
    plan = [np.array([i % 24]) for i in range(40)]
    expected = [pixels for pixels, _ in batches(views, plan, workers=0)]
    held: list[torch.Tensor] = []
    for number, (pixels, _) in enumerate(batches(views, plan, workers=workers)):
        held.append(pixels)
        for back in range(min(2, number + 1)):
            assert torch.equal(held[number - back], expected[number - back])


@pytest.mark.process
def test_mixed_and_replayed_batches_are_the_same_through_the_ring(images: Path, store: Path) -> None:
    replayed = ReplayedViews(ReinforcedDataset(store, images))
    for views in (replayed, fresh(images, "usi")):
        views.set_epoch(2)
        partner = None if views.mixing is None else views.mixing[0].partner
        plan = batch_plan(0, 2, 24, 7, partner)
        alone = [(p.clone(), t) for p, t in batches(views, plan, workers=0)]
        for (pixels, expected), (found, targets) in zip(alone, batches(views, plan, workers=2), strict=True):
            assert torch.equal(pixels, found)
            assert (targets.other is None) == (expected.other is None)
            if expected.soft is not None:
                assert torch.equal(targets.soft.dense(), expected.soft.dense())


def test_a_ring_has_a_buffer_for_every_batch_that_can_be_under_way() -> None:
    ring = Ring(workers=3, size=100)
    slots = [ring.slot(n) for n in range(20)]
    under_way = 3 * PREFETCH + 2  # ahead, in use, and the one before
    assert all(len(set(slots[i : i + under_way])) == under_way for i in range(10))
    view = ring.view(2, (2, 3, 4))
    view[:] = 7
    assert ring.buffers[2][:24].eq(7).all()
    assert os.pread(ring._handle, 24, 2 * 100) == bytes([7] * 24)  # so every process that has the descriptor sees it


@pytest.mark.process
@pytest.mark.filterwarnings("ignore:.*pin_memory:UserWarning")  # where there is no GPU
def test_what_a_gpu_reads_goes_through_the_ring_too(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[InRing] = []
    get = InRing.pixels

    def noting(part: InRing) -> torch.Tensor:
        sent.append(part)
        return get(part)

    monkeypatch.setattr(InRing, "pixels", noting)
    views = fresh(images)
    views.set_epoch(0)
    plan = [np.array([i, i + 1]) for i in range(0, 24, 2)]
    alone = [(pixels, targets.hard) for pixels, targets in batches(views, plan, workers=0)]
    for (expected, hard), (pixels, targets) in zip(alone, batches(views, plan, workers=1, pin_memory=True), strict=True):
        assert torch.equal(pixels.cpu(), expected)
        assert torch.equal(targets.hard.cpu(), hard)
    assert [each.slot for each in sent] == [n % (PREFETCH + 2) for n in range(len(plan))]


def test_torchs_loader_pins_a_copy_of_what_is_in_the_ring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # which asks for a GPU
    ring = Ring(workers=1, size=24)
    ring.view(1, (2, 3, 4))[:] = 7
    pixels, targets = pin_memory((InRing(ring.key, 1, (2, 3, 4)), Targets(torch.tensor([1, 2]))))
    ring.view(1, (2, 3, 4))[:] = 9  # the next batch in this buffer
    assert pixels.eq(7).all()
    assert not pixels.is_shared()
    assert targets.hard.tolist() == [1, 2]


def test_targets_travel_as_one_message() -> None:
    soft = SparseLabels(
        torch.tensor([[1, 2]]), torch.tensor([[0.5, 0.25]]), torch.tensor([0.25]), torch.tensor([[0]]),
        torch.tensor([[3]], dtype=torch.uint8), torch.tensor([0.5]), 4,
    )  # fmt: skip
    hard, other, share = torch.tensor([1]), torch.tensor([2]), torch.tensor([0.3])
    queue: Any = torch.multiprocessing.SimpleQueue()
    queue.put(Targets(hard, soft, other, share))
    queue.put(Targets(torch.tensor([1])))
    again = queue.get()
    assert not again.hard.is_shared()
    assert torch.equal(again.soft.dense(), soft.dense())
    assert torch.equal(again.hard, hard)
    assert torch.equal(again.other, other)
    assert torch.equal(again.share, share)
    assert queue.get().soft is None
