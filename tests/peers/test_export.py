"""Export: ours go out for the loaders of others and come in again the same."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from reinforce.errors import UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.peers.importer import import_labels
from reinforce.peers.ml_dr import MlDrReader
from reinforce.peers.ml_dr_files import ml_dr_files
from reinforce.peers.reader import ReadOptions
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.views.params import Field
from reinforce.views.policy_text import parse_policy
from tests.conftest import Cli, make_settings
from tests.peers.label_files import dense

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("kind", "policy"), [("ml-dr", "imagenet-plus-rrc"), ("ml-dr", "imagenet-plus-ra-re"), ("fkd", "fkd")])
def test_what_goes_out_comes_in_again_the_same(
    kind: str, policy: str, images: Path, teacher: Teacher, tmp_path: Path, cli: Cli
) -> None:
    source, size = ImageFolder.open(images), 224 if policy.endswith("re") else 32
    changes = {"policy": parse_policy(policy), "size": size, "codec": {"name": "topk", "k": 2}, "views": 2}
    generate(source, teacher, make_settings(source, teacher, **changes), tmp_path / "a", Execution(16, 0))
    code, text, err = cli("export", tmp_path / "a", "--format", kind, "--topk", 2, "--out", tmp_path / "files")
    assert code == 0, err
    assert "2 likeliest classes" in text
    name = {"ml-dr": "imagenet-plus"}.get(kind, kind)
    options = ("--num-classes", 3, "--size", size, "--workers", 0)
    code, _, err = cli("import", name, tmp_path / "files", "--data", images, *options, "--out", tmp_path / "b")
    assert code == 0, err
    before, after = Store(tmp_path / "a"), Store(tmp_path / "b")
    assert before.spec.fields == after.spec.fields
    for sample in range(24):
        assert np.allclose(dense(before, sample), dense(after, sample), atol=1e-3)
        for view in range(2):
            assert np.array_equal(before.params_of(sample, view), after.params_of(sample, view))


def test_pairs_go_out_as_their_mixtures(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    """A pair becomes two views mixed one way; but for the rounding of the share, their pixels are those of the pair."""
    source = ImageFolder.open(images)
    changes = {"policy": parse_policy("imagenet-plus-m-r"), "size": 48, "codec": {"name": "topk", "k": 2}, "views": 4}
    generate(source, teacher, make_settings(source, teacher, **changes), tmp_path / "a", Execution(16, 0))
    (tmp_path / "files").mkdir()
    for name, content in ml_dr_files(Store(tmp_path / "a"), 2):
        (tmp_path / "files" / name).write_bytes(content)
    import_labels(MlDrReader.open(tmp_path / "files", ReadOptions(3, size=48)), source, tmp_path / "b", workers=0)
    before, after = ReinforcedDataset(tmp_path / "a", source), ReinforcedDataset(tmp_path / "b", source)
    mixed = 0
    for index in range(24):
        for view in range(4):
            mixed += after.store.spec.read(after.store.params_of(index, view), Field.OTHER, 0) >= 0
            assert (before.replay(index, view).int() - after.replay(index, view).int()).abs().max() <= 1
    assert 40 < mixed < 90


# `image_augmentation` of the configs that ImageNet+'s writer was published with (cropflip.yaml and randaug.yaml).
THEIR_CROPS = {
    "uint8": {"enable": True},
    "random_resized_crop": {"enable": True, "size": 224},
    "random_horizontal_flip": {"enable": True, "p": 0.5},
    "to_tensor": {"enable": True},
    "normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}
THEIR_OPS = {"rand_augment": {"enable": True, "p": 1.0}, "random_erase": {"enable": True, "p": 0.25}}


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("imagenet-plus-rrc", THEIR_CROPS),
        ("imagenet-plus-ra-re", THEIR_CROPS | THEIR_OPS),
        ("rrc", THEIR_CROPS | {"random_resized_crop": {"enable": True, "size": 224, "interpolation": 3}}),
    ],
)
def test_their_loader_has_what_it_needs_and_may_unpickle_it(
    policy: str, expected: dict[str, object], images: Path, teacher: Teacher, tmp_path: Path
) -> None:
    source = ImageFolder.open(images)
    changes = {"policy": parse_policy(policy), "size": 224, "codec": {"name": "topk", "k": 2}, "views": 2}
    generate(source, teacher, make_settings(source, teacher, **changes), tmp_path / "a", Execution(16, 0))
    load = torch.load  # noqa: TID251  # as their loader calls it: it takes plain values alone
    files = {name: load(io.BytesIO(content)) for name, content in ml_dr_files(Store(tmp_path / "a"), 2)}
    assert files.pop("config.pth.tar")["reinforce"] == {"image_augmentation": expected, "num_samples": 2, "topk": 2}
    assert files.keys() == {f"{index}.pth.tar" for index in range(24)}
    for name, (index, views) in files.items():
        assert name == f"{index}.pth.tar"
        assert [view.keys() for view in views] == [{"params", "prob"}] * 2
        assert {len(view["params"]) for view in views} == {2 if THEIR_OPS.keys().isdisjoint(expected) else 4}


@pytest.mark.parametrize("change", ["fill=1-2-3", "re_fill=1-2-3", "remode=pixel", "n=3", "interpolation=random"])
def test_what_their_config_cannot_say_does_not_go_out(change: str, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    changes = {"policy": parse_policy(f"imagenet-plus-ra-re:{change}"), "views": 1}
    generate(source, teacher, make_settings(source, teacher, **changes), tmp_path / "a", Execution(16, 0))
    with pytest.raises(UsageError, match="cannot be written for ml-dr"):
        list(ml_dr_files(Store(tmp_path / "a"), 2))


def test_views_that_another_loader_cannot_show_do_not_go_out(images: Path, teacher: Teacher, tmp_path: Path, cli: Cli) -> None:
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher, views=1), tmp_path / "a", Execution(16, 0))
    for kind in ("ml-dr", "fkd"):
        code, _, err = cli("export", tmp_path / "a", "--format", kind, "--out", tmp_path / "files")
        assert code == 2
        assert "policy rrc-ra cannot be written" in err
        assert not (tmp_path / "files").exists()
