"""ImageNet+ against its own writer and loader: files that it wrote, pixels that it gave; and the padded crops of CIFAR-100."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from reinforce.errors import StoreError
from reinforce.peers.formats import open_reader
from reinforce.peers.importer import import_labels
from reinforce.peers.ml_dr_views import PADDING, Layout, op_of, read
from reinforce.peers.reader import ReadOptions
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.verification.verify import require, verify_store
from reinforce.views.params import Field, PixelSpec
from tests.conftest import REAL_DATA, picture
from tests.peers.label_files import dense, saved

pytestmark = pytest.mark.unit

PEERS = REAL_DATA / "peers"


def boxes(spec: PixelSpec, row: np.ndarray) -> list[int]:
    """Crop, flip and erased rectangle of a view, as the fixture has them."""
    erased = [spec.read(row, f, 0) for f in range(Field.ERASE_TOP, Field.ERASE_SEED)]
    return [*row[:4].tolist(), spec.read(row, Field.HFLIP, 0), *(erased if erased[2] else [-1] * 4)]


def same_ops(spec: PixelSpec, row: np.ndarray, numbers: np.ndarray, magnitudes: np.ndarray) -> bool:
    """Whether the op slots are those ops: of a translation the whole pixels, of others all but the last digits."""
    found = [op_of(slot, spec.size) for slot in spec.ops(row)]
    return all(op == n and abs(m - t) < 1 and m * t >= 0 for (op, m), n, t in zip(found, numbers, magnitudes, strict=True))


@pytest.mark.skipif(not PEERS.is_dir(), reason="no files of the peers beside the checkout")
@pytest.mark.parametrize("config", ["cropflip", "randaug", "mixing", "randaug_mixing"])
def test_what_their_writer_wrote_is_what_their_loader_makes(config: str, tmp_path: Path) -> None:
    archive, source = np.load(PEERS / "mldr" / "theirs.npz"), ImageFolder.open(PEERS / "images" / "train")
    theirs = {name.partition(".")[2]: archive[name] for name in archive.files if name.startswith(config + ".")}
    reader = open_reader("imagenet-plus", PEERS / "mldr" / config / "reinforced_data.tar.gz", ReadOptions())
    import_labels(reader, source, tmp_path / "out", workers=0)
    require(verify_store(tmp_path / "out"))
    data = ReinforcedDataset(tmp_path / "out", source)
    store, spec, none = Store(tmp_path / "out"), data.store.spec, np.full((24, 4), -1)
    labels = {index: dense(store, index) for index in range(12)}
    for i, (index, view) in enumerate(zip(theirs["index"].tolist(), theirs["view"].tolist(), strict=True)):
        assert store.samples.key(index) == theirs["key"][i]
        assert np.abs(labels[index][view] - theirs["label"][i]).max() < 5e-4
        row = store.params_of(index, view)
        assert boxes(spec, row) == [*theirs["box"][i], theirs["flip"][i], *theirs.get("erase", none)[i]]
        if "ops" in theirs:
            assert same_ops(spec, row, theirs["ops"][i], theirs["mags"][i])
        if "partner" in theirs:
            assert spec.read(row, Field.OTHER, 0) == theirs["partner"][i]
        if theirs.get("partner", none[:, 0])[i] >= 0:
            assert spec.other is not None
            other = row[spec.other_columns]
            found = boxes(spec.other, other)
            if "ops" in theirs:
                assert same_ops(spec.other, other, theirs["partner_ops"][i], theirs["partner_mags"][i])
            assert found == [*theirs["partner_box"][i], theirs["partner_flip"][i], *theirs.get("partner_erase", none)[i]]
    for i, pixels in zip(theirs["pixel_rows"].tolist(), theirs["pixels"], strict=True):
        ours = data.replay(int(theirs["index"][i]), int(theirs["view"][i])).numpy()
        assert np.abs(ours.astype(int) - pixels).mean() < 0.3


@pytest.mark.parametrize(("width", "height"), [(32, 32), (48, 33), (40, 100)])
def test_padded_crops_come_in_as_torchvision_cuts_them(width: int, height: int, tmp_path: Path) -> None:
    """CIFAR-100: Resize, RandomCrop with a border of 16, flip, two ops, erasing."""
    image, rng, views = picture(7, width, height), np.random.default_rng(0), list[Any]()
    bordered = F.pad(F.resize(image, [224]), [PADDING] * 4)
    for _ in range(12):
        first = (int(rng.integers(bordered.height - 223)), int(rng.integers(bordered.width - 223)))
        ops = [(3, float(rng.choice([-30.453, 30.453]))), (8, 0.27)]
        views.append([(224,), first, bool(rng.integers(2)), ops, (5, 6, 70, 80) if rng.integers(2) else None])
    (tmp_path / "images" / "a").mkdir(parents=True)
    image.save(tmp_path / "images" / "a" / "0.png")
    (tmp_path / "files").mkdir()
    written = [{"params": view, "prob": ([0.5, 0.2], [1, 0])} for view in views]
    (tmp_path / "files" / "0.pth.tar").write_bytes(saved((0, written), pickle_protocol=4))
    reader = open_reader("imagenet-plus", tmp_path / "files", ReadOptions(100))
    import_labels(reader, ImageFolder.open(tmp_path / "images"), tmp_path / "out", workers=0)
    require(verify_store(tmp_path / "out"))
    settings = Store(tmp_path / "out").settings
    assert "crop=pad" in str(settings.policy)
    assert [teacher.name for teacher in settings.teachers] == ["unknown"]
    data = ReinforcedDataset(tmp_path / "out", tmp_path / "images")
    for number, (_, first, flip, ops, erased) in enumerate(views):
        view = F.crop(bordered, *first, 224, 224)
        view = F.hflip(view) if flip else view
        for name, (_, magnitude) in zip(("TranslateX", "Contrast"), ops, strict=True):
            view = _apply_op(view, name, magnitude, F.InterpolationMode.NEAREST, [0.0] * 3)
        theirs = np.array(view).astype(int)
        if erased:
            theirs[5:75, 6:86] = 0
        assert np.abs(data.replay(0, number).numpy().transpose(1, 2, 0) - theirs).mean() < 0.3


def test_layouts_are_told_apart_by_what_stands_in_them() -> None:
    box, ops = (0, 0, 9, 9), [(0, 0.0)] * 2
    known: dict[Layout, list[Any]] = {
        Layout(): [box, True],
        Layout(augmented=True): [box, True, ops, None],
        Layout(mixed=True): [None, box, True, None, None],
        Layout(augmented=True, mixed=True): [3, [box] * 2, [True] * 2, [ops] * 2, [None] * 2, 0.25, None],
        Layout(augmented=True, padded=True): [224, (0, 0), True, ops, None],
    }
    for layout, given in known.items():
        assert Layout.of(given) == layout
        assert len(given) == layout.parts
        assert read(given, layout, 224, 9, 9)
    # None: their op or erasing was skipped; -1: no rectangle was found.
    skipped = read([box, True, None, (-1, -1, -1, -1)], Layout(augmented=True), 224, 9, 9)
    assert skipped == read([box, True], Layout(), 224, 9, 9)
    with pytest.raises(ValueError, match="3"):
        Layout.of([box, True, ops])


def test_files_of_two_layouts_are_no_data_set(images: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for index, params in enumerate([[(0, 0, 9, 9), True], [None, (0, 0, 9, 9), True, None, None]]):
        content = saved((index, [{"params": params, "prob": ([0.5, 0.2], [1, 0])}]))
        (tmp_path / "files" / f"{index}.pth.tar").write_bytes(content)
    reader = open_reader("imagenet-plus", tmp_path / "files", ReadOptions(3))
    with pytest.raises(StoreError, match="damaged"):
        import_labels(reader, ImageFolder.open(images), tmp_path / "out", workers=0)
