"""Packs: shards hold what the folder holds, replay it exactly, stream from anywhere, and tell where they were changed."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from reinforce.cli import progress
from reinforce.errors import ReinforceError, SettingsError, SourceError, StoreError, UsageError
from reinforce.generation.generate import Execution, generate
from reinforce.labels.label_map import MapCodec
from reinforce.labels.sparse import SparseLabels
from reinforce.packs.open_labels import open_labels
from reinforce.packs.pack import Options, pack
from reinforce.packs.pack_order import escaped, unescaped
from reinforce.packs.packed_store import PackedStore
from reinforce.packs.rein_file import ReinFile, make_rein
from reinforce.packs.shard_decoder import ShardDecoder
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.epoch_views import ReplayedViews
from reinforce.replay.loader import WINDOW_GROUPS, batch_plan, share_of_rank
from reinforce.sources.folder import ImageFolder
from reinforce.sources.open_source import open_source
from reinforce.sources.pack_manifest import Pack
from reinforce.store.store import Store
from reinforce.verification.verify import require, verify_pixels
from reinforce.verification.verify_pack import verify_pack
from reinforce.views.policy_text import parse_policy
from tests.conftest import CLASSES, Cli, make_settings, picture
from tests.servers import serve_http

STREAMS = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # its files
SMALL = Options(shard_bytes=30_000)
POLICIES = {"alone": "rrc-ra", "mixed": "usi"}


@pytest.fixture(scope="module")
def labels(images: Path, teacher, tmp_path_factory) -> Callable[[str], Path]:
    """24 samples in 4 blocks, 5 views in 3 stripes, by one policy or another; or label maps."""
    source, made = ImageFolder.open(images), {}

    def one(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "labels"
            changes = {"policy": parse_policy(POLICIES[kind]), "record_views": 2, "codec": {"name": "sqrt", "delta": 0.1}}
            generate(source, teacher, make_settings(source, teacher, **changes), made[kind], Execution(16, 0))
        return made[kind]

    return one


@pytest.fixture(scope="module")
def packs(labels, images: Path, tmp_path_factory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def one(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("pack") / kind
            pack(ImageFolder.open(images), labels(kind), made[kind], SMALL)
        return made[kind]

    return one


def dense(store, sample: int) -> torch.Tensor:
    return SparseLabels.stack(store.labels_of(sample), store.settings.num_classes).dense()


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


# One record format, two containers


@pytest.mark.parametrize("kind", POLICIES)
def test_shards_hold_what_the_blocks_hold(kind: str, labels, packs) -> None:
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
def test_both_show_the_same_views_in_every_epoch(kind: str, labels, packs, images: Path) -> None:
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
def test_a_pack_verifies_and_replays_byte_for_byte(kind: str, packs) -> None:
    source = open_source(packs(kind))
    require([*verify_pack(source), *verify_pixels(ReinforcedDataset(packs(kind)), 120, 0)])


def test_label_maps_are_packed_too(images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 64, "--workers", 0)
    assert cli("generate", "--labels", "map", "--data", images, *teacher, "--out", tmp_path / "maps")[0] == 0
    assert cli("pack", tmp_path / "maps", "--data", images, "--out", tmp_path / "pack")[0] == 0
    blocks, shards = Store(tmp_path / "maps"), open_labels(tmp_path / "pack")
    assert isinstance(shards.codec, MapCodec)
    for sample in range(24):
        assert np.array_equal(shards.map_of(sample).scores, blocks.map_of(sample).scores)
    train = ("--recipe", "relabel", "--policy", "rrc", "--student", "test_vit", "--student-kwargs", "img_size=32", "--size", 32)
    code, _, err = cli(
        "train", "--data", tmp_path / "pack", *train, "--epochs", 1, "--batch-size", 8, "--no-amp", "--out", tmp_path / "run"
    )
    assert code == 0, err


# What is written


@STREAMS
def test_shards_are_what_webdataset_users_expect(packs, images: Path) -> None:
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
def test_five_lines_are_enough_for_a_stream(packs, labels, images: Path) -> None:
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


def test_a_stream_of_single_samples_cannot_be_mixed(packs, images: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mixed with other samples"):
        ShardDecoder(str(packs("mixed")))
    pack(ImageFolder.open(images), None, tmp_path / "plain", SMALL)
    for nothing in (tmp_path / "plain", tmp_path):
        with pytest.raises(UsageError, match="no shards with labels"):
            ShardDecoder(str(nothing))


def test_mixed_samples_stand_by_blocks_and_no_block_is_torn(packs, labels) -> None:
    source, store = open_source(packs("mixed")), Store(labels("mixed"))
    block_of = {store.samples.key(s): int(store.samples.block[s]) for s in range(24)}
    shards = [{block_of[k] for k, g in zip(source.keys, source.groups, strict=True) if g == n} for n in set(source.groups)]
    assert len(shards) > 1
    assert sum(map(len, shards)) == 4


def test_packing_twice_gives_the_same_bytes(packs, labels, images: Path, tmp_path: Path) -> None:
    pack(ImageFolder.open(images), labels("alone"), tmp_path / "again", SMALL)
    assert tree(tmp_path / "again") == tree(packs("alone"))


def test_an_interrupted_pack_goes_on_and_ends_the_same(packs, labels, images: Path, tmp_path: Path, monkeypatch) -> None:
    out, source = tmp_path / "again", ImageFolder.open(images)
    calls = []

    def stop(done: int, total: int) -> None:
        fresh = done > max(calls, default=0)
        calls.append(done)
        if fresh:
            raise KeyboardInterrupt

    for _ in range(20):
        try:
            pack(source, labels("alone"), out, SMALL, stop)
            break
        except KeyboardInterrupt:
            assert not (out / "pack.json").exists()
    assert len(calls) > 4
    assert tree(out) == tree(packs("alone"))


def test_a_folder_with_something_else_is_left_alone(packs, labels, images: Path, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    before = tree(packs("alone"))
    for again in (SMALL, Options(shard_bytes=10_000)):
        with pytest.raises(SettingsError, match="has another pack"):
            pack(source, labels("alone"), packs("alone"), again)
    assert tree(packs("alone")) == before
    with pytest.raises(StoreError, match="holds other files"):
        pack(source, None, labels("alone"), SMALL)
    with pytest.raises(UsageError, match="Labels belong to the images as they were"):
        pack(source, labels("alone"), tmp_path / "x", Options(resize=32))
    assert not (tmp_path / "x").exists()


def test_changed_and_missing_images_are_not_packed_with_labels(labels, own_images: Path, tmp_path: Path) -> None:
    picture(99).save(own_images / "apple" / "000.jpg")
    with pytest.raises(ReinforceError, match="is not the one that the teacher saw"):
        pack(ImageFolder.open(own_images), labels("alone"), tmp_path / "a", SMALL)
    (own_images / "apple" / "000.jpg").unlink()
    with pytest.raises(SourceError, match="are not in"):
        pack(ImageFolder.open(own_images), labels("alone"), tmp_path / "b", SMALL)
    gone = ImageFolder.open(own_images)
    (own_images / "apple" / "001.jpg").unlink()
    with pytest.raises(SourceError, match="apple/001 cannot be read"):
        pack(gone, None, tmp_path / "c", SMALL)


def test_images_alone_are_packed_smaller_and_are_a_new_source(tmp_path: Path, weights: Path, cli: Cli) -> None:
    root = tmp_path / "images"
    for c, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(3):
            picture(3 * c + i, 300, 200 + 50 * i).save(root / name / f"{i}.v1.jpg")
    (root / "apple" / "small.png").write_bytes(_png(picture(50, 20, 30)))
    (root / "bread" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    code, out, _ = cli("pack", "--data", root, "--out", tmp_path / "packed", "--resize", 64, "--quality", 80)
    assert code == 0
    before, after = ImageFolder.open(root), open_source(tmp_path / "packed")
    assert sorted(after.keys) == sorted(before.keys), "dots in names survive"
    for index, key in enumerate(after.keys):
        was = before.read(before.keys.index(key))
        if "small" in key or "broken" in key:
            assert after.read(index) == was
            continue
        image = Image.open(io.BytesIO(after.read(index)))
        assert min(image.size) == 64
        assert image.format == "JPEG"
        assert after.read(index) != was
    assert after.labels is not None
    assert after.class_names == CLASSES
    teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 32, "--views", 2, "--workers", 0)
    code, out, _ = cli("generate", "--data", tmp_path / "packed", *teacher, "--out", tmp_path / "labels")
    assert code == 0
    assert "10 samples x 2 views, 0 missing, 1 corrupt" in out
    code, out, _ = cli("inspect", tmp_path / "packed")
    assert "11 images, shorter side 64 pixels" in out
    assert cli("verify", tmp_path / "packed")[0] == 0


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


@given(st.text(st.characters(exclude_characters="/", codec="utf-8"), min_size=1))
def test_any_key_survives_as_a_name(key: str) -> None:
    assert unescaped(escaped(f"a.b/{key}")) == f"a.b/{key}"
    assert "." not in escaped(key)


@pytest.mark.parametrize("key", ["../a", "/a", "a//b", "./a", "a/../b", ".."])
def test_keys_that_lead_elsewhere_are_not_written(key: str, images: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    source = ImageFolder.open(images)
    with pytest.raises(SourceError, match="no name for a member"):
        pack(replace(source, keys=(key, *source.keys[1:])), None, tmp_path / "out", SMALL)


# Training from shards


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


def test_pairs_stay_together_and_repeats_take_turns_in_shards(packs) -> None:
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", POLICIES)
def test_training_streams_over_http_and_is_the_same_as_from_disk(kind, packs, tmp_path: Path, cli: Cli, monkeypatch) -> None:
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


@pytest.mark.slow
def test_training_from_shards_resumes_to_the_bit(packs, tmp_path: Path, cli: Cli, monkeypatch) -> None:
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


def test_some_of_the_shards_are_some_of_the_samples(packs, labels) -> None:
    alone = open_source(packs("alone") / "shards-000000.tar")
    dataset = ReinforcedDataset(PackedStore(alone))
    assert len(dataset) == len(alone) < 24
    dataset.set_epoch(1)
    assert all(dataset[i][0].shape == (3, 32, 32) for i in range(len(dataset)))
    mixed = open_source(packs("mixed") / "shards-000001.tar")
    dataset = ReinforcedDataset(PackedStore(mixed))
    assert 0 < len(dataset) == len(mixed) < 24
    for epoch in range(3):
        dataset.set_epoch(epoch)
        partner = dataset.epoch.mixing[0].among(dataset.samples).partner
        assert partner.max() < len(dataset)


def test_labels_may_come_from_shards_and_images_from_a_folder(packs, images: Path, tmp_path: Path, cli: Cli) -> None:
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


# Damage


@pytest.fixture
def own(packs, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packs("mixed"), tmp_path / "own"))


def failures(root: Path) -> str:
    try:
        checks = verify_pack(open_source(root))
        if not any(c.failed for c in checks):
            checks += verify_pixels(ReinforcedDataset(root, check=False), 0, 0)
    except ReinforceError as error:
        return str(error)
    return "\n".join(failure for check in checks for failure in check.failures)


FILES = ("shards-000000.tar", "shards-000001.tar", "index.parquet", "samples.parquet", "class_names.json")


@pytest.mark.parametrize("path", [*FILES, "mixing/000001.001.bin"])
def test_one_changed_byte_is_found(path: str, own: Path) -> None:
    assert failures(own) == ""
    content = bytearray((own / path).read_bytes())
    content[len(content) // 2] ^= 1
    (own / path).write_bytes(content)
    assert Path(path).name in failures(own)


def test_a_missing_or_cut_shard_is_found(own: Path) -> None:
    whole = (own / "shards-000001.tar").read_bytes()
    (own / "shards-000001.tar").write_bytes(whole[:-512])
    with pytest.raises(StoreError, match="not a shard of the pack"):
        open_source(own)
    (own / "shards-000001.tar").unlink()
    (own / "foreign.tar").write_bytes(whole)
    with pytest.raises(StoreError, match="not a shard of the pack"):
        open_source(own)


def test_a_sample_that_was_swapped_is_found_when_it_is_read(own: Path) -> None:
    """Hashes forged all along: the sample says itself where it belongs, and the image's hash is in the table."""
    from reinforce.sources.pack_folder import PackFolder

    source = open_source(own)
    store = PackedStore(source)
    first, second = [s for s in store.ok_samples.tolist() if source.groups[store._position[s]] == 0][:2]
    a, b = int(store._position[first]), int(store._position[second])
    swapped = source.places.copy()
    swapped[[a, b], 3:] = source.places[[b, a], 3:]
    object.__setattr__(source, "places", swapped)
    with pytest.raises(StoreError, match="is of another data set"):
        PackedStore(source).labels_of(first)
    assert isinstance(source.pack, PackFolder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["files"].update({"../evil": "0" * 64}), "is no path of a pack"),
        (lambda a: a["shards"][0].update(name="../evil.tar"), "pack.json is not valid"),
        (lambda a: a["shards"][0].update(name="a/b.tar"), "pack.json is not valid"),
        (lambda a: a["shards"].append(a["shards"][0]), "shards with one name"),
        (lambda a: a.update(num_samples=3), "another number of samples"),
        (lambda a: a["files"].pop("samples.parquet"), "labels without their table"),
        (lambda a: a["files"].pop("index.parquet"), "index.parquet is not listed"),
        (lambda a: a["labels"]["settings"].update(codec={"name": "pickle"}), "codec is not one"),
        (lambda a: a["labels"].update(params_fields=[1, 2, 3, 999]), "params layout"),
        (lambda a: a.update(more=1), "pack.json is not valid"),
    ],
)
def test_a_manifest_that_could_not_be_ours_is_refused(change, message: str, own: Path) -> None:
    about = json.loads((own / "pack.json").read_bytes())
    change(about)
    (own / "pack.json").write_text(json.dumps(about))
    assert message in failures(own)


