"""Teachers of stage one: ensembles, class maps, and the number of classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from reinforce import ReinforcedDataset
from reinforce.errors import TeacherError
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import read_manifest
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher import Teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.views.pixels import ViewMaker
from tests.conftest import CLASSES, SIZE, TEACHER, Cli, make_settings, picture
from tests.generation.conftest import SECOND, assert_labels_are, generate_wnids, rows_of

pytestmark = pytest.mark.unit

WNIDS = {"n01440764": 0, "n03445777": 574, "n03888257": 701}


@pytest.fixture(scope="module")
def wnid_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of each of three ImageNet classes, in folders named by WordNet id."""
    root = tmp_path_factory.mktemp("wnids") / "train"
    for c, wnid in enumerate(WNIDS):
        (root / wnid).mkdir(parents=True)
        for i in range(2):
            picture(10 * c + i).save(root / wnid / f"{i}.png")
    return root


Channels = float | tuple[float, ...]


def by_hand(name: str, weights: Path, pixels: torch.Tensor, mean: Channels, std: Channels) -> torch.Tensor:
    """Logits as a reader of timm's documentation would compute them."""
    state = load_file(weights)
    head = timm.get_pretrained_cfg(name).classifier
    model = timm.create_model(name, num_classes=len(state[f"{head}.weight"])).eval()
    model.load_state_dict(state)
    centre, spread = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (mean, std))
    with torch.no_grad():
        return model((pixels.float() / 255 - centre) / spread)


# Ensembles


def test_two_teachers_are_the_mean_of_their_softmaxes_each_with_its_own_mean_and_std(
    images: Path, weights: Path, second_weights: Path, tmp_path: Path, cli: Cli
) -> None:
    code, _, err = cli(
        "generate", "--data", images, "--teacher", TEACHER, "--teacher", SECOND, "--teacher-weights", weights,
        "--teacher-weights", second_weights, "--out", tmp_path / "out", "--size", SIZE, "--views", 3, "--codec", "topk:2",
        "--workers", 0, "--block-size", 9,
    )  # fmt: skip
    assert code == 0, err
    first, second = timm.get_pretrained_cfg(TEACHER), timm.get_pretrained_cfg(SECOND)
    assert (first.mean, first.std) != (second.mean, second.std)
    infos = read_manifest(tmp_path / "out").settings.teachers
    assert [(t.name, t.mean, t.std) for t in infos] == [(TEACHER, first.mean, first.std), (SECOND, second.mean, second.std)]

    def mean_of_two(views: torch.Tensor) -> torch.Tensor:
        one = by_hand(TEACHER, weights, views, first.mean, first.std).softmax(dim=1)
        two = by_hand(SECOND, second_weights, views, second.mean, second.std).softmax(dim=1)
        assert (one - two).abs().max() > 0.01  # the mean is neither of them
        return (one + two) / 2

    assert_labels_are(tmp_path / "out", images, mean_of_two)


def test_mean_and_std_of_a_teacher_can_be_given_for_each(images: Path, weights: Path, tmp_path: Path) -> None:
    kwargs: list[dict[str, Any]] = [{"mean": 0.2, "std": 0.3}, {"mean": "0.4/0.5/0.6", "std": "0.1/0.2/0.3"}]
    specs = [TeacherSpec(TEACHER, weights, k) for k in kwargs]
    both = load_teacher(
        specs, size=SIZE, class_names=list(CLASSES), class_map=None, device=torch.device("cpu"), precision="fp32"
    )
    views = ViewMaker(ImageFolder.open(images), make_settings(ImageFolder.open(images), both))[0].pixels
    one = by_hand(TEACHER, weights, views, 0.2, 0.3).softmax(dim=1)
    two = by_hand(TEACHER, weights, views, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)).softmax(dim=1)
    assert (one - two).abs().max() > 0.01
    assert torch.allclose(both(views), (one + two) / 2, atol=1e-5)
    assert [i.kwargs for i in both.infos] == kwargs
    assert [i.mean for i in both.infos] == [(0.2, 0.2, 0.2), (0.4, 0.5, 0.6)]


def test_a_teacher_never_leaves_evaluation_mode(teacher: Teacher) -> None:
    views = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = teacher(views)
    assert not teacher.train().training
    assert not any(m.training for m in teacher.modules())
    assert torch.equal(teacher(views), before)


# Class maps and numbers of classes


