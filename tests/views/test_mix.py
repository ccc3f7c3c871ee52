"""MixUp and CutMix as laws: pairs, integers, both members in one batch, and the student sees what the teacher saw."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from scipy import stats
from timm.data.mixup import rand_bbox

from reinforce.errors import ReplayError, SourceError, StoreError, UsageError
from reinforce.files import file_sha256
from reinforce.generation.generate import Execution, generate
from reinforce.policy import MixOptions
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.epoch_views import FreshViews, ReplayedViews
from reinforce.replay.loader import batch_plan, batches, check_batch_size, partners, share_of_rank
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import block_path
from reinforce.store.store import Store
from reinforce.verification.verify import verify_pixels, verify_store
from reinforce.views.apply import apply
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import WHOLE, Mixing, draw_mixing, mix, mixing_columns, read_mixing
from reinforce.views.params import Field
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import scheduled_views, view_rng
from tests.conftest import CLASSES, SIZE, make_settings

USI = MixOptions(mixup=0.8, cutmix=1.0)
POLICY = "rrc-ra:mixup=0.8,cutmix=1"


def drawn(seed: int, count: int, options: MixOptions = USI, size: int = 224) -> Mixing:
    return draw_mixing(np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1]), count, options, size)


# Drawing


@pytest.mark.parametrize("count", [0, 1, 2, 3, 64, 65])
@pytest.mark.parametrize("options", [USI, MixOptions(1.0, 1.0, 0.5, both=True), MixOptions(0.2), MixOptions(cutmix=1.0)])
def test_pairs_are_pairs_with_one_share_and_one_box(count, options) -> None:
    for seed in range(20):
        mixing = drawn(seed, count, options)
        assert mixing.fault(224) is None
        alone = mixing.partner == np.arange(count)
        assert (mixing.lam[alone] == WHOLE).all()
        assert (mixing.boxes[alone] == 0).all()
        assert ((mixing.lam[~alone] < WHOLE) | (mixing.boxes[~alone, 2] > 0)).all()


def test_everyone_meets_everyone_with_equal_chance() -> None:
    met = np.zeros((8, 8), int)
    for seed in range(3000):
        met[np.arange(8), drawn(seed, 8, MixOptions(mixup=1.0)).partner] += 1
    others = met[~np.eye(8, dtype=bool)]
    assert met.diagonal().sum() < 100  # a share that rounds to the whole
    assert stats.chisquare(others).pvalue > 0.001


def test_shares_are_betas_and_boxes_those_of_timm() -> None:
    mixing = drawn(0, 40_000)
    up = (mixing.boxes[:, 2] == 0) & (mixing.partner != np.arange(40_000))
    cut = mixing.boxes[:, 2] > 0
    assert abs(up.mean() - 0.5) < 0.01
    assert abs(cut.mean() - 0.5) < 0.02  # a box that was cut to nothing counts as no mixing
    firsts = up & (mixing.partner > np.arange(40_000))
    # Distances between the distributions, of which the rounding to 1/255 is one part.
    assert stats.kstest(mixing.lam[firsts] / WHOLE, stats.beta(0.8, 0.8).cdf).statistic < 0.02
    np.random.seed(0)
    boxes = [rand_bbox((3, 224, 224), lam) for lam in np.random.default_rng(1).beta(1.0, 1.0, 20_000)]
    theirs = np.array([(b - a) * (d - c) for a, b, c, d in boxes if (b - a) * (d - c)])
    ours = mixing.boxes[cut & (mixing.partner > np.arange(40_000)), 2:].prod(axis=1)
    assert stats.ks_2samp(ours, theirs).statistic < 0.02


@pytest.mark.parametrize(("options", "expected"), [
    (MixOptions(1.0, 1.0, 0.5, both=True), (0.25, 0.25, 0.25, 0.25)),
    (MixOptions(0.8, 1.0, 1.0, 0.5), (0.0, 0.5, 0.5, 0.0)),
    (MixOptions(0.8, 1.0, 0.6, 0.25), (0.4, 0.45, 0.15, 0.0)),
    (MixOptions(mixup=0.8, mixup_prob=0.3), (0.7, 0.3, 0.0, 0.0)),
])  # fmt: skip
def test_mixup_and_cutmix_happen_as_often_as_they_should(options, expected) -> None:
    mixing = drawn(3, 40_000, options)
    up, cut = mixing.lam < WHOLE, mixing.boxes[:, 2] > 0
    found = [(~up & ~cut).mean(), (up & ~cut).mean(), (~up & cut).mean(), (up & cut).mean()]
    assert np.abs(np.array(found) - expected).max() < 0.02


# Pixels


def test_mixing_is_the_rounded_blend_and_the_partners_box() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)
    mixing = Mixing(
        np.array([2, 1, 0, 3]), np.array([100, 255, 100, 255]), np.array([[2, 3, 5, 6], [0] * 4, [2, 3, 5, 6], [0] * 4])
    )
    result = mix(images, mixing)
    exact = np.floor((100.0 * images[0] + 155.0 * images[2] + 127) / 255)
    exact[:, 2:7, 3:9] = images[2][:, 2:7, 3:9]
    assert np.array_equal(result[0], exact)
    assert np.array_equal(result[2][:, 2:7, 3:9], images[0][:, 2:7, 3:9])
    assert np.array_equal(result[[1, 3]], images[[1, 3]])
    assert mixing.share(16)[0] == np.float32(100 / 255 * (1 - 30 / 256))
    assert mixing.share(16)[1] == 1


def test_the_quotient_by_255_is_exact_everywhere() -> None:
    total = np.arange(255 * 255 + 128, dtype=np.int32)
    assert np.array_equal(total * np.int32(32897) >> 23, total // 255)


def test_columns_and_matching_are_one(images) -> None:
    spec = pixel_spec(parse_policy(POLICY), SIZE)
    mixing = drawn(5, 9, size=SIZE)
    params = np.zeros((9, len(spec.fields)), np.int32)
    params[:, -6:] = mixing_columns(mixing)
    assert all(np.array_equal(a, b) for a, b in zip(read_mixing(params, spec), mixing, strict=True))
    assert read_mixing(params, pixel_spec(parse_policy("rrc"), SIZE)) is None


@pytest.mark.parametrize(("change", "text"), [
    (lambda m: m.partner.__setitem__(0, 9), "partner 9 among 6"),
    (lambda m: m.partner.__setitem__(0, -1), "among 6"),
    (lambda m: m.partner.__setitem__(0, 0), "not its partner's partner"),
    (lambda m: m.lam.__setitem__(0, 7), "mixed differently"),
    (lambda m: m.boxes.__setitem__((0, 3), 7), "mixed differently"),
    (lambda m: m.lam.__setitem__(slice(None), 256), "a share"),
    (lambda m: m.boxes.__setitem__((slice(None), 2), 40), "outside of the view"),
    (lambda m: m.boxes.__setitem__((slice(None), 0), -1), "outside of the view"),
])  # fmt: skip
def test_a_matching_that_cannot_be_is_described(change, text) -> None:
    mixing = drawn(1, 6, size=SIZE)
    change(mixing)
    assert text in mixing.fault(SIZE)


# The store


@pytest.fixture(scope="module")
def mixed(images, teacher, tmp_path_factory) -> Path:
    """A store of 24 samples in blocks of 7, one of them corrupt and one missing, 5 views, mixed."""
    root = tmp_path_factory.mktemp("mixed")
    folder = Path(shutil.copytree(images, root / "images"))
    (folder / "bread" / "004.jpg").write_bytes(b"\xff\xd8\xff garbage")
    source = ImageFolder.open(folder)
    (folder / "apple" / "002.jpg").unlink()
    generate(source, teacher, make_settings(source, teacher, policy=parse_policy(POLICY)), root / "out", Execution(16, 0))
    return root


def reference(mixed: Path, sample: int, view: int) -> torch.Tensor:
    """A mixed view from first principles: two decodes, two draws, one blend."""
    from reinforce.views.decode import decode

    store, source = Store(mixed / "out"), ImageFolder.open(mixed / "images")
    keys = {key: i for i, key in enumerate(source.keys)}
    settings = store.settings

    def alone(sample: int) -> np.ndarray:
        image = decode(source.read(keys[store.samples.keys[sample]]))
        params = draw(view_rng(settings.seed, sample, view), settings.policy, SIZE, image.shape[1], image.shape[0])
        return apply(image, params, pixel_spec(settings.policy, SIZE)).numpy().astype(int)

    params = store.params_of(sample, view)
    partner, lam, top, left, height, width = params[-6:].tolist()
    other = int(store.samples_of(int(store.samples.block[sample]))[partner])
    own, theirs = alone(sample), alone(other)
    result = (lam * own + (255 - lam) * theirs + 127) // 255
    result[:, top : top + height, left : left + width] = theirs[:, top : top + height, left : left + width]
    return torch.from_numpy(result.astype(np.uint8))


def test_the_replayed_view_is_the_blend_of_two_views_and_the_label_the_teachers_of_it(mixed, teacher) -> None:
    dataset = ReinforcedDataset(mixed / "out", mixed / "images")
    assert len(dataset) == 22
    blended = 0
    for index, sample in enumerate(dataset.samples.tolist()):
        for view in range(5):
            pixels = dataset.replay(index, view)
            assert torch.equal(pixels, reference(mixed, sample, view))
            probs = teacher(pixels[None])[0].numpy()
            label = dataset.store.label_of(sample, view)
            assert np.abs(probs[label.class_ids] - label.probs).max() < 1e-3
            row = int(dataset.store.samples.row[sample])
            blended += dataset.store.params_of(sample, view)[-6] != row
    assert blended > 80


def test_samples_are_dealt_to_blocks_in_random_order_so_that_classes_meet(mixed) -> None:
    store = Store(mixed / "out")
    assert sorted(np.concatenate([store.samples_of(b) for b in range(4)])) == list(range(24))
    labels = store.samples.labels
    assert all(len(set(labels[store.samples_of(b)])) > 1 for b in range(4))
    pairs = 0
    for view in range(5):
        for block in range(4):
            samples = store.samples_of(block)
            rows = store.block(block).params_of_view(view)
            ok = store.samples.status[samples] == 0
            mixing = read_mixing(rows, store.spec).among(np.flatnonzero(ok))
            assert mixing.fault(SIZE) is None
            pairs += int((labels[samples[ok]] != labels[samples[ok]][mixing.partner]).sum())
    assert pairs > 40


def test_chunks_of_views_and_workers_change_no_byte(mixed, teacher, tmp_path, monkeypatch) -> None:
    from reinforce.generation import block_labels

    source = ImageFolder.open(mixed / "images")
    settings = make_settings(source, teacher, policy=parse_policy(POLICY))
    generate(source, teacher, settings, tmp_path / "whole", Execution(16, 0))
    monkeypatch.setattr(block_labels, "CHUNK_BYTES", 2 * 7 * 3 * SIZE**2)  # two views at a time
    assert len(block_labels.block_items(settings, 0)) == 3 * 7
    generate(source, teacher, settings, tmp_path / "chunks", Execution(16, 2))
    for path in sorted((tmp_path / "whole").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "chunks" / path.relative_to(tmp_path / "whole")).read_bytes(), path


def test_an_image_that_changes_between_two_chunks_stops_the_run_and_the_run_can_go_on(
    own_images, teacher, tmp_path, monkeypatch
) -> None:
    from reinforce.generation import block_labels

    source = ImageFolder.open(own_images)
    settings = make_settings(source, teacher, policy=parse_policy(POLICY), block_size=24)
    monkeypatch.setattr(block_labels, "CHUNK_BYTES", 1)
    read, count = ImageFolder.read, 0

    def changing(self: ImageFolder, index: int) -> bytes:
        nonlocal count
        count += 1
        return read(self, index) if count < 30 else read(self, (index + 1) % 24)

    monkeypatch.setattr(ImageFolder, "read", changing)
    with pytest.raises(SourceError, match="changed while its block was generated"):
        generate(source, teacher, settings, tmp_path / "out", Execution(16, 0))
    monkeypatch.setattr(ImageFolder, "read", read)
    generate(source, teacher, settings, tmp_path / "out", Execution(16, 0))
    assert len(ReinforcedDataset(tmp_path / "out", own_images)) == 24


def test_verify_replays_probes_and_makes_mixed_views_anew(mixed) -> None:
    assert not any(c.failed for c in verify_store(mixed / "out"))
    dataset = ReinforcedDataset(mixed / "out", mixed / "images", check=False)
    probes, fresh = verify_pixels(dataset, views=110, workers=0)
    assert (probes.total, probes.failed, fresh.total, fresh.failed) == (22, 0, 110, 0)


def hash_again(out: Path) -> None:
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"] = {path: file_sha256(out / path) for path in manifest["files"]}
    (out / "manifest.json").write_text(json.dumps(manifest))


def forged(mixed: Path, tmp_path: Path, column: Field, change) -> Path:
    out = Path(shutil.copytree(mixed / "out", tmp_path / "forged"))
    spec = Store(out).spec
    for block in range(4):
        group = zarr.open_group(block_path(out, block), mode="r+")
        params = group["params"][:]
        params[..., spec.column(column)] = change(params[..., spec.column(column)])
        group["params"][:] = params
    return out


@pytest.mark.parametrize(("column", "change"), [
    (Field.PARTNER, lambda v: (v + 1) % 7),
    (Field.PARTNER, lambda v: v + 1000),
    (Field.LAM, lambda v: v + 256),
    (Field.BOX_TOP, lambda v: v + SIZE + 1),
])  # fmt: skip
def test_forged_pairs_are_found_and_never_trained_on(mixed, tmp_path, column, change) -> None:
    out = forged(mixed, tmp_path, column, change)
    hash_again(out)
    params = next(c for c in verify_store(out) if c.name == "params")
    assert params.failed
    dataset = ReinforcedDataset(out, mixed / "images", check=False)
    with pytest.raises(StoreError, match="pair samples that cannot be mixed"):
        dataset.set_epoch(0)


@pytest.mark.parametrize("field", [Field.LAM, Field.BOX_TOP])
def test_a_share_or_box_that_could_be_another_trips_the_probes(mixed, tmp_path, field) -> None:
    out = forged(mixed, tmp_path, field, lambda v: np.where(v % WHOLE, np.maximum(v - 1, 0), v))
    with pytest.raises(ReplayError, match="Replayed pixels differ"):
        ReinforcedDataset(out, mixed / "images")


# Training


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize("batch_size", [8, 24])
@pytest.mark.parametrize("workers", [0, 2])
def test_both_members_of_a_pair_stand_in_one_batch_and_are_what_the_teacher_saw(
    images, teacher, tmp_path, repeats, batch_size, workers
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


def test_repeats_of_views_that_were_mixed_with_other_partners_are_refused(mixed, tmp_path, cli) -> None:
    options = ["--student", "test_resnet", "--data", mixed / "images", "--labels", mixed / "out", "--out", tmp_path / "run"]
    code, _, said = cli("train", *options, "--recipe", "usi", "--batch-size", 12, "--device", "cpu")
    assert code == 2
    assert "need their partners" in said
    assert not (tmp_path / "run").exists()
    dataset = ReinforcedDataset(mixed / "out", mixed / "images")
    with pytest.raises(UsageError, match="need their partners") as error:
        dataset.set_epoch(0, repeats=3)
    assert "repeats=3" in str(error.value)


@pytest.mark.parametrize("views", [1, 5, 6])
@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_repeats_visit_every_view_and_each_sample_once_in_so_many_epochs(views, repeats) -> None:
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


def test_fresh_views_are_mixed_too_and_anew_in_every_epoch(images) -> None:
    source = ImageFolder.open(images)
    views = FreshViews(source, np.arange(24), np.array(source.labels), parse_policy(POLICY), SIZE, len(CLASSES))
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
def test_ranks_share_a_batch_without_tearing_a_pair_or_losing_a_sample(world, paired) -> None:
    partner = drawn(2, 101, MixOptions(mixup=0.8, mixup_prob=0.7)).partner if paired else None
    for samples in batch_plan(3, 1, 101, 16, partner):
        shares = [share_of_rank(samples, partner, rank, world) for rank in range(world)]
        assert np.concatenate(shares).tolist() == samples.tolist()
        assert max(map(len, shares)) - min(map(len, shares)) <= 1 + 2 * paired
        if paired:
            assert all(set(partner[share]) <= set(share.tolist()) for share in shares)


@pytest.mark.parametrize(("arguments", "least"), [
    ({"mixing": True, "repeats": 1}, 4), ({"mixing": False, "repeats": 3}, 3), ({"mixing": True, "repeats": 2, "world": 2}, 16),
])  # fmt: skip
def test_batches_that_cannot_hold_what_belongs_together_are_refused(arguments, least) -> None:
    check_batch_size(least, **arguments)
    with pytest.raises(UsageError, match=f"--batch-size {least}"):
        check_batch_size(least - 1, **arguments)


@pytest.mark.parametrize("samples", [2, 3, 5, 9, 17, 24])
def test_no_batch_of_pairs_is_ever_empty(samples) -> None:
    for seed in range(30):
        partner = drawn(seed, samples, MixOptions(mixup=0.8, mixup_prob=0.6)).partner
        plan = batch_plan(seed, 0, samples, 4, partner)
        assert len(plan) == -(-samples // 4)
        assert all(len(batch) for batch in plan)
        assert sorted(np.concatenate(plan)) == list(range(samples))


def test_an_erased_rectangle_outside_of_the_view_is_found(images, teacher, tmp_path) -> None:
    source = ImageFolder.open(images)
    policy = parse_policy("tinyvit:reprob=1")
    generate(source, teacher, make_settings(source, teacher, policy=policy), tmp_path / "out", Execution(16, 0))
    assert not any(c.failed for c in verify_store(tmp_path / "out"))
    dataset = ReinforcedDataset(tmp_path / "out", images, check=False)
    assert not any(c.failed for c in verify_pixels(dataset, views=60, workers=0))
    out = forged(tmp_path, tmp_path / "other", Field.ERASE_LEFT, lambda v: v + SIZE)
    hash_again(out)
    assert next(c for c in verify_store(out) if c.name == "params").failed == 24