def rein() -> bytes:
    params = np.arange(5 * 4, dtype=np.int32).reshape(5, 4)
    return make_rein(params, [b"one", b"two!", b""], 2, 7, 3, 0xDEADBEEF)


def test_a_rein_holds_params_and_records() -> None:
    back = ReinFile.parse(rein())
    assert back[:6] == (5, 2, 4, 7, 3, 0xDEADBEEF)
    assert np.array_equal(np.stack([back.params(v) for v in range(5)]), np.arange(20).reshape(5, 4))
    assert [bytes(back.record(s)) for s in range(3)] == [b"one", b"two!", b""]
    assert [back.stripe_views(s) for s in range(3)] == [2, 2, 1]
    for view in (-1, 5):
        with pytest.raises(StoreError, match="no view"):
            back.params(view)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_rein_is_refused_or_still_a_rein(data) -> None:
    content = bytearray(rein())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    try:
        back = ReinFile.parse(bytes(content))
        for view in range(min(back.views, 20)):
            assert back.params(view).shape == (back.columns,)
    except StoreError:
        pass


def test_a_rein_that_claims_gigabytes_is_refused() -> None:
    content = bytearray(rein())
    content[6:8] = (65535).to_bytes(2, "little")
    with pytest.raises(StoreError):
        ReinFile.parse(bytes(content))
    frame = bytearray(rein())
    at = frame.index(ReinFile.parse(rein()).parts[0][0].tobytes())
    frame[at + 4 : at + 8] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(StoreError, match="is not of"):
        ReinFile.parse(bytes(frame)).params(0)


def test_the_vector_of_the_format() -> None:
    text = (Path(__file__).parents[2] / "reinforce" / "FORMAT.md").read_text()
    section = text[text.index("## Packs") :]
    vector = bytes.fromhex(re.search(r"```\n([0-9a-f \n]+)```", section)[1])
    back = ReinFile.parse(vector)
    assert back[:6] == (2, 64, 4, 1, 5, 0x01020304)
    assert np.array_equal(np.stack([back.params(v) for v in range(2)]), [[1, 2, 3, 4], [5, 6, 7, 8]])
    assert bytes(back.record(0)) == b"record"


def test_the_keys_of_the_manifest_stand_on_the_page() -> None:
    text = (Path(__file__).parents[2] / "reinforce" / "FORMAT.md").read_text()
    for key in Pack.model_fields:
        assert f"| `{key}` |" in text[text.index("## Packs") :]


def test_a_hostile_tar_with_a_pack_beside_it_is_not_believed(own: Path) -> None:
    """The index says where members lie; `verify` reads the headers too."""
    shard = own / "shards-000000.tar"
    with tarfile.open(shard) as tar:
        names = tar.getnames()
    assert len(names) == len(set(names))
    assert not [n for n in names if n.startswith("/") or ".." in n]
