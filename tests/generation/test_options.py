"""Options of `reinforce generate`: policies, a limit that gives every class its share, and what cannot be had."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from reinforce import ReinforcedDataset
from reinforce.errors import UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate, limit_source
from reinforce.sources.folder import ImageFolder
from reinforce.store import listed
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher import Teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.views.pixels import ViewMaker
from reinforce.views.policy_text import parse_policy
from tests.conftest import CLASSES, SIZE, TEACHER, Cli, make_settings
from tests.generation.conftest import assert_labels_are, rows_of

pytestmark = pytest.mark.unit


def test_a_block_that_no_reader_would_read_is_not_begun(
    images: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ImageFolder.open(images)
    monkeypatch.setattr("reinforce.generation.generate.MAX_PARAMS_BYTES", 100)
    with pytest.raises(UsageError, match="A block would be too large"):
        generate(source, teacher, make_settings(source, teacher), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_no_reader_would_read_is_not_begun(
    images: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, views=5, stripe_views=2)
    generate(source, teacher, settings, tmp_path / "made", Execution(64, 0))
    size = (tmp_path / "made" / "manifest.json").stat().st_size
    monkeypatch.setattr(listed, "_BESIDE_BYTES", 1000)
    monkeypatch.setattr(listed, "MAX_BYTES", size + 1000)
    listed.check_list_fits(settings)
    monkeypatch.setattr(listed, "MAX_BYTES", size - 1000)
    with pytest.raises(UsageError, match=r"The manifest would be too large(?s:.*)4 blocks(?s:.*)--block-size 8"):
        generate(source, teacher, settings, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    listed.check_list_fits(settings.model_copy(update={"block_size": 8}))


def test_there_are_no_more_blocks_than_names_for_them(images: Path, teacher: Teacher) -> None:
    settings = make_settings(ImageFolder.open(images), teacher)
    many = settings.source.model_copy(update={"num_samples": 1 << 31})
    with pytest.raises(UsageError, match="The manifest would be too large"):
        listed.check_list_fits(settings.model_copy(update={"source": many}))
    imagenet = settings.source.model_copy(update={"num_samples": 14_197_122})
    listed.check_list_fits(
        settings.model_copy(update={"source": imagenet, "block_size": 512, "views": 300, "stripe_views": 64})
    )


@pytest.mark.process
@pytest.mark.parametrize("policy", ["none", "rrc", "rrc:interpolation=random,hflip=1", "rrc-ra:scale=0.25-1,m=9"])
def test_every_policy_is_replayed_as_it_was_generated(
    images: Path, weights: Path, tmp_path: Path, cli: Cli, policy: str
) -> None:
    code, _, err = cli(
        "generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--out", tmp_path / "out",
        "--policy", policy, "--size", 40, "--views", 4, "--block-size", 10, "--workers", 1, "--codec", "topk:1", "--seed", 8,
    )  # fmt: skip
    assert code == 0, err
    dataset = ReinforcedDataset(tmp_path / "out", images)
    settings = dataset.store.settings
    assert settings.policy == parse_policy(policy)
    maker = ViewMaker(ImageFolder.open(images), settings)
    different = set()
    for index in range(len(dataset)):
        pixels = maker[index].pixels
        assert torch.equal(pixels, torch.stack([dataset.replay(index, view) for view in range(4)]))
        different.add(any(not torch.equal(pixels[0], other) for other in pixels[1:]))
    assert different == {policy != "none"}
    teacher = load_teacher(
        [TeacherSpec(TEACHER, weights)],
        size=40,
        class_names=list(CLASSES),
        class_map=None,
        device=torch.device("cpu"),
        precision="fp32",
    )
    assert_labels_are(tmp_path / "out", images, teacher)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--teacher", "test_resnext"), 2, "timm has no model 'test_resnext'"),
        (("--teacher", TEACHER, "--teacher", TEACHER), 2, "2 teachers and 1 weights file."),
        (("--teacher", TEACHER, "--teacher-kwargs", "colour=red"), 2, "does not take these arguments"),
        (("--teacher", TEACHER, "--teacher-kwargs", "num_classes"), 2, "expected:     key=value"),
        (("--teacher", TEACHER, "--policy", "rcc"), 2, "There is no policy 'rcc'"),
        (("--teacher", TEACHER, "--codec", "topk:0"), 2, "Codec 'topk:0' is not valid"),
        (("--teacher", TEACHER, "--device", "tpu"), 2, "There is no device 'tpu'"),
        (("--teacher", TEACHER, "--data", "nowhere"), 1, "There is no image folder at nowhere"),
    ],
)
def test_what_is_asked_for_and_cannot_be_had_is_refused_before_anything_is_written(
    images: Path, weights: Path, tmp_path: Path, cli: Cli, arguments: Any, code: int, text: str
) -> None:
    found, _, err = cli(
        "generate", "--data", images, "--teacher-weights", weights, "--out", tmp_path / "out", "--size", SIZE, *arguments
    )
    assert found == code
    assert text in err
    assert not (tmp_path / "out").exists()


def test_a_limit_gives_every_class_its_share(images: Path) -> None:
    source = ImageFolder.open(images)
    for limit in range(1, 24):
        part = limit_source(source, limit)
        shares = [sum(label == c for label in part.labels or ()) for c in range(3)]
        assert len(part) == limit
        assert max(shares) - min(shares) <= 1
        assert len(set(part.keys)) == limit
        assert list(part.keys) == sorted(part.keys)
        assert part.class_names == source.class_names
    for no_limit in (24, 25, None):
        assert limit_source(source, no_limit) is source
    with pytest.raises(UsageError, match="--limit must be at least 1"):
        limit_source(source, 0)


def test_a_limited_run_labels_a_part_of_every_class_and_replays(images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    code, text, err = cli(
        "generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--out", out, "--size", SIZE,
        "--views", 2, "--workers", 0, "--limit", 7, "--block-size", 3,
    )  # fmt: skip
    assert code == 0, err
    assert "7 samples x 2 views" in text
    shares = Counter(key.split("/")[0] for key in rows_of(out))
    assert sorted(shares.values()) == [2, 2, 3]
    assert len(ReinforcedDataset(out, images)) == 7  # the whole folder serves
    code, text, _ = cli("verify", out, "--data", images, "--views", 14, "--workers", 0)
    assert code == 0, text
    assert "ok     stripes replayed: 7 of 7; 14 views of 14" in text
