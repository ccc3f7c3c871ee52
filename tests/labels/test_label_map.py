"""Label maps: records of scores, labels of crops pooled as torchvision pools them, students that learn from fresh crops."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torchvision.ops import roi_align

from reinforce.errors import LabelError, ReplayError, TeacherError, UsageError
from reinforce.generation.generate import Execution, generate
from reinforce.labels.label_map import WHOLE, Box, LabelMap, MapCodec, box_of, mixed_label
from reinforce.labels.sparse import SparseLabel, SparseLabels
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.epoch_views import PooledViews
from reinforce.replay.loader import batch_plan, batches, partners
from reinforce.settings import read_model
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import Block, block_path
from reinforce.store.store import Store
from reinforce.teachers.teacher import TeacherSpec, load_teacher
from reinforce.views.apply import apply
from reinforce.views.decode import decode
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import fresh_view_rng
from tests.conftest import CLASSES, SIZE, TEACHER, make_settings

MAP_SIZE = 96  # the teacher's strides make a grid of 3 x 3 of it
CPU = torch.device("cpu")


def dense(label: SparseLabel, num_classes: int) -> np.ndarray:
    return SparseLabels.stack([label], num_classes).dense()[0].double().numpy()


def random_map(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    return rng.normal(0, 3, (1, *shape)).astype(np.float32)


def softmax(scores: np.ndarray) -> np.ndarray:
    odds = np.exp(scores - scores.max())
    return odds / odds.sum()


def by_torchvision(scores: np.ndarray, box: Box) -> np.ndarray:
    """Softmax of torchvision's pooling of scores `[h, w, C]`."""
    height, width, _ = scores.shape
    corners = [box.left * width - 0.5, box.top * height - 0.5, box.right * width - 0.5, box.bottom * height - 0.5]
    grid = torch.from_numpy(scores).double().permute(2, 0, 1)[None]
    pooled = roi_align(grid, [torch.tensor([corners], dtype=torch.float64)], output_size=(1, 1), aligned=False)
    return softmax(pooled[0, :, 0, 0].numpy())


@pytest.mark.parametrize("shape", [(1, 1, 4), (7, 7, 20), (3, 11, 6), (15, 15, 50)])
def test_a_crops_label_is_torchvisions_pooling_of_the_scores(shape) -> None:
    rng = np.random.default_rng(sum(shape))
    scores = random_map(rng, shape)
    label_map = MapCodec(shape[2]).read(MapCodec(shape[2]).encode(scores), shape[2])
    stored = np.zeros(shape, np.float64)
    np.put_along_axis(stored, label_map.class_ids, label_map.scores.astype(np.float64), axis=-1)
    boxes = [WHOLE, Box(0, 0, 0.01, 0.01), Box(0.99, 0.99, 1, 1), Box(0.5, 0, 1, 0.5)]
    for _ in range(200):
        (top, bottom), (left, right) = np.sort(rng.random(2)), np.sort(rng.random(2))
        boxes.append(Box(top, left, bottom, right))
    for box in boxes:
        assert np.allclose(dense(label_map.pool(box), shape[2]), by_torchvision(stored, box), atol=1e-6), box


@pytest.mark.parametrize("number", [0.0, 40.0, -7.0])
def test_where_all_classes_are_listed_the_whole_images_label_is_the_teachers(number) -> None:
    scores = random_map(np.random.default_rng(1), (4, 5, 9)) + np.float32(number)
    codec = MapCodec(9)
    found = dense(codec.decode(codec.encode(scores), 0, 1, 9), 9)
    assert np.allclose(found, softmax(scores.mean(axis=(0, 1, 2), dtype=np.float64)), atol=2e-3)
    assert np.allclose(codec.probabilities(scores)[0], softmax(scores.mean(axis=(0, 1, 2), dtype=np.float64)), atol=1e-6)


@pytest.mark.parametrize("number", [0.0, -7.0, 300.0])
def test_what_every_logit_has_more_or_less_changes_no_label(number) -> None:
    # Teachers trained with binary cross-entropy have logits far below zero: a class not listed must not stand at zero there.
    scores = random_map(np.random.default_rng(2), (3, 3, 40)) + np.linspace(-2, 2, 40, dtype=np.float32)
    codec = MapCodec(10)
    plain, raised = (codec.read(codec.encode(s), 40).pool() for s in (scores, scores + np.float32(number)))
    assert np.allclose(dense(plain, 40), dense(raised, 40), atol=2e-3)
    true = codec.probabilities(scores)[0]
    assert (true * np.log(true / dense(plain, 40))).sum() < 0.5


