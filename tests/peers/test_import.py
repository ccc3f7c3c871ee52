"""Import: labels of others come in as what they are, from each of their formats."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from reinforce.errors import ReinforceError, UsageError
from reinforce.labels.box import Box
from reinforce.labels.label_map import MapCodec
from reinforce.labels.sparse import SparseLabels
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.verification.verify import require, verify_store
from reinforce.views.params import Field
from reinforce.views.torchvision_ops import TORCHVISION_OPS
from tests.conftest import CLASSES, Cli
from tests.peers.label_files import GOOD, add, dense, saved, write_ml_dr, write_tinyvit

pytestmark = pytest.mark.unit


@pytest.mark.process
@pytest.mark.parametrize("erased", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_imagenet_plus_comes_in(erased: bool, workers: int, images: Path, tmp_path: Path, cli: Cli) -> None:
    source = ImageFolder.open(images)
    made = write_ml_dr(tmp_path / "labels.tar.gz", source, erased, skip=(4,))
    out = tmp_path / "out"
    code, text, err = cli(
        "import",
        "imagenet-plus",
        tmp_path / "labels.tar.gz",
        "--data",
        images,
        "--num-classes",
        3,
        "--workers",
        workers,
        "--out",
        out,
    )
    assert code == 0, err
    assert "23 samples x 3 views, 1 without labels, 0 corrupt" in text
    assert "pixels are not the teacher's" in text
    store = Store(out)
    require(verify_store(out))
    assert store.settings.origin.format == "imagenet-plus"
    assert store.settings.policy.name == ("imagenet-plus-ra-re" if erased else "imagenet-plus-rrc")
    assert store.samples.reasons == {4: "no labels were imported for it"}
    for index, views in made.items():
        assert store.samples.key(index) == source.keys[index]
        assert store.samples.labels[index] == source.label(index)
        for view, (wrote, label) in enumerate(zip(views, dense(store, index), strict=True)):
            row, spec = store.params_of(index, view), store.spec
            assert tuple(row[:4]) == wrote["params"][0]
            assert spec.read(row, Field.HFLIP, 0) == wrote["params"][1]
            if erased:
                assert [int(s[0]) for s in spec.ops(row)] == [int(TORCHVISION_OPS[op]) for op, _ in wrote["params"][2]]
                box = tuple(spec.read(row, f, 0) for f in range(Field.ERASE_TOP, Field.ERASE_SEED))
                assert box == (wrote["params"][3] or (0, 0, 0, 0))
            probs, ids = wrote["prob"]
            assert np.allclose(label[ids], probs, atol=1e-3)
            rest = [c for c in range(3) if c not in ids]
            assert np.allclose(label[rest], (1 - sum(probs)) / len(rest), atol=1e-3)


@pytest.mark.process
def test_what_was_imported_trains_and_says_what_it_is(images: Path, tmp_path: Path, cli: Cli) -> None:
    write_ml_dr(tmp_path / "labels.tar.gz", ImageFolder.open(images), True)
    out = tmp_path / "out"
    assert (
        cli("import", "imagenet-plus", tmp_path / "labels.tar.gz", "--data", images, "--num-classes", 3, "--out", out)[0] == 0
    )
    code, text, _ = cli("inspect", out)
    assert code == 0
    assert "imported from imagenet-plus; pixels by torchvision" in text
    assert "weights not known" in text
    code, text, _ = cli("verify", out, "--data", images, "--views", 5, "--workers", 0)
    assert code == 0, text
    train = ("--student", "test_vit", "--student-kwargs", "img_size=224", "--epochs", 1, "--batch-size", 8, "--workers", 0)
    code, text, err = cli("train", "--data", images, "--labels", out, *train, "--out", tmp_path / "run")
    assert code == 0, err
    assert "labels imported from imagenet-plus: pixels are not exactly those that the teacher saw" in text
    code, _, err = cli("train", "--mode", "online", "--data", images, "--labels", out, *train, "--out", tmp_path / "run2")
    assert code == 2
    assert "not known well enough" in err
    code, text, _ = cli("publish", out, "--to", tmp_path / "pub" / "x")
    assert code == 0
    assert "replay: approximate" in (tmp_path / "pub" / "x" / "README.md").read_text()
    assert cli("pack", out, "--data", images, "--out", tmp_path / "shards")[0] == 0
    assert cli("verify", tmp_path / "shards")[0] == 0
    images_now = ReinforcedDataset(out, images)
    image, label, _ = images_now[0]
    assert image.shape == (3, 224, 224)
    assert float(label.sum()) == pytest.approx(1)


def test_tinyvit_comes_in_as_labels_without_views(images: Path, tmp_path: Path, cli: Cli) -> None:
    source = ImageFolder.open(images)
    made = write_tinyvit(tmp_path / "tiny", [f"/disk/of/theirs/{key}" for key in source.keys])
    made = {(epoch, "/".join(key.split("/")[-2:])): label for (epoch, key), label in made.items()}
    out = tmp_path / "out"
    options = ("--num-classes", 3, "--workers", 0)
    code, text, err = cli("import", "tinyvit", tmp_path / "tiny", "--data", images, *options, "--out", out)
    assert code == 0, err
    assert "no views to replay" in text
    store = Store(out)
    require(verify_store(out))
    for sample in range(24):
        for epoch, label in enumerate(dense(store, sample)):
            probs, ids = made[epoch, store.samples.key(sample)]
            assert np.allclose(label[ids], probs, atol=2e-3)
    for check in (True, False):
        with pytest.raises(UsageError, match="cannot be shown"):
            ReinforcedDataset(out, images, check=check)
    train = ("--student", "test_vit", "--student-kwargs", "img_size=224", "--epochs", 1, "--batch-size", 8, "--workers", 0)
    code, _, err = cli("train", "--data", images, "--labels", out, *train, "--out", tmp_path / "run")
    assert code == 2
    assert "a fork of timm" in err


@pytest.mark.parametrize("axes", ["wh", "hw"])
def test_relabel_comes_in_as_label_maps(axes: str, images: Path, tmp_path: Path, cli: Cli) -> None:
    rng, source, made = np.random.default_rng(3), ImageFolder.open(images), {}
    with tarfile.open(tmp_path / "maps.tar", "w") as tar:
        for key in source.keys:
            ids = np.stack([rng.permutation(6)[:5] for _ in range(15 * 15)]).T.reshape(5, 15, 15)
            made[key] = np.stack([rng.normal(5, 2, (5, 15, 15)), ids]).astype(np.float32)
            add(tar, f"relabel/{key}.pt", saved(torch.tensor(made[key])))
    out = tmp_path / "out"
    given = () if axes == "wh" else ("--axes", axes)  # wh is the default
    options = ("--num-classes", 6, *given, "--workers", 0)
    code, _, err = cli("import", "relabel", tmp_path / "maps.tar", "--data", images, *options, "--out", out)
    assert code == 0, err
    store = Store(out)
    require(verify_store(out))
    codec = store.codec
    assert isinstance(codec, MapCodec)
    for sample in range(24):
        scores, ids = made[store.samples.key(sample)]
        found = codec.read(store.record(sample, 0), store.settings.num_classes)
        order = (1, 2, 0) if axes == "hw" else (2, 1, 0)
        assert np.allclose(found.scores, scores.transpose(order), atol=0.01)
        assert np.array_equal(found.class_ids, ids.transpose(order))
    check_crops(store, made, axes)
    train = ("--recipe", "relabel", "--policy", "rrc", "--student", "test_vit", "--student-kwargs", "img_size=32", "--size", 32)
    more = ("--epochs", 1, "--batch-size", 8, "--no-amp", "--workers", 0, "--out", tmp_path / "run", "--task-loss-weight", 0)
    code, _, err = cli("train", "--data", images, "--labels", out, *train, *more)
    assert code == 0, err


def check_crops(store: Store, made: dict[str, np.ndarray], axes: str) -> None:
    """Labels of crops are torchvision's: its RoIAlign takes x, the place on the last axis, first; ReLabel gives it the top."""
    rng, worst = np.random.default_rng(4), 0.0
    for sample in range(24):
        scores, ids = torch.from_numpy(made[store.samples.key(sample)])
        scattered = torch.zeros(6, 15, 15).scatter_(0, ids.long(), scores)[None]
        (top, bottom), (left, right) = np.sort(rng.uniform(0, 1, (2, 2)), axis=1)
        corners = (top, left, bottom, right) if axes == "wh" else (left, top, right, bottom)
        boxes = torch.tensor([[0, *(15 * c - 0.5 for c in corners)]], dtype=torch.float32)
        wanted = roi_align(scattered, boxes, (1, 1)).flatten().softmax(0).numpy()
        found = SparseLabels.stack(store.crop_labels_of(sample, [Box(top, left, bottom, right)]), 6).dense()[0].numpy()
        worst = max(worst, float(np.abs(found - wanted).max()))
    assert worst < 2e-3, "scores near 10 are kept as half floats"


