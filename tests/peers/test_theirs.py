"""Theirs: files that the peers' own writers wrote come in with the values that their own readers gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reinforce.labels.box import Box
from reinforce.labels.sparse import SparseLabels
from reinforce.peers.fkd import BOX, cut_boxes
from reinforce.store.store import Store
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
