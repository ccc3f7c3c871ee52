"""Training from shards: a few at a time, from anywhere, to the bit as from disk, and from some of them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reinforce.cli import progress
from reinforce.errors import SourceError, UsageError
from reinforce.packs.open_labels import match_keys
from reinforce.packs.pack import pack
from reinforce.packs.packed_store import PackedStore
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.epoch_views import ReplayedViews
from reinforce.replay.loader import WINDOW_GROUPS, batch_plan, share_of_rank
from reinforce.sources.folder import ImageFolder
from reinforce.sources.open_source import open_source
from tests.conftest import Cli
from tests.packs.conftest import POLICIES, SMALL, open_shards
from tests.servers import serve_http

pytestmark = pytest.mark.unit


def test_an_epoch_goes_through_the_shards_a_few_at_a_time() -> None:
    rng = np.random.default_rng(0)
    groups = np.sort(rng.integers(0, 40, 2000))
    for epoch in range(3):
        plan = batch_plan(1, epoch, 2000, 16, groups=groups)
        order = np.concatenate(plan)
        assert sorted(order.tolist()) == list(range(2000)), "each sample once"
        at_once = [len(set(groups[order[i : i + 100]])) for i in range(0, 2000, 100)]
        assert max(at_once) <= 2 * WINDOW_GROUPS
        assert min(at_once) > WINDOW_GROUPS // 2, "and shuffles them among each other"
        assert not np.array_equal(order, np.concatenate(batch_plan(1, epoch + 7, 2000, 16, groups=groups)))
        assert all(np.array_equal(a, b) for a, b in zip(plan, batch_plan(1, epoch, 2000, 16, groups=groups), strict=True))
        for world in (2, 3):
            shares = [np.concatenate([share_of_rank(b, None, rank, world) for b in plan]) for rank in range(world)]
            assert sorted(np.concatenate(shares).tolist()) == list(range(2000)), "each sample in one process"


def test_pairs_stay_together_and_repeats_take_turns_in_shards(packs: Callable[[str], Path]) -> None:
    views = ReplayedViews(ReinforcedDataset(packs("mixed")))
    views.set_epoch(0)
    partner = views.mixing[0].partner
    for epoch in range(3):
        views.set_epoch(epoch)
        partner = views.mixing[0].partner
        plan = batch_plan(0, epoch, 24, 6, partner, 1, views.groups)
        assert sorted(np.concatenate(plan).tolist()) == list(range(24))
        for batch in plan:
            assert set(partner[batch].tolist()) == set(batch.tolist())
    turns = [np.concatenate(batch_plan(0, e, 24, 6, None, 3, views.groups)) for e in range(3)]
    assert sorted(np.concatenate(turns).tolist()) == list(range(24))


TRAIN = ("--student", "test_vit", "--student-kwargs", "img_size=32", "--batch-size", 6, "--epochs", 3)


@pytest.mark.network
@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("kind", POLICIES)
def test_training_streams_over_http_and_is_the_same_as_from_disk(
    kind: str, packs: Callable[[str], Path], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {}
    with serve_http(packs(kind)) as served:
        last = len(list(packs(kind).glob("*.tar"))) - 1
        pattern = f"shards-{{000000..{last:06d}}}.tar"
        for name, where in (("disk", packs(kind)), ("http", served.url)):
            monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / f"cache-{name}"))
            data = ("--data", f"{where}/{pattern}", "--workers", 2)
            code, _, err = cli("train", *data, *TRAIN, "--out", tmp_path / name)
            assert code == 0, err
            results[name] = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        total = sum(p.stat().st_size for p in packs(kind).rglob("*") if p.is_file())
        assert served.sent < 2.5 * total, "what came once stays"
    for disk, http in zip(results["disk"], results["http"], strict=True):
        assert disk["loss"] == http["loss"]


@pytest.mark.process
@pytest.mark.slow
def test_training_from_shards_resumes_to_the_bit(
    packs: Callable[[str], Path], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("train", "--data", packs("mixed"), "--workers", 1, *TRAIN)
    assert cli(*run, "--out", tmp_path / "whole")[0] == 0

    def interrupt(self: progress.Progress, done: int, total: int) -> None:
        if self.label == "epoch 1" and done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "__call__", interrupt)
        assert cli(*run, "--out", tmp_path / "cut")[0] == 130
    code, _, err = cli(*run, "--out", tmp_path / "cut", "--resume")
    assert code == 0, err
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut")]
    for mine, theirs in zip(*lines, strict=True):
        assert json.loads(mine)["loss"] == json.loads(theirs)["loss"]
    whole, cut = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    code, _, _ = cli("train", "--data", packs("alone"), "--workers", 1, *TRAIN, "--out", tmp_path / "cut", "--resume")
    assert code == 2, "another data set is not the same run"


def test_some_of_the_shards_are_some_of_the_samples(packs: Callable[[str], Path], labels: Callable[[str], Path]) -> None:
    alone = open_shards(packs("alone") / "shards-000000.tar")
    dataset = ReinforcedDataset(PackedStore(alone))
    assert len(dataset) == len(alone) < 24
    dataset.set_epoch(1)
    assert all(dataset[i][0].shape == (3, 32, 32) for i in range(len(dataset)))
    mixed = open_shards(packs("mixed") / "shards-000001.tar")
    dataset = ReinforcedDataset(PackedStore(mixed))
    assert 0 < len(dataset) == len(mixed) < 24
    for epoch in range(3):
        dataset.set_epoch(epoch)
        partner = dataset.epoch.mixing[0].among(dataset.samples).partner
        assert partner.max() < len(dataset)


def test_places_in_its_own_shards_are_known_and_in_others_are_found_by_key(packs: Callable[[str], Path], images: Path) -> None:
    own, other = open_shards(packs("alone")), open_shards(packs("alone"))
    store, samples = PackedStore(own), np.array([7, 3, 23])
    found = match_keys(store, own, samples)
    assert (
        found.tolist() == match_keys(store, other, samples).tolist() == [own.keys.index(store.samples.key(s)) for s in samples]
    )
    folder = open_source(images)
    assert [folder.keys[i] for i in match_keys(store, folder, samples)] == [store.samples.key(s) for s in samples]
    some = open_shards(packs("alone") / "shards-000000.tar")
    with pytest.raises(SourceError, match="are not in"):
        match_keys(PackedStore(some), some, np.arange(24))


def test_labels_may_come_from_shards_and_images_from_a_folder(
    packs: Callable[[str], Path], images: Path, tmp_path: Path, cli: Cli
) -> None:
    dataset = ReinforcedDataset(packs("alone"), images)
    assert dataset.source.kind == "folder"
    out = ("--out", tmp_path / "run", "--workers", 0)
    code, _, err = cli("train", "--data", images, "--labels", packs("alone"), *TRAIN[:-1], 1, *out)
    assert code == 0, err


def test_shards_without_labels_need_some(images: Path, store: Path, tmp_path: Path, cli: Cli) -> None:
    pack(ImageFolder.open(images), None, tmp_path / "plain", SMALL)
    code, _, err = cli("train", "--data", tmp_path / "plain", *TRAIN, "--out", tmp_path / "run")
    assert code == 2
    assert "shards with labels as --data" in err
    plain = ("--mode", "plain", "--data", tmp_path / "plain", "--size", 32)
    code, _, err = cli("train", *plain, *TRAIN[:-1], 1, "--out", tmp_path / "r2")
    assert code == 0, err
    with pytest.raises(UsageError, match="The images are not given"):
        ReinforcedDataset(store)