# With other images than all of them


def test_an_image_that_is_broken_now_becomes_a_row(own_images: Path, tmp_path: Path, cli: Cli) -> None:
    source = ImageFolder.open(own_images)
    write_ml_dr(tmp_path / "labels.tar.gz", source, False)
    (own_images / "apple" / "002.jpg").write_bytes(b"\xff\xd8\xff broken")
    options = ("--data", own_images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out", "--json")
    code, out, _ = cli("import", "imagenet-plus", tmp_path / "labels.tar.gz", *options)
    assert code == 0
    about = json.loads(out)
    assert (about["ok"], about["corrupt"], about["replay"]) == (23, 1, "approximate")
    require(verify_store(tmp_path / "out"))


def test_some_of_imagenets_classes_are_numbered_as_all_of_them(tmp_path: Path, images: Path, cli: Cli) -> None:
    from reinforce.teachers.class_map import imagenet_wnids

    wnids = imagenet_wnids()
    root = tmp_path / "images"
    for name, wnid in zip(CLASSES, (wnids[7], wnids[0], wnids[999]), strict=True):
        (root / wnid).mkdir(parents=True)
        (root / wnid / "a.jpg").write_bytes((images / name / "000.jpg").read_bytes())
    source = ImageFolder.open(root)
    (tmp_path / "files").mkdir()
    for i in range(3):
        (tmp_path / "files" / f"{i}.pth.tar").write_bytes(saved((i, [{**GOOD, "prob": ([0.5, 0.2], [999, 7])}])))
    code, _, err = cli("import", "imagenet-plus", tmp_path / "files", "--data", root, "--workers", 0, "--out", tmp_path / "out")
    assert code == 0, err
    store = Store(tmp_path / "out")
    require(verify_store(tmp_path / "out"))
    names = store.settings.source.class_names
    assert [names[label] for label in store.samples.labels] == [key.partition("/")[0] for key in source.keys]
    with pytest.raises(ReinforceError):
        ReinforcedDataset(tmp_path / "out", images)
