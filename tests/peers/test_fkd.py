"""FKD: its files come in with the boxes that Pillow cuts, and go out as its loader reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reinforce.errors import StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.peers.fkd import cut_boxes
from reinforce.peers.reader import check_boxes
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.verification.verify import require, verify_store
from reinforce.views.params import Field
from reinforce.views.policy_text import parse_policy
from tests.conftest import Cli, make_settings, picture
from tests.peers.label_files import VIEWS, cut_by_pillow, dense, saved, top, torch_reads

pytestmark = pytest.mark.unit

FKD_LABELS = {
    "hard": lambda rng: torch.tensor(rng.integers(0, 3, VIEWS)),
    "smoothing": lambda rng: torch.tensor(np.stack([rng.integers(0, 3, VIEWS), rng.uniform(0.5, 0.9, VIEWS)], axis=1)),
    "marginal": lambda rng: torch.tensor(
        np.stack([np.stack([ids, probs]) for probs, ids in (top(rng) for _ in range(VIEWS))]), dtype=torch.float32
    ),
    "full": lambda rng: torch.tensor(rng.dirichlet(np.ones(3), VIEWS), dtype=torch.float32),
}


@pytest.mark.parametrize("variant", FKD_LABELS)
@pytest.mark.parametrize("tail", ["uniform", "renorm"])
def test_fkd_comes_in(variant: str, tail: str, images: Path, tmp_path: Path, cli: Cli) -> None:
    rng, source, made = np.random.default_rng(1), ImageFolder.open(images), {}
    for key in source.keys:
        coords = np.stack([rng.uniform(0, 0.3, VIEWS), rng.uniform(0, 0.3, VIEWS), *rng.uniform(0.3, 0.7, (2, VIEWS))], axis=1)
        made[key] = (coords, rng.integers(0, 2, VIEWS).astype(bool), FKD_LABELS[variant](rng))
        path = tmp_path / "fkd" / f"{key}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved([torch.tensor(coords, dtype=torch.float32), torch.tensor(made[key][1]), made[key][2]]))
    out = tmp_path / "out"
    options = ("--num-classes", 3, "--tail", tail, "--teacher", "somebody", "--size", 64, "--workers", 0)
    code, _, err = cli("import", "fkd", tmp_path / "fkd", "--data", images, *options, "--out", out)
    assert code == 0, err
    store = Store(out)
    require(verify_store(out))
    assert store.settings.origin.options == {"tail": tail, "size": 64}
    assert store.settings.teachers[0].name == "somebody"
    for sample in range(24):
        coords, flip, label = made[store.samples.key(sample)]
        width, height = store.samples.width_height[sample].tolist()
        decoded = dense(store, sample)
        for view in range(VIEWS):
            row = store.params_of(sample, view)
            assert np.array_equal(row[:4], cut_by_pillow(coords[view].astype(np.float32), width, height))
            assert store.spec.read(row, Field.HFLIP, 0) == flip[view]
            if variant == "full":
                assert np.allclose(decoded[view], label[view], atol=0.08)
            elif variant == "hard":
                assert decoded[view][int(label[view])] == pytest.approx(1)
            elif variant == "smoothing":
                wanted = 1.0 if tail == "renorm" else float(label[view][1])
                assert decoded[view][int(label[view][0])] == pytest.approx(wanted, abs=1e-3)
            else:
                ids, probs = label[view].numpy()
                wanted = probs / probs.sum() if tail == "renorm" else probs
                assert np.allclose(decoded[view][ids.astype(int)], wanted, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_fkds_boxes_are_those_that_pillow_cuts(dtype: type, tmp_path: Path) -> None:
    """Also of large pictures, whose half floats are coarser than a pixel; rounding the sizes would be wrong in many."""
    rng, sizes_rounded = np.random.default_rng(6), 0
    for width, height in ((4288, 60), (60, 4288), (500, 375)):
        tall, wide = rng.integers(1, height + 1, 60), rng.integers(1, width + 1, 60)
        boxes = np.stack([rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1), tall, wide], axis=1)
        sides = np.array([height, width, height, width])
        coords = (boxes / sides).astype(dtype)
        found = cut_boxes(coords, width, height)
        check_boxes(found, width, height)
        for row, box in zip(coords, found, strict=True):
            wanted = cut_by_pillow(row, width, height)
            over = np.maximum(np.array(wanted[:2]) + wanted[2:] - (height, width), 0)  # black pixels past the end
            assert box.tolist() == [*wanted[:2], *(wanted[2:] - over)]
            assert over.max() <= (2 if dtype == np.float16 else 0)
            sizes_rounded += box.tolist() != np.rint(row.astype(np.float64) * sides).tolist()
    assert sizes_rounded > 10 if dtype == np.float16 else sizes_rounded == 0


def test_an_edge_past_the_end_by_more_than_the_rounding_is_refused() -> None:
    over = np.float32(1.004)
    for coords in ([0, 0, over, 1], [0, 0.5, 1, over - np.float32(0.5)], [0, -0.01, 1, 1]):
        with pytest.raises(StoreError, match="not within its image"):
            check_boxes(cut_boxes(np.array([coords], np.float32), 500, 375), 500, 375)


@pytest.mark.parametrize("k", [1, 2])
def test_fkds_files_are_what_torchs_default_reader_takes_and_stand_where_its_loader_looks(
    k: int, images: Path, teacher: Teacher, tmp_path: Path, cli: Cli
) -> None:
    source = ImageFolder.open(images)
    changes = {"policy": parse_policy("fkd"), "codec": {"name": "topk", "k": 2}, "views": 2}
    generate(source, teacher, make_settings(source, teacher, **changes), tmp_path / "a", Execution(16, 0))
    code, text, err = cli("export", tmp_path / "a", "--format", "fkd", "--topk", k, "--out", tmp_path / "files")
    assert code == 0, err
    kind = "smoothing" if k == 1 else "marginal_renorm"
    assert f"--softlabel_path {tmp_path / 'files'} --soft_label_type {kind}" in text
    store = Store(tmp_path / "a")
    for sample, key in enumerate(source.keys):
        path = images / f"{key}.jpg"  # as the loader makes its path: the last three parts up to the first dot
        wanted = tmp_path / "files" / ("/".join(path.parts[-3:]).split(".")[0] + ".tar")
        coords, flips, label = torch_reads(wanted.read_bytes())
        assert [t.dtype for t in (coords, flips, label)] == [torch.float32, torch.bool, torch.float32]
        assert label.shape == ((2, 2) if k == 1 else (2, 2, 2))
        for view in range(2):
            params = store.params_of(sample, view)
            width, height = store.samples.width_height[sample].tolist()
            assert params[:4].tolist() == cut_by_pillow(coords[view], width, height)
            assert store.spec.read(params, Field.HFLIP, 0) == flips[view]
            found, exact = label[view].reshape(2, -1), dense(store, sample)[view]
            assert np.array_equal(exact[found[0].long().numpy()], found[1].numpy())
            assert found[1][0] == exact.max()


@pytest.mark.parametrize("name", ["a.b", "deep/a", None])
def test_a_key_under_which_fkds_loader_would_not_look_is_refused(
    name: str | None, teacher: Teacher, tmp_path: Path, cli: Cli
) -> None:
    for folder in ("apple", "bread", "cheese") if name else ("",):
        path = tmp_path / "train" / folder / f"{name or 'a'}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(path)
    source = ImageFolder.open(tmp_path / "train")
    generate(source, teacher, make_settings(source, teacher, policy=parse_policy("fkd")), tmp_path / "a", Execution(16, 0))
    code, _, err = cli("export", tmp_path / "a", "--format", "fkd", "--out", tmp_path / "files")
    assert (code, "would not find the labels" in err) == (2, True), err
    assert not (tmp_path / "files").exists()