@pytest.mark.parametrize("class_map", ["auto", [0, 574, 701], [999, 3, 3]])
def test_a_class_map_picks_the_teachers_classes_and_the_softmax_is_over_these(
    wnid_images: Path, imagenet_weights: Path, tmp_path: Path, cli: Cli, class_map: Any
) -> None:
    option, out = class_map, tmp_path / "out"
    if class_map != "auto":
        option = tmp_path / "map.json"
        option.write_text(json.dumps(class_map))
    code, _, err = generate_wnids(cli, wnid_images, imagenet_weights, out, "--class-map", option)
    assert code == 0, err
    picked = list(WNIDS.values()) if class_map == "auto" else class_map
    settings = read_manifest(out).settings
    assert settings.num_classes == 3
    assert (settings.teachers[0].num_classes, settings.teachers[0].class_map) == (1000, picked)
    config = timm.get_pretrained_cfg(TEACHER)
    assert_labels_are(
        out,
        wnid_images,
        lambda views: by_hand(TEACHER, imagenet_weights, views, config.mean, config.std)[:, picked].softmax(dim=1),
    )


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        ("[0, 1]", 2, "2 entries"),
        ("[0, 1, 2, 3]", 2, "4 entries"),
        ('{"0": 1}', 2, "dict"),
        ("[0, 1.0, 2]", 2, "does not fit the data set"),
        ("[0, true, 2]", 2, "does not fit the data set"),
        ('["0", "1", "2"]', 2, "a JSON list of 3 numbers"),
        ("[0, 1,", 2, "cannot be read"),
        ("\xff\xfe", 2, "cannot be read"),
        (None, 2, "No such file"),
        ("[0, 1, 1000]", 1, "0 to 999"),
        ("[-1, 1, 2]", 1, "The class map names classes that test_resnet does not have"),
    ],
)
def test_a_class_map_that_does_not_fit_is_refused(
    wnid_images: Path, imagenet_weights: Path, tmp_path: Path, cli: Cli, content: str | None, code: int, text: str
) -> None:
    path = tmp_path / "map.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    out = tmp_path / "out"
    found, _, err = generate_wnids(cli, wnid_images, imagenet_weights, out, "--class-map", path)
    assert found == code
    assert text in err
    assert not out.exists()


def test_an_automatic_class_map_wants_wordnet_ids(images: Path, imagenet_weights: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = generate_wnids(cli, images, imagenet_weights, tmp_path / "out", "--class-map", "auto")
    assert code == 2
    assert "--class-map auto does not know all class folders" in err
    assert "3 of 3, such as 'apple'" in err


def test_a_class_map_wants_classes(images: Path, imagenet_weights: Path, tmp_path: Path, cli: Cli) -> None:
    flat = images / "apple"
    code, _, err = generate_wnids(cli, flat, imagenet_weights, tmp_path / "out", "--class-map", "auto")
    assert code == 2
    assert "--class-map needs a labelled data set" in err


def test_a_teacher_with_another_number_of_classes_is_refused(
    images: Path, imagenet_weights: Path, tmp_path: Path, cli: Cli
) -> None:
    code, _, err = generate_wnids(cli, images, imagenet_weights, tmp_path / "out")
    assert code == 1
    assert "test_resnet has 1000 classes and the data set has 3" in err
    assert "--class-map auto" in err
    assert not (tmp_path / "out").exists()


def test_teachers_with_different_numbers_of_classes_are_refused(weights: Path, imagenet_weights: Path) -> None:
    specs = [TeacherSpec(TEACHER, weights), TeacherSpec(TEACHER, imagenet_weights)]
    with pytest.raises(TeacherError, match="The teachers do not have the same classes") as error:
        load_teacher(specs, size=SIZE, class_names=[], class_map=None, device=torch.device("cpu"), precision="fp32")
    assert "[3, 1000] classes" in str(error.value)


def test_an_unlabelled_folder_gets_the_classes_of_the_teacher(
    images: Path, imagenet_weights: Path, tmp_path: Path, cli: Cli
) -> None:
    flat, out = tmp_path / "flat", tmp_path / "out"
    flat.mkdir()
    for i, path in enumerate(sorted(images.rglob("*.*"))):
        shutil.copy(path, flat / f"{i:02d}{path.suffix}")
    code, text, err = cli(
        "generate", "--data", flat, "--teacher", TEACHER, "--teacher-weights", imagenet_weights, "--out", out,
        "--size", SIZE, "--views", 2, "--workers", 0, "--block-size", 9, "--codec", "topk:10",
    )  # fmt: skip
    assert code == 0, err
    assert "hard label" not in text
    manifest = read_manifest(out)
    assert manifest.settings.num_classes == 1000
    assert manifest.settings.source.class_names == []
    assert manifest.statistics.hard_label_agreement is None
    assert {row["label"] for row in rows_of(out).values()} == {None}
    dataset = ReinforcedDataset(out, flat)
    assert [dataset[index][2] for index in range(len(dataset))] == [-1] * 24
    mean_std = timm.get_pretrained_cfg(TEACHER).mean, timm.get_pretrained_cfg(TEACHER).std
    assert_labels_are(out, flat, lambda views: by_hand(TEACHER, imagenet_weights, views, *mean_std).softmax(dim=1))
    assert "1000, without hard labels" in cli("inspect", out)[1]
