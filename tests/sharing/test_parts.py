"""Parts: the first views and some blocks come alone, cost less and are data sets like others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reinforce.errors import UsageError
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sharing.publish import publish
from reinforce.sharing.pull import pull
from reinforce.store.store import Store
from reinforce.verification.verify import require, verify_pixels, verify_store
from tests.conftest import Cli, content
from tests.servers import serve_http
from tests.sharing.conftest import LICENCES, dense

pytestmark = pytest.mark.unit


@pytest.mark.network
@pytest.mark.parametrize(("views", "come"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 5)])
def test_the_first_views_come_alone_and_cost_less(
    views: int, come: int, whole: Path, published: Path, images: Path, tmp_path: Path
) -> None:
    with serve_http(published) as served:
        pulled = pull(served.url, tmp_path / "part", views=views)
        sizes = {p: len(c) for p, c in content(published).items()}
        later = [n for p, n in sizes.items() if p.endswith(".zip") and int(p.split(".")[1]) >= -(-come // 2)]
        assert served.sent == sum(sizes.values()) - sum(later)
    part, all_of_it = Store(tmp_path / "part"), Store(whole)
    assert part.settings.views == come
    assert (part.manifest.part_of is None) == (come == 5)
    for sample in range(len(part.samples)):
        for view in range(come):
            assert torch.equal(dense(part, sample, view), dense(all_of_it, sample, view))
    require([*verify_store(part.root), *verify_pixels(ReinforcedDataset(part.root, images), 40, 0)])
    assert pulled.manifest == part.manifest


@pytest.mark.network
@pytest.mark.process
def test_some_blocks_come_alone(whole: Path, published: Path, images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "part"
    with serve_http(published) as served:
        code, _, err = cli("pull", served.url, "--blocks", "0,2-3", "--views", 2, "--out", out)
        assert code == 0, err
        assert not [path for _, path, _ in served.requests if "blocks/000001" in path]
    store = Store(out)
    assert store.blocks == [0, 2, 3]
    assert set(store.samples.block[store.ok_samples].tolist()) == {0, 2, 3}
    dataset = ReinforcedDataset(out, images)
    assert len(dataset) == 24 - 7
    for epoch in range(2):
        dataset.set_epoch(epoch)
        assert all(len(dataset[i]) == 3 for i in range(len(dataset)))
    code, text, _ = cli("verify", out, "--data", images, "--views", 20, "--workers", 0)
    assert code == 0, text
    code, text, _ = cli("inspect", out)
    assert code == 0
    assert "3 of 4 blocks are here; a part of" in text
    train = ("--student", "test_vit", "--student-kwargs", "img_size=32", "--epochs", 2, "--batch-size", 6, "--workers", 1)
    code, _, err = cli("train", "--data", images, "--labels", out, *train, "--out", tmp_path / "run")
    assert code == 0, err
    teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 32)
    code, _, err = cli("generate", "--data", images, *teacher, "--views", 2, "--out", out)
    assert code == 1
    assert "is a part of another data set" in err


def test_a_part_can_be_published_and_pulled(published: Path, tmp_path: Path) -> None:
    pull(str(published), tmp_path / "part", views=2, blocks=[1, 2])
    publish(tmp_path / "part", str(tmp_path / "again"), "part", LICENCES)
    pull(str(tmp_path / "again"), tmp_path / "back")
    assert content(tmp_path / "part").keys() == content(tmp_path / "back").keys()
    with pytest.raises(UsageError, match="--blocks"):
        pull(str(tmp_path / "again"), tmp_path / "no", blocks=[0])


@pytest.mark.parametrize(
    "asked", [{"views": 6}, {"views": 0}, {"views": -1}, {"blocks": [4]}, {"blocks": []}, {"blocks": [-1]}]
)
def test_what_is_not_there_cannot_be_asked_for(asked: dict[str, Any], published: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        pull(str(published), tmp_path / "part", **asked)
    assert not (tmp_path / "part").exists()
