"""Shards: they hold what the blocks hold, replay it exactly, and are what users of webdataset expect."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from reinforce.errors import StoreError, UsageError
from reinforce.labels.label_map import MapCodec
from reinforce.labels.sparse import SparseLabels
from reinforce.packs.open_labels import open_labels
from reinforce.packs.pack import pack
from reinforce.packs.packed_store import PackedStore
from reinforce.packs.shard_decoder import ShardDecoder
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sources.folder import ImageFolder
from reinforce.sources.open_source import open_source
from reinforce.store.store import Store
from reinforce.verification.verify import require, verify_pixels
from reinforce.verification.verify_pack import verify_pack
from tests.conftest import CLASSES, Cli
from tests.packs.conftest import POLICIES, SMALL, dense, open_shards

pytestmark = pytest.mark.unit

STREAMS = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its files


# One record format, two containers


@pytest.mark.parametrize("kind", POLICIES)
def test_shards_hold_what_the_blocks_hold(kind: str, labels: Callable[[str], Path], packs: Callable[[str], Path]) -> None:
    blocks, shards = Store(labels(kind)), open_labels(packs(kind))
    assert isinstance(shards, PackedStore)
    assert shards.ok_samples.tolist() == blocks.ok_samples.tolist()
    assert shards.blocks == blocks.blocks
    assert shards.spec == blocks.spec
    for sample in blocks.ok_samples.tolist():
        assert torch.equal(dense(shards, sample), dense(blocks, sample))
        assert shards.probe_of(sample) == blocks.probe_of(sample)
        for view in range(5):
            assert np.array_equal(shards.params_of(sample, view), blocks.params_of(sample, view))
            one = SparseLabels.stack([shards.label_of(sample, view)], 3).dense()[0]
            assert torch.equal(one, dense(blocks, sample)[view])


@pytest.mark.parametrize("kind", POLICIES)
def test_both_show_the_same_views_in_every_epoch(
    kind: str, labels: Callable[[str], Path], packs: Callable[[str], Path], images: Path
) -> None:
    folder, shards = ReinforcedDataset(labels(kind), images), ReinforcedDataset(packs(kind))
    assert len(shards) == len(folder) == 24
    for epoch in range(6):
        folder.set_epoch(epoch)
        shards.set_epoch(epoch)
        if kind == "mixed":
            assert np.array_equal(folder.epoch.mixing[0].partner, shards.epoch.mixing[0].partner)
            assert np.array_equal(folder.epoch.mixing[0].boxes, shards.epoch.mixing[0].boxes)
        for index in range(24):
            for mine, theirs in zip(folder[index], shards[index], strict=True):
                assert torch.equal(torch.as_tensor(mine), torch.as_tensor(theirs))


@pytest.mark.parametrize("kind", POLICIES)
def test_a_pack_verifies_and_replays_byte_for_byte(kind: str, packs: Callable[[str], Path]) -> None:
    source = open_shards(packs(kind))
    require([*verify_pack(source), *verify_pixels(ReinforcedDataset(packs(kind)), 120, 0)])


def test_label_maps_are_packed_too(images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 64, "--workers", 0)
    assert cli("generate", "--labels", "map", "--data", images, *teacher, "--out", tmp_path / "maps")[0] == 0
    assert cli("pack", tmp_path / "maps", "--data", images, "--out", tmp_path / "pack")[0] == 0
    blocks, shards = Store(tmp_path / "maps"), open_labels(tmp_path / "pack")
    assert isinstance(shards.codec, MapCodec)
    for sample in range(24):
        assert bytes(shards.record(sample, 0)) == bytes(blocks.record(sample, 0))
    train = ("--recipe", "relabel", "--policy", "rrc", "--student", "test_vit", "--student-kwargs", "img_size=32", "--size", 32)
    code, _, err = cli(
        "train", "--data", tmp_path / "pack", *train, "--epochs", 1, "--batch-size", 8, "--no-amp", "--out", tmp_path / "run"
    )
    assert code == 0, err


# In a stream


@STREAMS
def test_shards_are_what_webdataset_users_expect(packs: Callable[[str], Path], images: Path) -> None:
    folder, shards = ImageFolder.open(images), sorted(packs("alone").glob("*.tar"))
    assert len(shards) > 2
    seen = {}
    for sample in webdataset.WebDataset([str(s) for s in shards], shardshuffle=False):
        image = next(v for k, v in sample.items() if k in ("jpg", "png"))
        seen[sample["__key__"]] = (image, int(sample["cls"]))
        assert set(sample) - {"__key__", "__url__", "__local_path__"} in ({"jpg", "cls", "rein"}, {"png", "cls", "rein"})
    assert seen == {key: (folder.read(i), folder.label(i)) for i, key in enumerate(folder.keys)}
    assert list(seen) != sorted(seen), "in random order: a stream shuffles a few thousand samples at most"
    assert json.loads((packs("alone") / "class_names.json").read_text()) == list(CLASSES)
    assert open_source(packs("alone")).class_names == CLASSES


@STREAMS
def test_five_lines_are_enough_for_a_stream(packs: Callable[[str], Path], labels: Callable[[str], Path], images: Path) -> None:
    replayed = ReinforcedDataset(labels("alone"), images)
    decode = ShardDecoder(str(packs("alone")))
    count = 0
    for sample in webdataset.WebDataset(sorted(map(str, packs("alone").glob("*.tar"))), shardshuffle=False):
        index = replayed.store.samples.keys.index(sample["__key__"])
        for view in range(decode.views):
            image, soft, hard = decode(sample, view)
            assert torch.equal(image, replayed.replay(index, view))
            assert torch.equal(soft, dense(replayed.store, index)[view])
            assert hard == replayed.store.samples.labels[index]
        count += 1
    assert count == 24
    with pytest.raises(StoreError, match="A sample has no image"):
        decode({"jpg": b""}, 0)


def test_a_stream_of_single_samples_cannot_be_mixed(packs: Callable[[str], Path], images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mixed with other samples"):
        ShardDecoder(str(packs("mixed")))
    pack(ImageFolder.open(images), None, tmp_path / "plain", SMALL)
    for nothing in (tmp_path / "plain", tmp_path):
        with pytest.raises(UsageError, match="no shards with labels"):
            ShardDecoder(str(nothing))
