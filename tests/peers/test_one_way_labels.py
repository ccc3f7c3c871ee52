"""ImageNet+ M*+R*: views mixed with any other image come in, are trained on, shown, packed, pulled, and go out again."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from reinforce.errors import ReplayError, StoreError, UsageError
from reinforce.packs.pack import Options, pack
from reinforce.packs.shard_decoder import ShardDecoder
from reinforce.peers.importer import import_labels
from reinforce.peers.ml_dr import MlDrReader
from reinforce.peers.ml_dr_files import ml_dr_files
from reinforce.peers.reader import ReadOptions
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.epoch_views import ReplayedViews
from reinforce.replay.loader import batches
from reinforce.sources.folder import ImageFolder
from reinforce.sources.open_source import open_source
from reinforce.store.store import Store
from reinforce.teachers.torch_file import read_torch
from reinforce.verification.verify import require, verify_store
from reinforce.views.params import Field
from tests.conftest import Cli
from tests.peers.label_files import saved, top

pytestmark = pytest.mark.unit

SIZE, VIEWS = 64, 4
NAMES = [
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness",
    "Posterize", "Solarize", "AutoContrast", "Equalize",
]  # fmt: skip
MAGNITUDES = {"Shear": 0.09, "Trans": 8.7, "Rotat": 9.0, "Poste": 7.0, "Solar": 178.5}
Given = tuple[tuple[int, ...], bool, list[tuple[int, float]], tuple[int, ...] | None]


def opened(source: ImageFolder, index: int) -> Image.Image:
    return Image.open(io.BytesIO(source.read(index))).convert("RGB")


def drawn(rng: np.random.Generator, width: int, height: int) -> Given:
    """Crop, flip, ops, erasing: as their writer draws them for one view."""
    h, w = int(rng.integers(8, height + 1)), int(rng.integers(8, width + 1))
    crop = (int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
    ops = []
    for op in rng.integers(0, 14, 2).tolist():
        magnitude = MAGNITUDES.get(NAMES[op][:5], 0.27 if 6 <= op <= 9 else 0.0)
        ops.append((op, magnitude * (float(rng.choice([-1, 1])) if 1 <= op <= 9 else 1.0)))
    return crop, bool(rng.integers(2)), ops, (10, 20, 30, 40) if rng.integers(2) else None


def write_mixed(folder: Path, source: ImageFolder) -> dict[int, list[Any]]:
    """Files of M*+R*: views alone, with MixUp, with CutMix, with both, and with an image's own other crop."""
    rng, made = np.random.default_rng(0), {}
    folder.mkdir()
    sizes = [opened(source, index).size for index in range(len(source))]
    for index in range(len(source)):
        views = []
        for view in range(VIEWS):
            own, partner = drawn(rng, *sizes[index]), int(rng.integers(len(source))) if view else index
            mixup = float(rng.uniform(0, 0.5)) if view in (0, 1, 3) else None
            y, x = np.sort(rng.integers(0, SIZE + 1, (2, 2)))
            cutmix = [np.float64(0.5), y[0], x[0], y[1], x[1]] if view >= 2 else None
            params: list[Any] = [None, *own, None, None]
            if view or index % 2:
                params = [partner, *map(list, zip(own, drawn(rng, *sizes[partner]), strict=True)), mixup, cutmix]
            views.append({"params": params, "prob": top(rng)})
        made[index] = views
        (folder / f"{index}.pth.tar").write_bytes(saved((index, views), pickle_protocol=4))
    return made


@pytest.fixture(scope="module")
def files(images: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, list[Any]]]:
    folder = tmp_path_factory.mktemp("theirs") / "files"
    return folder, write_mixed(folder, ImageFolder.open(images))