@settings(max_examples=60)
@given(
    height=st.integers(1, 6), width=st.integers(1, 6), classes=st.integers(1, 30), k=st.integers(1, 40), data=st.data(),
)  # fmt: skip
def test_labels_of_crops_are_distributions(height, width, classes, k, data) -> None:
    scores = data.draw(arrays(np.float32, (1, height, width, classes), elements=st.floats(-1e5, 1e5, width=32)))
    corners = data.draw(st.lists(st.floats(0, 1), min_size=4, max_size=4))
    box = Box(min(corners[0], corners[1]), min(corners[2], corners[3]), max(corners[:2]), max(corners[2:]))
    codec = MapCodec(k)
    label = codec.read(codec.encode(scores), classes).pool(box)
    assert len(set(label.class_ids.tolist())) == len(label.class_ids)
    assert label.probs.min(initial=0) >= 0
    assert label.remainder >= 0
    assert abs(label.probs.sum(dtype=np.float64) + label.remainder - 1) < 1e-6
    assert abs(dense(label, classes).sum() - 1) < 1e-5


def test_many_classes_take_wider_ids() -> None:
    scores = np.zeros((1, 1, 2, 70_000), np.float32)
    scores[..., 69_999] = 9
    record = MapCodec(3).encode(scores)
    assert len(record) == 2 + 2 * 3 * (4 + 2)
    assert MapCodec(3).read(record, 70_000).class_ids[0, 0].tolist() == [69_999, 0, 1]


@pytest.mark.parametrize(
    ("answers", "text"),
    [
        (np.zeros((1, 3, 4), np.float32), "wrong shape"),
        (np.zeros((2, 3, 3, 4), np.float32), "wrong shape"),
        (np.zeros((1, 256, 3, 4), np.float32), "wrong shape"),
        (np.full((1, 3, 3, 4), np.nan, np.float32), "NaN or infinity"),
        (np.full((1, 3, 3, 4), np.inf, np.float32), "NaN or infinity"),
    ],
)
def test_what_is_no_map_is_refused(answers, text) -> None:
    with pytest.raises(LabelError, match=text):
        MapCodec(2).encode(answers)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda r: r[:-1], "wrong length"),
        (lambda r: r + b"\0", "wrong length"),
        (lambda r: b"", "wrong length"),
        (lambda r: b"\x02", "wrong length"),
        (lambda r: b"\0\0" + r[2:], "wrong length"),
        (lambda r: b"\xff\xff" + r[2:], "wrong length"),
        (lambda r: r[:2] + b"\x09\x00" + r[4:], "cannot be"),
        (lambda r: r[:2] + r[4:6] + r[4:], "class twice"),
        (lambda r: r[:-2] + b"\x00\x7c", "cannot be"),
        (lambda r: r[:-2] + b"\x01\x7e", "cannot be"),
    ],
)
def test_a_damaged_record_is_refused(change, text) -> None:
    record = MapCodec(2).encode(random_map(np.random.default_rng(3), (2, 2, 5)))
    with pytest.raises(LabelError, match=text):
        MapCodec(2).decode(change(record), 0, 1, 5)


def test_a_mixed_label_is_the_sum_of_its_parts() -> None:
    rng = np.random.default_rng(4)
    one, two = (MapCodec(3).read(MapCodec(3).encode(random_map(rng, (2, 2, 12))), 12).pool() for _ in range(2))
    for share in (0.0, 0.3, 1.0):
        mixed = mixed_label(one, two, share, 12)
        assert np.allclose(dense(mixed, 12), share * dense(one, 12) + (1 - share) * dense(two, 12), atol=1e-7)
        assert abs(mixed.probs.sum(dtype=np.float64) + mixed.remainder - 1) < 1e-6


@pytest.mark.parametrize(("policy", "expected"), [
    ("whole", WHOLE),
    ("none:crop_pct=1.0", Box(0, 0.3, 1, 0.7)),
    ("none:crop_pct=0.5", Box(0.25, 0.4, 0.75, 0.6)),
])  # fmt: skip
def test_the_box_of_a_view_is_what_it_shows(policy, expected) -> None:
    policy = parse_policy(policy)
    params = draw(fresh_view_rng(0, 0, 0), policy, 32, 100, 40)
    assert np.allclose(box_of(params, pixel_spec(policy, 32), 100, 40), expected, atol=0.02)


