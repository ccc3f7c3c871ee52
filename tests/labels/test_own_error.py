"""The codec's own error, with which `verify --teacher` compares: finite, shown by `inspect`, and refused where it is not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from reinforce import ReinforcedDataset
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.codecs import parse_codec
from reinforce.labels.label_kind import ClassLabels
from reinforce.sharing.card import card
from reinforce.sharing.publication import Licences
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import read_manifest
from reinforce.teachers.teacher import Teacher
from reinforce.verification.verify import verify_labels
from reinforce.views.pixels import ViewMaker
from tests.conftest import Cli, make_settings

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("codec", ["topk:3", "sqrt"])
def test_classes_in_another_order_are_found_even_of_a_teacher_that_is_nearly_certain(
    images: Path, teacher: Teacher, tmp_path: Path, cli: Cli, codec: str
) -> None:
    class Sharp(Teacher):
        infos, device, precision = teacher.infos, teacher.device, "fp32"

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (teacher(images).log() * 400).softmax(dim=1)

    class Rolled(Sharp):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images).roll(1, dims=1)

    source, out, sharp = ImageFolder.open(images), tmp_path / "out", Sharp()
    settings = make_settings(source, teacher, codec=parse_codec(codec).to_dict())
    probs = sharp(torch.stack([ViewMaker(source, settings)[s].pixels[0] for s in range(24)])).numpy()
    assert ((probs > 0) & (probs.astype(np.float16) == 0)).any()  # a half float alone would make it impossible
    manifest = generate(source, sharp, settings, out, Execution(16, workers=0))
    assert manifest.statistics.codec_kl is not None
    assert np.isfinite(manifest.statistics.codec_kl)
    code, text, err = cli("inspect", out)
    assert code == 0, err
    assert f"KL {manifest.statistics.codec_kl:.4f} nats" in text
    dataset = ReinforcedDataset(out, images)
    check = verify_labels(dataset, sharp, views=60, batch_size=16)
    assert not check.failed
    assert check.note.endswith("over 60 views, the same top class in 60")
    assert verify_labels(dataset, Rolled(), views=60, batch_size=16).failed == 1


def test_a_check_that_any_labels_would_pass_fails_and_says_so(
    images: Path, teacher: Teacher, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClassLabels, "distance", lambda self, codec, answers, labels: np.full(len(labels), np.inf))
    check = verify_labels(ReinforcedDataset(store, images), teacher, views=5, batch_size=16)
    assert check.failed == 1
    assert "any labels would pass" in check.failures[0]


def test_an_infinite_error_of_older_data_is_shown(store: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(store, tmp_path / "old")
    path = tmp_path / "old" / "manifest.json"
    path.write_text(re.sub(r'"codec_kl": [^,]+,', '"codec_kl": null,', path.read_text()))
    code, text, err = cli("inspect", tmp_path / "old")
    assert code == 0, err
    assert "KL infinite, top-1 bias" in text
    licences = Licences()
    assert "infinitely many nats" in card(read_manifest(tmp_path / "old"), "old", licences, 1, "here")
