"""The card of a published data set, with its croissant and its preview: they say what one must know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from reinforce.sharing.publication import Licences
from reinforce.sharing.publish import publish
from reinforce.store.store import Store
from tests.conftest import CLASSES
from tests.sharing.conftest import dense

pytestmark = pytest.mark.unit


def test_the_card_says_what_one_must_know(published: Path) -> None:
    text = (published / "README.md").read_text()
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    import yaml

    about = yaml.safe_load(head)
    assert about["license"] == "cc-by-4.0"
    assert about["task_categories"] == ["image-classification"]
    assert about["size_categories"] == ["n<1K"]
    assert about["configs"] == [{"config_name": "preview", "data_files": "preview.parquet"}]
    for needed in (
        "test_resnet",
        "rrc-ra",
        "24 with labels",
        "sqrt",
        "reinforce pull",
        "not in it: their owners'",
        "not stated",
    ):
        assert needed in body


def test_the_card_of_another_licence_names_it(whole: Path, tmp_path: Path) -> None:
    publish(whole, str(tmp_path / "x"), "x", Licences(labels='My own: "ask"\nme'))
    import yaml

    about = yaml.safe_load((tmp_path / "x" / "README.md").read_text().split("---\n")[1])
    assert about["license"] == "other"
    assert about["license_name"] == 'My own: "ask"\nme'


@pytest.mark.network
@pytest.mark.filterwarnings("ignore")
def test_croissant_is_valid_and_leads_to_the_preview(published: Path) -> None:
    import mlcroissant

    dataset = mlcroissant.Dataset(str(published / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    rows = list(dataset.records("preview"))
    assert len(rows) == 24 * 3
    assert rows[0]["preview/key"] == b"apple/000"


def test_the_preview_shows_labels_and_boxes_as_they_are_stored(published: Path, whole: Path) -> None:
    store, rows = Store(whole), pq.read_table(published / "preview.parquet").to_pylist()
    assert len(rows) == 24 * 3
    for row in rows:
        sample = store.samples.keys.index(row["key"])
        label = dense(store, sample, row["view"])
        order = torch.argsort(-label, stable=True)[:5].tolist()
        assert row["top5_classes"] == [CLASSES[c] for c in order]
        assert np.allclose(row["top5_probabilities"], label[order])
        box = [row[f"crop_{side}"] for side in ("top", "left", "height", "width")]
        assert box == store.params_of(sample, row["view"])[:4].tolist()
        assert row["label"] == CLASSES[int(store.samples.labels[sample])]
        assert (row["image_width"], row["image_height"]) == tuple(store.samples.width_height[sample].tolist())