def test_the_box_of_a_random_crop_is_where_its_pixels_come_from() -> None:
    policy, (width, height) = parse_policy("rrc-ra:hflip=0,p=0"), (200, 120)
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)
    for i in range(20):
        params = draw(fresh_view_rng(0, i, 0), policy, 32, width, height)
        top, left, bottom, right = box_of(params, pixel_spec(policy, 32), width, height)
        pixels = apply(image, params, pixel_spec(policy, 32)).float()
        assert abs(float(pixels[0].mean()) - ((left + right) / 2 * width - 0.5)) < 1
        assert abs(float(pixels[1].mean()) - ((top + bottom) / 2 * height - 0.5)) < 1


# Teachers


def a_teacher(path: Path, name: str, size: int = MAP_SIZE):
    torch.manual_seed(3)
    file = path / f"{name}.safetensors"
    save_file({k: v.clone() for k, v in timm.create_model(name, num_classes=3).state_dict().items()}, file)
    spec = TeacherSpec(name, file)
    return load_teacher([spec], size=size, class_names=list(CLASSES), class_map=None, device=CPU, precision="fp32")


@pytest.mark.parametrize(("name", "size", "grid"), [
    ("test_resnet", 96, 3),
    ("test_efficientnet", 96, 3),
    ("test_byobnet", 64, 2),
    ("densenet121", 64, 2),
    ("swin_tiny_patch4_window7_224", 224, 7),  # features with the channels last
])  # fmt: skip
def test_the_mean_of_the_scores_is_the_teachers_opinion_of_the_whole_image(tmp_path, name, size, grid) -> None:
    teacher = a_teacher(tmp_path, name, size)
    teacher.require_maps(size)
    images = torch.from_numpy(np.random.default_rng(5).integers(0, 256, (2, 3, size, size), np.uint8))
    maps = teacher.maps(images)
    assert maps.shape == (2, grid, grid, 3)
    assert torch.allclose(maps.mean(dim=(1, 2)).softmax(dim=1), teacher(images), atol=1e-5)
    assert float((maps - maps.mean(dim=(1, 2), keepdim=True)).abs().max()) > 0


@pytest.mark.parametrize(("name", "found"), [
    ("test_convnext", "off the mean"),  # a norm after pooling
    ("mobilenetv3_small_050", "off the mean"),  # a layer and an activation after pooling
    ("ghostnet_100", "off the mean"),
    ("test_vit_relpos", "tokens"),
])  # fmt: skip
def test_a_teacher_whose_head_does_not_apply_to_positions_is_refused(tmp_path, name, found) -> None:
    with pytest.raises(TeacherError, match=found):
        a_teacher(tmp_path, name, 64).require_maps(64)


def test_several_teachers_have_no_map(weights) -> None:
    two = [TeacherSpec(TEACHER, weights)] * 2
    teacher = load_teacher(two, size=SIZE, class_names=list(CLASSES), class_map=None, device=CPU, precision="fp32")
    with pytest.raises(UsageError, match="one teacher"):
        teacher.require_maps(SIZE)


# Stores


def map_settings(source, teacher, **changes):
    codec = {"name": "map", "k": 2}
    return make_settings(source, teacher, policy=parse_policy("whole"), size=MAP_SIZE, views=1, codec=codec, **changes)


