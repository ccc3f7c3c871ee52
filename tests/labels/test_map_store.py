"""Stores of label maps: teachers that can make them, records that are theirs, and what contradicts a map."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from reinforce.errors import LabelError, TeacherError, UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.label_map import LabelMap, MapCodec
from reinforce.settings import read_model
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import block_path
from reinforce.store.store import Store
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher import Teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.views.apply import apply
from reinforce.views.decode import decode
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import fresh_view_rng
from tests.conftest import CLASSES, SIZE, TEACHER, Cli
from tests.labels.conftest import MAP_SIZE, map_settings

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")


# Teachers


def a_teacher(path: Path, name: str, size: int = MAP_SIZE) -> Any:
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
def test_the_mean_of_the_scores_is_the_teachers_opinion_of_the_whole_image(
    tmp_path: Path, name: str, size: int, grid: int
) -> None:
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
def test_a_teacher_whose_head_does_not_apply_to_positions_is_refused(tmp_path: Path, name: str, found: str) -> None:
    with pytest.raises(TeacherError, match=found):
        a_teacher(tmp_path, name, 64).require_maps(64)


def test_several_teachers_have_no_map(weights: Path) -> None:
    two = [TeacherSpec(TEACHER, weights)] * 2
    teacher = load_teacher(two, size=SIZE, class_names=list(CLASSES), class_map=None, device=CPU, precision="fp32")
    with pytest.raises(UsageError, match="one teacher"):
        teacher.require_maps(SIZE)


# Stores


def test_a_record_is_the_map_of_the_whole_image(images: Path, teacher: Teacher, maps: Path) -> None:
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


@pytest.mark.process
def test_every_check_passes_with_images_and_teacher(images: Path, maps: Path, weights: Path, cli: Cli) -> None:
    code, out, err = cli("verify", maps, "--data", images, "--views", 24, "--teacher-weights", weights)
    assert code == 0, out + err
    assert "stripes replayed: 24 of 24" in out
    assert "labels against the teacher: 1 of 1" in out


@pytest.mark.process
def test_other_scores_are_found_by_the_teacher(
    images: Path, teacher: Teacher, maps: Path, tmp_path: Path, weights: Path, cli: Cli
) -> None:
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


def test_inspect_speaks_of_maps_and_images(maps: Path, cli: Cli) -> None:
    code, out, _ = cli("inspect", maps)
    assert code == 0
    assert "a label map of the whole image, 96x96 pixels" in out
    assert "codec       map:2" in out
    assert "bytes/image labels" in out
    assert "% of images have the hard label as top class" in out


def test_show_draws_the_whole_image_and_crops(images: Path, maps: Path, tmp_path: Path, cli: Cli) -> None:
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
def test_a_manifest_whose_maps_cannot_be_is_refused(maps: Path, change: str, value: Any) -> None:
    content = json.loads((maps / "manifest.json").read_text())
    content["settings"][change] = content["settings"]["teachers"] * 2 if value == "twice" else value
    manifest = type(Store(maps).manifest)
    with pytest.raises(Exception, match="label maps are of one teacher"):
        read_model(manifest, json.dumps(content), "manifest.json")
    with pytest.raises(ValidationError):
        manifest.model_validate(content)


@pytest.mark.parametrize(("options", "text"), [
    (("--views", 5), "views: 5"),
    (("--policy", "rrc"), "policy rrc"),
    (("--teacher", TEACHER, "--teacher-weights", "w"), "teachers: 2"),
    (("--codec", "sqrt"), "--codec sqrt is not for --labels map"),
    (("--codec", "map:0"), "K = '0'"),
])  # fmt: skip
def test_what_contradicts_a_map_is_wrong_usage(
    images: Path, weights: Path, tmp_path: Path, cli: Cli, options: Any, text: str
) -> None:
    out = tmp_path / "labels"
    line = ("generate", "--labels", "map", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", 64)
    code, _, err = cli(*line, *options, "--out", out)
    assert code == 2
    assert text in err
    assert not out.exists()


def test_a_codec_of_maps_wants_maps(images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    line = ("generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--codec", "map:5")
    code, _, err = cli(*line, "--out", tmp_path / "labels")
    assert code == 2
    assert "map:K belongs to --labels map" in err


def test_a_refused_teacher_leaves_nothing_behind(images: Path, tmp_path: Path, cli: Cli) -> None:
    a_teacher(tmp_path, "test_convnext", 64)
    line = ("--labels", "map", "--data", images, "--teacher", "test_convnext", "--size", 64, "--out", tmp_path / "labels")
    code, _, err = cli("generate", *line, "--teacher-weights", tmp_path / "test_convnext.safetensors")
    assert code == 1
    assert "--labels views, which any teacher can" in err
    assert not (tmp_path / "labels").exists()


def test_a_damaged_map_is_found(maps: Path, tmp_path: Path, cli: Cli) -> None:
    own = tmp_path / "own"
    shutil.copytree(maps, own)
    assert cli("verify", own)[0] == 0
    records = block_path(own, 0) / "records" / "c" / "0"
    content = bytearray(records.read_bytes())
    content[2:4] = b"\xff\xff"  # the first class id of the first record; there are three classes
    records.write_bytes(content)
    store = Store(own)
    first, second = store.samples_of(0)[:2].tolist()
    codec = store.codec
    assert isinstance(codec, MapCodec)
    with pytest.raises(LabelError, match="class id 65535"):
        codec.read(store.record(first, 0), 3)
    assert isinstance(codec.read(store.record(second, 0), 3), LabelMap)
    code, out, err = cli("verify", own)
    assert code == 1
    assert "000000.zarr/records/c/0" in out + err