@pytest.fixture(scope="module")
def labels(files: tuple[Path, Any], images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In blocks of 7, so that partners stand in other blocks."""
    out = tmp_path_factory.mktemp("mixed") / "labels"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reinforce.peers.importer.BLOCK_SIZE", 7)
        import_labels(MlDrReader.open(files[0], ReadOptions(3, size=SIZE)), ImageFolder.open(images), out, workers=0)
    return out


def partners(params: list[Any]) -> tuple[Any, Any]:
    """The partner of a view, and its crop or both crops."""
    return params[0], params[1]


def by_torchvision(image: Image.Image, crop: Any, flip: bool, ops: Any, erased: Any) -> np.ndarray:
    """A view before mixing, as their loader makes it: on a Pillow image, float64 `[H, W, 3]`."""
    view = F.resized_crop(image, *crop, [SIZE, SIZE])
    view = F.hflip(view) if flip else view
    for op, magnitude in ops:
        view = _apply_op(view, NAMES[op], magnitude, F.InterpolationMode.NEAREST, [0.0] * 3)
    pixels = np.array(view, float)
    if erased:
        y, x, height, width = erased
        pixels[y : y + height, x : x + width] = 0
    return pixels


def test_every_view_is_what_their_loader_makes(files: tuple[Path, dict[int, list[Any]]], labels: Path, images: Path) -> None:
    source, data, errors = ImageFolder.open(images), ReinforcedDataset(labels, images), []
    require(verify_store(labels))
    for index, views in files[1].items():
        for view, wrote in enumerate(views):
            partner, *parts, mixup, cutmix = wrote["params"]
            each = [parts] if partner is None else [[part[which] for part in parts] for which in (0, 1)]
            pixels = [by_torchvision(opened(source, i), *p) for i, p in zip((index, partner), each, strict=False)]
            theirs = pixels[0] if mixup is None else mixup * pixels[0] + (1 - mixup) * pixels[1]
            if cutmix is not None:
                _, y, x, bottom, right = cutmix
                theirs[y:bottom, x:right] = pixels[1][y:bottom, x:right]
            difference = np.abs(data.replay(index, view).numpy().transpose(1, 2, 0) - theirs)
            errors.append(difference.mean())
    # An op may make more of a pixel whose resize was rounded to the other side: most views have no such pixel.
    assert max(errors) < 2
    assert np.mean(errors) < 0.3


def test_the_loader_gives_the_replayed_pixels_and_both_hard_labels(labels: Path, images: Path) -> None:
    data = ReinforcedDataset(labels, images)
    views, hard = ReplayedViews(data), data.store.samples.labels
    views.set_epoch(1)
    assert views.mixing is None
    pixels, targets = next(batches(views, [np.arange(24)], workers=0))
    spec = data.store.spec
    for index in range(24):
        view = data.view_of(index)
        assert pixels[index].equal(data.replay(index, view))
        row = data.store.params_of(index, view)
        other, lam = spec.read(row, Field.OTHER, 0), spec.read(row, Field.OTHER_LAM, 0) / 65536
        area = spec.read(row, Field.PASTE_HEIGHT, 0) * spec.read(row, Field.PASTE_WIDTH, 0) / SIZE**2
        assert targets.hard[index] == hard[index]
        assert targets.other[index] == (-1 if other < 0 else hard[other])
        assert float(targets.share[index]) == pytest.approx(1 if other < 0 else lam * (1 - area))
    smaller, _ = next(batches(views, [np.arange(24)], workers=0, sizes=[32]))
    assert smaller.shape == (24, 3, 32, 32)


def test_numbers_count_images_as_in_a_folder_also_for_shards_in_another_order(
    files: tuple[Path, Any], labels: Path, images: Path, tmp_path: Path
) -> None:
    pack(ImageFolder.open(images), None, tmp_path / "shards", Options())
    shards = open_source(str(tmp_path / "shards"))
    assert list(shards.keys) != list(ImageFolder.open(images).keys)
    import_labels(MlDrReader.open(files[0], ReadOptions(3, size=SIZE)), shards, tmp_path / "out", workers=0)
    there, here = ReinforcedDataset(labels, images), ReinforcedDataset(tmp_path / "out", shards)
    place = {here.store.samples.key(int(sample)): index for index, sample in enumerate(here.samples)}
    for index in range(24):
        other = place[there.store.samples.key(int(there.samples[index]))]
        assert all(here.replay(other, view).equal(there.replay(index, view)) for view in range(VIEWS))
    for name, content in ml_dr_files(here.store, 2):
        if name == "config.pth.tar":
            continue
        number, views = read_torch(content)
        assert f"{number}.pth.tar" == name
        assert [partners(wrote["params"]) for wrote in views] == [partners(wrote["params"]) for wrote in files[1][number]]


@pytest.mark.process
def test_they_are_trained_on_shown_packed_and_sent_out_again(labels: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    train = ("--student", "test_resnet", "--epochs", 1, "--batch-size", 8, "--workers", 1)
    for mode in ("replay", "plain"):
        code, _, err = cli("train", "--data", images, "--labels", labels, "--mode", mode, *train, "--out", tmp_path / mode)
        assert code == 0, err
    key = Store(labels).samples.key(3)
    assert cli("show", labels, "--data", images, "--sample", key, "--out", tmp_path / "views.png")[0] == 0
    assert cli("pack", labels, "--data", images, "--out", tmp_path / "shards")[0] == 0
    code, text, _ = cli("verify", tmp_path / "shards")
    assert code == 0, text
    unpacked, packed = ReinforcedDataset(labels, images), ReinforcedDataset(tmp_path / "shards")
    order = {key: i for i, key in enumerate(packed.store.samples.keys)}
    for index in range(0, 24, 5):
        there = int(np.flatnonzero(packed.samples == order[unpacked.store.samples.key(index)])[0])
        assert packed.replay(there, 1).equal(unpacked.replay(index, 1))
    code, _, err = cli("train", "--data", tmp_path / "shards", *train, "--out", tmp_path / "run")
    assert code == 0, err
    with pytest.raises(UsageError, match="mixed with other samples"):
        ShardDecoder(str(tmp_path / "shards"))
    assert cli("export", labels, "--format", "ml-dr", "--topk", 2, "--out", tmp_path / "files")[0] == 0
    options = ("--data", images, "--num-classes", 3, "--size", SIZE, "--workers", 0, "--out", tmp_path / "again")
    assert cli("import", "imagenet-plus", tmp_path / "files", *options)[0] == 0
    before, after = Store(labels), Store(tmp_path / "again")
    for sample in range(24):
        for view in range(VIEWS):
            assert np.array_equal(before.params_of(sample, view), after.params_of(sample, view))


def test_a_part_needs_the_images_of_partners_and_not_their_labels(labels: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("publish", labels, "--to", tmp_path / "pub" / "x")[0] == 0
    assert cli("pull", tmp_path / "pub" / "x", "--blocks", "1", "--out", tmp_path / "part")[0] == 0
    whole, part = ReinforcedDataset(labels, images), ReinforcedDataset(tmp_path / "part", images)
    assert len(part) == 7
    for index, sample in enumerate(part.samples.tolist()):
        assert part.replay(index, 2).equal(whole.replay(sample, 2))
    some = tmp_path / "some"
    for sample in part.samples.tolist():
        source = next(images.glob(f"{part.store.samples.key(sample)}.*"))
        (some / source.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(source, some / source.parent.name)
    few = ReinforcedDataset(tmp_path / "part", some)
    with pytest.raises(ReplayError, match="mixed with an image that is not here") as error:
        few.set_epoch(0)
    assert "give all of them as --data" in str(error.value)


def test_some_shards_of_a_pack_tell_whose_image_is_not_there(labels: Path, images: Path, tmp_path: Path) -> None:
    pack(ImageFolder.open(images), labels, tmp_path / "shards", Options(shard_bytes=1))
    data = ReinforcedDataset(f"{tmp_path}/shards/shards-00000[0-4].tar")
    assert len(data) < 12
    column, here, told = data.store.spec.column(Field.OTHER), {-1, *data.samples.tolist()}, 0
    for index, sample in enumerate(data.samples.tolist()):
        for view in range(VIEWS):
            if int(data.store.params_of(sample, view)[column]) in here:
                data.replay(index, view)
                continue
            with pytest.raises(ReplayError, match="mixed with an image that is not here"):
                data.replay(index, view)
            told += 1
    assert told > 5


def test_damaged_partners_are_found(labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(labels)
    block, spec = store.block(0), store.spec
    params, ok = block.params(), store.samples_of(0)
    row, view = next((r, v) for r in range(7) for v in range(VIEWS) if params[r, v, spec.column(Field.OTHER)] >= 0)
    from reinforce.verification.sample_checks import bad_params

    def fault(field: int, value: int) -> str | None:
        changed = params[row].copy()
        changed[view, spec.column(field)] = value
        return bad_params(store, "key", changed, store.samples.width_height[ok[row]])

    assert fault(Field.OTHER_LAM, 5) is None
    assert "mixed with sample 24 of 24" in str(fault(Field.OTHER, 24))
    assert "mixed with the crop" in str(fault(128 + Field.CROP_HEIGHT, 999))
    assert "a share" in str(fault(Field.OTHER_LAM, 65537))
    assert "of the other view, a box" in str(fault(128 + Field.ERASE_WIDTH, 999))
    assert "of the other view" in str(fault(128 + 32, 99))
    monkeypatch.setitem(store.samples.__dict__, "status", np.ones(24, np.uint8))
    assert "are not ok" in str(fault(Field.OTHER_LAM, 5))


def test_an_import_without_a_partners_labels_is_refused(files: tuple[Path, Any], images: Path, tmp_path: Path) -> None:
    some = Path(shutil.copytree(files[0], tmp_path / "files"))
    partner = next(v["params"][0] for v in files[1][0] if v["params"][0] not in (None, 0))
    (some / f"{partner}.pth.tar").unlink()
    reader = MlDrReader.open(some, ReadOptions(3, size=SIZE))
    with pytest.raises(StoreError, match="mixed with images that cannot be shown") as error:
        import_labels(reader, ImageFolder.open(images), tmp_path / "out", workers=0)
    assert "no labels were imported for it" in str(error.value)
    assert not (tmp_path / "out").exists()