@pytest.fixture(scope="module")
def maps(images, teacher, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("maps") / "labels"
    source = ImageFolder.open(images)
    generate(source, teacher, map_settings(source, teacher), out, Execution(batch_size=16, workers=0))
    return out


def test_a_record_is_the_map_of_the_whole_image(images, teacher, maps) -> None:
    store, source = Store(maps), ImageFolder.open(images)
    policy = parse_policy("whole")
    for number in range(store.settings.num_blocks):
        pixels = []
        for sample in store.samples_of(number):
            image = decode(source.read(int(sample)))
            params = draw(fresh_view_rng(0, 0, 0), policy, MAP_SIZE, image.shape[1], image.shape[0])
            pixels.append(apply(image, params, pixel_spec(policy, MAP_SIZE)))
        answers = teacher.maps(torch.stack(pixels)).numpy()
        block = store.block(number)
        assert [bytes(block.record(row)) for row in range(len(pixels))] == [store.codec.encode(a[None]) for a in answers]


def test_every_check_passes_with_images_and_teacher(images, maps, weights, cli) -> None:
    code, out, err = cli("verify", maps, "--data", images, "--views", 24, "--teacher-weights", weights)
    assert code == 0, out + err
    assert "views made anew: 24 of 24" in out
    assert "labels against the teacher: 1 of 1" in out


def test_other_scores_are_found_by_the_teacher(images, teacher, maps, tmp_path, weights, cli) -> None:
    other = tmp_path / "other.safetensors"
    state = load_file(weights)
    save_file({**state, "fc.weight": state["fc.weight"].flip(0).contiguous()}, other)
    spec = TeacherSpec(TEACHER, other)
    liar = load_teacher([spec], size=MAP_SIZE, class_names=list(CLASSES), class_map=None, device=CPU, precision="fp32")
    source = ImageFolder.open(images)
    liar._first.info = teacher.infos[0]
    out = tmp_path / "forged"
    generate(source, liar, map_settings(source, teacher), out, Execution(workers=0))
    code, text, err = cli("verify", out, "--data", images, "--teacher-weights", weights)
    assert code == 1
    assert "other weights, pixels or precision made the labels" in text + err


def test_inspect_speaks_of_maps_and_images(maps, cli) -> None:
    code, out, _ = cli("inspect", maps)
    assert code == 0
    assert "a label map of the whole image, 96x96 pixels" in out
    assert "codec       map:2" in out
    assert "bytes/image labels" in out
    assert "% of images have the hard label as top class" in out


def test_show_draws_the_whole_image_and_crops(images, maps, tmp_path, cli) -> None:
    picture = tmp_path / "map.png"
    code, _, err = cli("show", maps, "--data", images, "--sample", "apple/000", "--views", 4, "--out", picture)
    assert code == 0, err
    with Image.open(picture) as sheet:
        tiles = np.asarray(sheet.convert("RGB"))
    assert np.ptp(tiles[8:100, 8:100]) > 0
    assert not np.array_equal(tiles[8:200, 8:200], tiles[8:200, 8 + 200 : 200 + 200])


@pytest.mark.parametrize(
    ("change", "value"),
    [("views", 5), ("policy", {"name": "rrc"}), ("teachers", "twice")],
)
def test_a_manifest_whose_maps_cannot_be_is_refused(maps, change, value) -> None:
    content = json.loads((maps / "manifest.json").read_text())
    content["settings"][change] = content["settings"]["teachers"] * 2 if value == "twice" else value
    manifest = type(Store(maps).manifest)
    with pytest.raises(Exception, match="label maps are of one teacher"):
        read_model(manifest, json.dumps(content), "manifest.json")
    with pytest.raises(ValidationError):
        manifest.model_validate(content)


@pytest.mark.parametrize(("options", "text"), [
    (("--views", 5), "5 views"),
    (("--policy", "rrc"), "policy rrc"),
    (("--codec", "sqrt"), "--codec sqrt is not for --labels map"),
    (("--codec", "map:0"), "K = '0'"),
])  # fmt: skip
def test_what_contradicts_a_map_is_wrong_usage(images, weights, tmp_path, cli, options, text) -> None:
    out = tmp_path / "labels"
    line = ("generate", "--labels", "map", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", 64)
    code, _, err = cli(*line, *options, "--out", out)
    assert code == 2
    assert text in err
    assert not out.exists()


def test_a_codec_of_maps_wants_maps(images, weights, tmp_path, cli) -> None:
    line = ("generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--codec", "map:5")
    code, _, err = cli(*line, "--out", tmp_path / "labels")
    assert code == 2
    assert "map:K belongs to --labels map" in err


def test_a_refused_teacher_leaves_nothing_behind(images, tmp_path, cli) -> None:
    a_teacher(tmp_path, "test_convnext", 64)
    line = ("--labels", "map", "--data", images, "--teacher", "test_convnext", "--size", 64, "--out", tmp_path / "labels")
    code, _, err = cli("generate", *line, "--teacher-weights", tmp_path / "test_convnext.safetensors")
    assert code == 1
    assert "--labels views, which any teacher can" in err
    assert not (tmp_path / "labels").exists()


# Students


def pooled_views(images: Path, maps: Path, policy: str) -> PooledViews:
    dataset = ReinforcedDataset(maps, images, seed=1)
    labels = dataset.store.samples.labels[dataset.samples]
    return PooledViews(dataset.source, dataset.source_index, labels, parse_policy(policy), 32, len(CLASSES), 1, dataset=dataset)


def test_fresh_crops_come_with_their_own_labels(images, maps) -> None:
    views = pooled_views(images, maps, "rrc-ra")
    seen = []
    for epoch in range(2):
        views.set_epoch(epoch)
        for index in range(len(views)):
            (item,) = views.items(index)
            image = views.dataset.decoded(index)
            params = draw(fresh_view_rng(1, index, epoch), views.policy, 32, image.shape[1], image.shape[0])
            spec = pixel_spec(views.policy, 32)
            assert torch.equal(item.image, apply(image, params, spec))
            label = views.dataset.store.map_of(index).pool(box_of(params, spec, image.shape[1], image.shape[0]))
            assert np.array_equal(dense(item.soft, 3), dense(label, 3))
            seen.append(dense(label, 3))
    half = len(seen) // 2
    assert not np.allclose(seen[:half], seen[half:])


def test_repeats_share_a_decode_and_have_labels_of_their_own(images, maps) -> None:
    views = pooled_views(images, maps, "rrc")
    views.set_epoch(0, repeats=3)
    items = views.items(5)
    assert len(items) == 3
    assert len({item.image.numpy().tobytes() for item in items}) == 3
    assert len({dense(item.soft, 3).tobytes() for item in items}) == 3


def test_cutmix_mixes_the_labels_as_it_mixes_the_pixels(images, maps) -> None:
    views = pooled_views(images, maps, "relabel")
    views.set_epoch(2)
    plan = batch_plan(1, 2, len(views), 8, partners(views.mixing))
    assert views.mixing is not None
    (mixing,) = views.mixing
    for samples, (_, targets) in zip(plan, batches(views, plan, workers=0), strict=True):
        assert targets.soft is not None
        assert targets.share is not None
        rows = targets.soft.dense().double().numpy()
        for i, sample in enumerate(samples.tolist()):
            own, other = (dense(views.items(s)[0].soft, 3) for s in (sample, int(mixing.partner[sample])))
            share = float(targets.share[i])
            assert np.allclose(rows[i], share * own + (1 - share) * other, atol=1e-6)
        assert (rows.sum(axis=1) - 1).max() < 1e-6
    assert float(mixing.share(32).min()) < 1


@pytest.mark.parametrize("policy", [(), ("--policy", "relabel", "--recipe", "relabel", "--no-amp")])
def test_a_student_learns_from_maps_and_the_same_again_from_the_same_seed(images, maps, tmp_path, cli, policy) -> None:
    line = ("train", "--student", "test_resnet", "--data", images, "--val", images, "--labels", maps, "--size", 32)
    line = (*line, "--batch-size", 8, "--workers", 0, *policy)
    code, out, err = cli(*line, "--epochs", 2, "--out", tmp_path / "whole")
    assert code == 0, err
    assert "the teacher never saw them by themselves" in out
    assert "at another size" not in out
    code, _, err = cli(*line, "--epochs", 2, "--out", tmp_path / "again")
    assert code == 0, err
    one, two = (load_file(tmp_path / name / "best.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    lines = [json.loads(text) for text in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert all(line["kd_loss"] > 0 for line in lines)


def test_an_image_that_changed_is_not_trained_on(own_images, maps) -> None:
    views = pooled_views(own_images, maps, "rrc")
    path = own_images / "apple" / "001.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ReplayError, match="not the one that the teacher saw"):
        views.items(views.dataset.source.keys.index("apple/001"))


def test_plain_and_online_modes_draw_the_same_views(images, maps, weights, tmp_path, cli) -> None:
    line = ("train", "--student", "test_resnet", "--data", images, "--labels", maps, "--size", 32, "--epochs", 1)
    line = (*line, "--batch-size", 8, "--workers", 0, "--policy", "rrc", "--val", images)
    for mode in ("plain", "online"):
        code, _, err = cli(*line, "--mode", mode, "--teacher-weights", weights, "--out", tmp_path / mode)
        assert code == 0, err


def test_a_damaged_map_is_found(maps, tmp_path, cli) -> None:
    store = Store(maps)
    block = Block(block_path(maps, 0), len(store.samples_of(0)), 1, len(store.spec.fields))
    record = bytearray(block.record(0))
    record[2:4] = b"\xff\xff"
    with pytest.raises(LabelError):
        store.codec.decode(bytes(record), 0, 1, 3)
    assert isinstance(store.map_of(0), LabelMap)
