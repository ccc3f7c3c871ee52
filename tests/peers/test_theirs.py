"""Theirs: files that the peers' own writers wrote come in with the values that their own readers gave."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
from PIL import Image

from reinforce.labels.box import Box
from reinforce.labels.sparse import SparseLabels
from reinforce.peers.fkd import BOX, FkdReader, cut_boxes
from reinforce.peers.peer_pixels import ml_dr_view
from reinforce.store.store import Store
from reinforce.teachers.torch_file import read_torch
from reinforce.views.apply import apply
from reinforce.views.decode import decode
from reinforce.views.params import Field
from tests.conftest import REAL_DATA, Cli
from tests.peers.label_files import dense

PEERS = REAL_DATA / "peers"
pytestmark = [
    pytest.mark.unit,
    pytest.mark.skipif(not PEERS.is_dir(), reason="no files of the peers beside the checkout"),
]
LABEL = 5e-4  # largest difference in a class; one importer's storage, coarser than float32, kept it


def theirs(name: str) -> dict[str, np.ndarray]:
    with np.load(PEERS / name / "theirs.npz", allow_pickle=False) as found:
        return dict(found)


def imported(cli: Cli, out: Path, name: str, files: Path, *options: Any) -> Store:
    given = ("--data", PEERS / "images" / "train", "--teacher", "resnet18", "--workers", 0, "--out", out)
    code, _, err = cli("import", name, files, *given, *options)
    assert code == 0, err
    return Store(out)


def sample_of(store: Store, key: object) -> int:
    return [store.samples.key(i) for i in range(store.settings.source.num_samples)].index(str(key))


@pytest.mark.parametrize("folder", ["relabel_imagenet", "legacy"])
def test_relabels_crops_have_the_labels_of_its_own_loader(folder: str, tmp_path: Path, cli: Cli) -> None:
    wanted, errors = theirs("relabel"), []
    stores = {
        axes: imported(cli, tmp_path / axes, "relabel", PEERS / "relabel" / folder, "--axes", axes) for axes in ("wh", "hw")
    }
    stores["default"] = imported(cli, tmp_path / "default", "relabel", PEERS / "relabel" / folder)
    for store in stores.values():
        worst = 0.0
        for key, (top, left, height, width), (w, h), label in zip(
            wanted["key"], wanted["box"], wanted["image_wh"], wanted["label"], strict=True
        ):
            box = Box(top / h, left / w, (top + height) / h, (left + width) / w)
            found = SparseLabels.stack(store.crop_labels_of(sample_of(store, key), [box]), 1000).dense()[0].numpy()
            worst = max(worst, float(np.abs(found - label).max()))
        errors.append(worst)
    assert len(wanted["key"]) == 48
    assert errors[0] == errors[2] <= LABEL, "the default is what its students were trained with"
    assert errors[1] > 0.4, "and the other order is not"


FKD = ("hard", "smoothing", "marginal_smoothing_k5", "marginal_renorm_k5", "marginal_smoothing_k10", "fp16_k5")


@pytest.mark.parametrize("kind", FKD)
def test_fkds_boxes_flips_and_labels_are_those_of_its_own_reader(kind: str, tmp_path: Path, cli: Cli) -> None:
    tail = "renorm" if "renorm" in kind else "uniform"
    store, wanted = imported(cli, tmp_path / "out", "fkd", PEERS / "fkd" / kind, "--tail", tail), theirs("fkd")
    assert store.settings.views == (64 if kind == "fp16_k5" else 8)
    rows = [wanted[f"{kind}.{name}"] for name in ("key", "view", "box", "flip", "label")]
    assert len(rows[0]) == 24
    for key, view, box, flip, label in zip(*rows, strict=True):
        sample = sample_of(store, key)
        params = store.params_of(sample, int(view))
        assert params[[store.spec.fields.index(f) for f in BOX]].tolist() == box.tolist()
        assert store.spec.read(params, Field.HFLIP, 0) == flip
        assert np.abs(dense(store, sample)[view] - label).max() <= LABEL


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_fkds_boxes_of_large_pictures_are_those_that_its_reader_cut(dtype: str) -> None:
    wanted = theirs("fkd")
    rows = [wanted[f"box_{dtype}.{name}"] for name in ("coords", "image_wh", "box")]
    assert rows[0].dtype == dtype
    assert len(rows[0]) == 300
    for coords, (width, height), box in zip(*rows, strict=True):
        assert cut_boxes(coords[None], int(width), int(height)).tolist() == [box.tolist()]


@pytest.mark.parametrize(("folder", "classes"), [("in1k", 1000), ("in22k", 21841)])
def test_tinyvits_labels_are_those_of_its_own_reader(folder: str, classes: int, tmp_path: Path, cli: Cli) -> None:
    store, wanted = (
        imported(cli, tmp_path / "out", "tinyvit", PEERS / "tinyvit" / folder, "--num-classes", classes),
        theirs("tinyvit"),
    )
    assert store.settings.views == 2
    rows = [wanted[f"{folder}.{name}"] for name in ("image", "epoch", "ids", "probs")]
    assert len(rows[0]) == 24
    for key, epoch, ids, probs in zip(*rows, strict=True):
        label = store.label_of(sample_of(store, key), int(epoch))
        assert sorted(label.class_ids) == sorted(ids)
        found = dense(store, sample_of(store, key))[epoch]
        assert np.abs(found[ids] - probs.astype(np.float64)).max() <= 1e-3


def picture_of(key: object) -> Image.Image:
    with Image.open(PEERS / "images" / "train" / f"{key}.JPEG") as found:
        return found.convert("RGB")


PIXELS = 0 if PIL.__version__.startswith("13.") else 1  # the files are of Pillow 13, which resizes otherwise than 12
"""How far a pixel may be from theirs."""


def test_fkds_pixels_are_those_of_its_own_loader_and_ours_are_as_far_as_import_says(tmp_path: Path, cli: Cli) -> None:
    kind, wanted = "marginal_smoothing_k5", theirs("fkd")
    files = PEERS / "fkd" / kind
    store, reader = imported(cli, tmp_path / "out", "fkd", files), FkdReader(files, 1000, ["x"])
    content = {entry.which: entry.content for entry in reader.entries()}
    means = []
    for row, pixels in zip(wanted[f"{kind}.pixel_rows"], wanted[f"{kind}.pixels"], strict=True):
        key, view = str(wanted[f"{kind}.key"][row]), int(wanted[f"{kind}.view"][row])
        assert np.abs(reader.peer_view(content[key], view, picture_of(key)) - pixels.astype(int)).max() <= PIXELS
        image = decode((PEERS / "images" / "train" / f"{key}.JPEG").read_bytes())
        ours = apply(image, store.params_of(sample_of(store, key), view), store.spec).numpy()
        apart = np.abs(ours - pixels.astype(int))
        assert apart.max() <= 1
        means.append(apart.mean())
    assert len(means) == 12
    assert max(means) < 0.3
    error = store.settings.origin.replay_error
    assert (error.views, error.max) == (12, 1)
    assert error.worst_view < 0.3


@pytest.mark.parametrize("config", ["cropflip", "randaug", "mixing", "randaug_mixing"])
def test_ml_drs_pixels_are_those_of_its_own_loader(config: str, tmp_path: Path) -> None:
    wanted, made = theirs("mldr"), 0
    with tarfile.open(PEERS / "mldr" / config / "reinforced_data.tar.gz") as tar:
        files = {m.name.rpartition("/")[2]: tar.extractfile(m).read() for m in tar if m.isfile()}
    for row, pixels in zip(wanted[f"{config}.pixel_rows"], wanted[f"{config}.pixels"], strict=True):
        key, view = wanted[f"{config}.key"][row], wanted[f"{config}.view"][row]
        views = read_torch(files[f"{wanted[f'{config}.index'][row]}.pth.tar"])[1]
        found = ml_dr_view(views[view]["params"], picture_of(key), 224)
        assert (found is None) == (f"{config}.partner" in wanted and wanted[f"{config}.partner"][row] >= 0)
        if found is not None:
            assert np.abs(found - pixels.astype(int)).max() <= (PIXELS if config in ("cropflip", "mixing") else 255 * PIXELS)
            made += 1
    assert made >= (14 if config in ("cropflip", "randaug") else 1)
