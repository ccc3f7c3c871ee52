"""Exactness: import says how far replayed views are from those of the authors' loader, and a wrong replay shows in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import transforms as T
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import RandAugment, _apply_op

from reinforce.peers import fkd
from reinforce.peers.peer_pixels import cropped, ml_dr_view, pixels_of
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from tests.conftest import Cli, picture
from tests.peers.label_files import saved, write_ml_dr, write_tinyvit

pytestmark = pytest.mark.unit

OPS = list(RandAugment()._augmentation_space(31, (64, 64)))


def files_of(tmp_path: Path, images: Path) -> Path:
    rng = np.random.default_rng(0)
    for key in ImageFolder.open(images).keys:
        coords = np.concatenate([rng.uniform(0, 0.3, (4, 2)), rng.uniform(0.3, 0.7, (4, 2))], axis=1).astype(np.float32)
        path = tmp_path / "fkd" / f"{key}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved([coords, np.array([True, False] * 2), np.array([0, 1, 2, 0])]))
    return tmp_path / "fkd"


def imported(cli: Cli, tmp_path: Path, images: Path, name: str, files: Path) -> str:
    given = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")
    code, text, err = cli("import", name, files, *given)
    assert code == 0, err
    return text


def test_what_is_measured_is_printed_and_stands_in_the_manifest(images: Path, tmp_path: Path, cli: Cli) -> None:
    text = imported(cli, tmp_path, images, "fkd", files_of(tmp_path, images))
    error = Store(tmp_path / "out").settings.origin.replay_error
    assert str(error) in text
    assert "24 views compared with Pillow" in text
    assert error.mean < 0.2 <= 0.3 > error.worst_view >= error.mean
    assert error.max == 1, "Pillow and torch round some sums differently"
    code, text, _ = cli("inspect", tmp_path / "out")
    assert (code, f"at most {error.max}, in 24 views" in " ".join(text.split())) == (0, True)


def test_a_box_that_is_one_pixel_off_shows(images: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    right = fkd.cut_boxes
    monkeypatch.setattr(fkd, "cut_boxes", lambda *given: right(*given) - np.array([0, 0, 1, 0]))
    imported(cli, tmp_path, images, "fkd", files_of(tmp_path, images))
    error = Store(tmp_path / "out").settings.origin.replay_error
    assert error.mean > 1
    assert error.max > 30


def test_a_manifest_of_before_this_field_is_read(images: Path, tmp_path: Path, cli: Cli) -> None:
    imported(cli, tmp_path, images, "fkd", files_of(tmp_path, images))
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["origin"]["replay_error"]
    path.write_text(json.dumps(manifest))
    assert Store(tmp_path / "out").settings.origin.replay_error is None
    assert cli("inspect", tmp_path / "out")[0] == 0


def test_where_there_are_no_views_this_is_said(images: Path, tmp_path: Path, cli: Cli) -> None:
    write_tinyvit(tmp_path / "tiny", [str(i) for i in range(24)], suffix="")
    text = imported(cli, tmp_path, images, "tinyvit", tmp_path / "tiny")
    assert "no views to replay" in text
    assert "compared" not in text
    (tmp_path / "out").rename(tmp_path / "first")
    for key in ImageFolder.open(images).keys:
        path = tmp_path / "maps" / f"{key}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved(torch.stack([torch.ones(1, 3, 3), torch.zeros(1, 3, 3)])))
    assert "no views to replay" in imported(cli, tmp_path, images, "relabel", tmp_path / "maps")
    assert Store(tmp_path / "out").settings.origin.replay_error is None


def test_views_of_a_kind_that_is_not_known_are_not_measured(
    images: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ml_dr(tmp_path / "labels.tar.gz", ImageFolder.open(images), False)
    monkeypatch.setattr("reinforce.peers.ml_dr.ml_dr_view", lambda *given: None)
    text = imported(cli, tmp_path, images, "imagenet-plus", tmp_path / "labels.tar.gz")
    assert "was not measured: how it makes them is not known here" in text


@pytest.mark.parametrize("flip", [False, True])
def test_a_crop_is_torchvisions_of_a_pillow_image(flip: bool) -> None:
    image = picture(3, 70, 50)
    for top, left, height, width in ((3, 4, 30, 20), (0.5, 1.5, 40.0, 30.0), (0, 0, 50, 70)):
        wanted = F.resized_crop(image, top, left, height, width, [32, 32], InterpolationMode.BILINEAR)
        wanted = F.hflip(wanted) if flip else wanted
        assert np.array_equal(pixels_of(cropped(image, (top, left, height, width), flip, 32)), F.pil_to_tensor(wanted))


@pytest.mark.parametrize("number", range(14))
def test_ml_drs_ops_are_torchvisions_at_both_signs(number: int) -> None:
    image, box = picture(4, 64, 64), (0, 0, 64, 64)
    magnitudes, signed = RandAugment()._augmentation_space(31, (64, 64))[OPS[number]]
    magnitude = float(magnitudes[9]) if magnitudes.ndim else 0.0
    for sign in (1, -1) if signed else (1,):
        wanted = _apply_op(image, OPS[number], sign * magnitude, InterpolationMode.NEAREST, None)
        found = ml_dr_view([box, False, [(number, sign * magnitude), (0, 0.0)], None], image, 64)
        assert found is not None
        assert np.array_equal(found, F.pil_to_tensor(wanted))


def test_ml_drs_views_that_were_mixed_are_not_made() -> None:
    image, box = picture(4), (0, 0, 20, 20)
    alone = ml_dr_view([box, True], image, 16)
    assert alone is not None
    for given in ([None, box, True, None, None], [None, box, True, [(0, 0.0)] * 2, None, None, None]):
        same = ml_dr_view(given, image, 16)
        assert same is not None
        assert np.array_equal(same, alone)
    erased = ml_dr_view([box, True, None, (2, 3, 4, 5)], image, 16)
    assert erased is not None
    assert not erased[:, 2:6, 3:8].any()
    assert np.array_equal(np.where(erased, erased, alone), alone)
    assert ml_dr_view([7, [box] * 2, [False] * 2, 0.3, None], image, 16) is None
    assert ml_dr_view([7, [box] * 2, [False] * 2, [None] * 2, [None] * 2, 0.3, None], image, 16) is None
    assert ml_dr_view([32, (3, 4), True, [(0, 0.0)] * 2, None, None], image, 16) is None


def test_cifars_views_are_windows_of_the_resized_image_with_a_border(monkeypatch: pytest.MonkeyPatch) -> None:
    image, first = picture(5, 32, 32), (30, 5)
    monkeypatch.setattr(T.RandomCrop, "get_params", lambda *given: (*first, 64, 64))
    wanted = F.hflip(T.RandomCrop(64, padding=16)(T.Resize(64)(image)))
    wanted = _apply_op(wanted, "Solarize", 100.0, InterpolationMode.NEAREST, None)
    found = ml_dr_view([64, first, True, [(0, 0.0), (11, 100.0)], None], image, 64)
    assert found is not None
    assert np.array_equal(found, F.pil_to_tensor(wanted))


@pytest.mark.parametrize("error", [TypeError, ValueError, IndexError, OverflowError])
def test_a_view_that_the_authors_library_refuses_is_passed_over(
    images: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Pillow takes 3 and not 3.0, as which `parse` takes it; another view of the sample is compared."""
    right = fkd.FkdReader.peer_view

    def first_refused(self: fkd.FkdReader, content: bytes, view: int, image: Any) -> Any:
        if view == 0:
            raise error("integer argument expected, got float")
        return right(self, content, view, image)

    monkeypatch.setattr(fkd.FkdReader, "peer_view", first_refused)
    assert "24 views compared with Pillow" in imported(cli, tmp_path, images, "fkd", files_of(tmp_path, images))
