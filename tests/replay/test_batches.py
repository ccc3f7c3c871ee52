"""Batches of an epoch: every sample once, both members of a pair in one, and the student sees what the teacher saw."""

from __future__ import annotations

from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reinforce.errors import UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.policy import MixOptions
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.drawn_labels import HardLabels
from reinforce.replay.epoch_views import FreshViews, ReplayedViews
from reinforce.replay.loader import batch_plan, batches, check_batch_size, least_share, partners, share_of_rank
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.teacher import Teacher
from reinforce.views.mix import mix
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import scheduled_views
from tests.conftest import CLASSES, SIZE, make_settings
from tests.views.mixing import POLICY, drawn

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("samples", "size"), [(24, 5), (24, 24), (24, 100), (7, 1), (1, 5), (23, 6)])
def test_a_plan_visits_every_sample_once_in_batches_of_nearly_one_size(samples: int, size: int) -> None:
    plan = batch_plan(0, 3, samples, size)
    assert sorted(np.concatenate(plan)) == list(range(samples))
    sizes = {len(b) for b in plan}
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(plan) == -(-samples // size)


@pytest.mark.process
@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("batch_size", [8, 24])
@pytest.mark.parametrize("workers", [0, 2])
def test_both_members_of_a_pair_stand_in_one_batch_and_are_what_the_teacher_saw(
    images: Path, teacher: Teacher, tmp_path: Path, repeats: int, batch_size: int, workers: int
) -> None:
    out = tmp_path / "out"
    source = ImageFolder.open(images)
    policy = parse_policy(f"{POLICY},mixup_prob=0.6,repeats={repeats}")  # so that a pair is mixed in some repeats only
    generate(source, teacher, make_settings(source, teacher, policy=policy), out, Execution(16, 0))
    dataset = ReinforcedDataset(out, images)
    views = ReplayedViews(dataset)
    shown: dict[int, list[int]] = {i: [] for i in range(24)}
    decodes = 0
    for epoch in range(2 * repeats):
        views.set_epoch(epoch, repeats)
        partner = partners(views.mixing)
        plan = batch_plan(0, epoch, 24, batch_size, partner, repeats)
        assert len(plan) == -(-24 // batch_size)
        for samples, (pixels, targets) in zip(plan, batches(views, plan, workers=workers), strict=True):
            assert len(pixels) == repeats * len(samples)
            assert set(partner[samples]) <= set(samples.tolist())
            decodes += len(samples)
            for i, index in enumerate(np.tile(samples, repeats).tolist()):
                view = dataset.view_of(index, i // len(samples))
                shown[index].append(view)
                assert torch.equal(pixels[i], dataset.replay(index, view))
                label = dataset.store.label_of(int(dataset.samples[index]), view)
                assert targets.soft.probs[i, : len(label.probs)].tolist() == label.probs.tolist()
                lam, *_, height, width = dataset.store.params_of(int(dataset.samples[index]), view)[-5:].tolist()
                assert targets.share[i] == pytest.approx(lam / 255 * (1 - height * width / SIZE**2))
                row = dataset.store.params_of(int(dataset.samples[index]), view)[-6]
                other = dataset.store.samples_of(int(dataset.store.samples.block[dataset.samples[index]]))[row]
                assert targets.other[i] == dataset.store.samples.labels[other]
    assert decodes == 2 * 24  # every image once for all its repeats
    assert all(len(v) == 2 * repeats for v in shown.values())
    assert all(len(set(v)) >= 2 * repeats - 1 for v in shown.values())


@pytest.mark.parametrize("views", [1, 5, 6])
@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_repeats_visit_every_view_and_each_sample_once_in_so_many_epochs(views: int, repeats: int) -> None:
    groups = -(-views // repeats)
    seen = [v for epoch in range(0, groups * repeats, repeats) for v in scheduled_views(0, 4, epoch, views, repeats)]
    assert set(seen) == set(range(views))
    assert all(
        scheduled_views(0, 4, e, views, repeats) == scheduled_views(0, 4, e // repeats * repeats, views, repeats)
        for e in range(9)
    )
    for cycle in range(3):
        plans = [np.concatenate(batch_plan(1, cycle * repeats + turn, 50, 8, repeats=repeats)) for turn in range(repeats)]
        assert sorted(np.concatenate(plans)) == list(range(50))


def test_fresh_views_are_mixed_too_and_anew_in_every_epoch(images: Path) -> None:
    source = ImageFolder.open(images)
    views = FreshViews(source, np.arange(24), HardLabels(np.array(source.labels)), parse_policy(POLICY), SIZE, len(CLASSES))
    found = []
    for epoch in (0, 0, 1):
        views.set_epoch(epoch)
        plan = batch_plan(0, 0, 24, 24, views.mixing[0].partner)
        ((pixels, targets),) = batches(views, plan, workers=0)
        assert targets.soft is None
        alone = np.stack([views.items(i)[0].image.numpy() for i in plan[0]])
        position = {int(s): i for i, s in enumerate(plan[0])}
        local = views.mixing[0].take(plan[0], np.array([position[int(p)] for p in views.mixing[0].partner[plan[0]]]))
        assert np.array_equal(pixels.numpy(), mix(alone, local))
        assert targets.other.tolist() == [source.labels[views.mixing[0].partner[s]] for s in plan[0]]
        found.append(views.mixing[0])
    assert all(np.array_equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not np.array_equal(found[0].partner, found[2].partner)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("paired", [False, True])
def test_ranks_share_a_batch_without_tearing_a_pair_or_losing_a_sample(world: int, paired: bool) -> None:
    partner = drawn(2, 101, MixOptions(mixup=0.8, mixup_prob=0.7)).partner if paired else None
    for samples in batch_plan(3, 1, 101, 16, partner):
        shares = [share_of_rank(samples, partner, rank, world) for rank in range(world)]
        assert np.concatenate(shares).tolist() == samples.tolist()
        assert max(map(len, shares)) - min(map(len, shares)) <= 1 + 2 * paired
        if paired:
            assert all(set(partner[share]) <= set(share.tolist()) for share in shares)


@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("prob", [None, 0.6, 1.0], ids=["alone", "some in pairs", "pairs"])
def test_no_process_ever_has_fewer_views_than_was_foretold(prob: float | None, repeats: int) -> None:
    exact = 0
    for samples, batch_size, world in product([1, 2, 3, 5, 8, 9, 13, 24], [1, 2, 4, 5, 8, 12, 24], [1, 2, 3]):
        foretold = least_share(samples, batch_size, mixing=prob is not None, repeats=repeats, world=world)
        found = []
        for seed in range(6):
            partner = None if prob is None else drawn(seed, samples, MixOptions(mixup=0.8, mixup_prob=prob)).partner
            plans = [batch_plan(seed, epoch, samples, batch_size, partner, repeats) for epoch in range(repeats)]
            assert sorted(np.concatenate(list(chain.from_iterable(plans)))) == list(range(samples))
            shares = [share_of_rank(b, partner, rank, world) for plan in plans for b in plan for rank in range(world)]
            found.append(repeats * min(map(len, shares)))
        assert min(found) >= foretold
        exact += min(found) == foretold
    assert exact == 8 * 7 * 3 or prob is not None  # the bound is reached wherever nothing is mixed


@pytest.mark.parametrize(("given", "fix"), [
    ({"num_samples": 1, "batch_size": 8, "world": 2}, "more images"),  # nothing for the second process
    ({"num_samples": 3, "batch_size": 2, "views": 2}, "--batch-size 3"),  # two batches, of 2 and 1
    ({"num_samples": 9, "batch_size": 8, "world": 3, "views": 2}, "--batch-size 9"),  # 5 and 4 views of three processes
    ({"num_samples": 5, "batch_size": 4, "mixing": True, "views": 2}, "--batch-size 5"),  # two pairs, then a single one
    ({"num_samples": 9, "batch_size": 8, "mixing": True, "world": 2}, "--batch-size 9"),
    ({"num_samples": 1000, "batch_size": 2, "repeats": 3}, "--batch-size 4"),  # at 3: 334 batches, and 333 images in an epoch
    ({"num_samples": 2, "batch_size": 8, "repeats": 3}, "more images"),  # an epoch of the three has no image
])  # fmt: skip
def test_batches_too_small_for_a_process_are_refused_with_a_size_that_is_not(given: Any, fix: str) -> None:
    given = {"mixing": False, "repeats": 1, **given}
    with pytest.raises(UsageError, match=f"next: +{fix}") as error:
        check_batch_size(**given)
    if "--batch-size" in fix:
        check_batch_size(**{**given, "batch_size": int(fix.split()[1])})
        assert f"A batch of {given['batch_size']} is too small" in str(error.value)


@pytest.mark.parametrize("samples", [2, 3, 5, 9, 17, 24])
def test_no_batch_of_pairs_is_ever_empty(samples: int) -> None:
    for seed in range(30):
        partner = drawn(seed, samples, MixOptions(mixup=0.8, mixup_prob=0.6)).partner
        plan = batch_plan(seed, 0, samples, 4, partner)
        assert len(plan) == -(-samples // 4)
        assert all(len(batch) for batch in plan)
        assert sorted(np.concatenate(plan)) == list(range(samples))
