"""Top rows: a JPEG that is decoded no further than needed has the whole image's pixels there; in doubt it is decoded whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from reinforce.errors import ImageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.epoch_views import ReplayedViews
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.teacher import Teacher
from reinforce.views import decode as decoding
from reinforce.views import top_rows as module
from reinforce.views.apply import apply
from reinforce.views.decode import decode
from reinforce.views.policy_text import parse_policy
from reinforce.views.top_rows import top_rows
from tests.conftest import CLASSES, REAL_DATA, make_settings, picture

pytestmark = pytest.mark.unit


def jpeg(width: int = 90, height: int = 120, mode: Any = "RGB", **options: object) -> bytes:
    sink = io.BytesIO()
    picture(7, width, height).convert(mode).save(sink, "JPEG", **options)
    return sink.getvalue()


def by_pillow(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411", "Gray"])
def test_the_rows_are_those_of_the_whole_image_as_pillow_reads_it(subsampling: Any) -> None:
    rng, stopped = np.random.default_rng(1), 0
    for _ in range(60):
        width, height = rng.integers(4, 150, 2).tolist()
        pixels = np.asarray(picture(int(rng.integers(99)), width, height))
        quality = int(rng.integers(1, 101))
        if subsampling == "Gray":
            encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels[:, :, :1]), quality, "GRAY", "Gray")
        else:
            encoded = simplejpeg.encode_jpeg(pixels, quality, "RGB", subsampling)
        rows = int(rng.integers(1, height + 1))
        found = decode(encoded, rows)
        stopped += len(found) < height
        assert np.array_equal(found[:rows], by_pillow(encoded)[:rows])
    assert stopped > 15


def in_three_scans() -> bytes:
    """One image whose colours come one after the other, made of three grey ones with the same tables."""
    parts = [simplejpeg.encode_jpeg(np.array(picture(i, 40, 80))[:, :, :1].copy(), 80, "GRAY", "Gray") for i in range(3)]
    frame, scan = parts[0].index(b"\xff\xc0"), parts[0].index(b"\xff\xda")
    head = parts[0][:frame] + b"\xff\xc0" + (17).to_bytes(2, "big") + parts[0][frame + 4 : frame + 9] + b"\x03"
    head += b"".join(bytes([i + 1, 0x11, 0]) for i in range(3)) + parts[0][frame + 13 : scan]
    scans = [b"\xff\xda\x00\x08\x01" + bytes([i + 1, 0, 0, 63, 0]) + part[scan + 10 : -2] for i, part in enumerate(parts)]
    return head + b"".join(scans) + b"\xff\xd9"


EXIF = Image.Exif()
EXIF[274] = 6


@pytest.mark.parametrize(
    ("encoded", "stops"),
    [
        (jpeg(), True),
        (jpeg(mode="L"), True),
        (jpeg(keep_rgb=True), True),
        (jpeg(exif=EXIF, comment=b"of a camera", optimize=True), True),
        (jpeg(progressive=True), False),
        (jpeg(mode="CMYK"), False),
        (jpeg(restart_marker_blocks=3), False),
        (in_three_scans(), False),
    ],
)
def test_only_plain_jpegs_are_cut_and_all_have_the_same_pixels(encoded: bytes, stops: bool) -> None:
    found = decode(encoded, 50)
    assert (len(found) < len(by_pillow(encoded))) == stops
    assert np.array_equal(found[:50], by_pillow(encoded)[:50])
    assert found.flags.c_contiguous
    assert found.flags.writeable


@pytest.mark.parametrize("rows", [-(2**31), -1, 0, 112, 120, 121, 2**31])
def test_rows_that_spare_nothing_or_that_there_are_not_give_the_whole_image(rows: int) -> None:
    assert top_rows(jpeg(), rows) is None
    assert np.array_equal(decode(jpeg(), rows), decode(jpeg()))


def outcome(encoded: bytes, rows: int | None = None) -> np.ndarray | str:
    try:
        return decode(encoded, rows)
    except ImageError as error:
        return error.what


@pytest.mark.parametrize("seed", range(4))
def test_damaged_jpegs_give_the_rows_or_the_error_that_they_give_as_a_whole(seed: int) -> None:
    rng, stopped, refused = np.random.default_rng(seed), 0, 0
    for _ in range(200):
        damaged = bytearray(jpeg(subsampling=int(rng.integers(3))))
        at, length = int(rng.integers(2, len(damaged))), int(rng.integers(1, 30))
        match rng.integers(5):
            case 0:
                damaged[at] ^= 1 << int(rng.integers(8))
            case 1:
                damaged[at : at + 2] = 0xFF, int(rng.integers(0xC0, 0x100))
            case 2:
                del damaged[at : at + length]
            case 3:
                damaged[at:at] = rng.bytes(length)
            case _:
                del damaged[at:]
        whole, top = outcome(bytes(damaged)), outcome(bytes(damaged), 60)
        refused += isinstance(whole, str)
        if isinstance(whole, str) or isinstance(top, str):
            assert whole == top
        else:
            stopped += len(top) < len(whole)
            assert np.array_equal(whole[:60], top[:60])
    assert min(stopped, refused) > 20


def test_a_decoder_that_does_not_stop_as_expected_is_given_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    module._stops.cache_clear()
    monkeypatch.setattr(module, "_REST", " other words of a later version")
    try:
        assert top_rows(jpeg(), 50) is None
        assert np.array_equal(decode(jpeg(), 50), by_pillow(jpeg()))
    finally:
        module._stops.cache_clear()


def test_training_reads_the_rows_of_its_crops_and_gets_the_stored_views(
    teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(6):
        folder = tmp_path / "images" / CLASSES[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        picture(i, 150, 200).save(folder / f"{i}.jpg")
    source, read = ImageFolder.open(tmp_path / "images"), []
    settings = make_settings(source, teacher, policy=parse_policy("rrc"))
    generate(source, teacher, settings, tmp_path / "labels", Execution(workers=0))
    dataset = ReinforcedDataset(tmp_path / "labels", source)

    def spy(encoded: bytes, rows: int) -> np.ndarray | None:
        read.append(top_rows(encoded, rows))
        return read[-1]

    monkeypatch.setattr(decoding, "top_rows", spy)
    views = ReplayedViews(dataset)
    views.set_epoch(0)
    for index in range(6):
        image = decode(source.read(index))
        whole = apply(image, dataset.params_of(index)[0], dataset.store.spec)
        assert np.array_equal(views.items(index)[0].image, whole)
        assert np.array_equal(dataset[index][0], whole)
    assert len(read) == 12
    assert sum(rows is not None for rows in read) > 2


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_DATA / "imagenet_sample").is_dir(), reason="no photographs beside the checkout")
def test_photographs() -> None:
    rng, stopped = np.random.default_rng(2), 0
    for path in sorted((REAL_DATA / "imagenet_sample").iterdir()):
        encoded = path.read_bytes()
        whole = by_pillow(encoded)
        for rows in rng.integers(1, len(whole) + 1, 4).tolist():
            found = decode(encoded, rows)
            stopped += len(found) < len(whole)
            assert np.array_equal(found[:rows], whole[:rows])
    assert stopped > 400
