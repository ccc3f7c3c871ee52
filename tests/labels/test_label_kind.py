"""A kind of labels of one's own: what is asked of the teacher, what goes with it, and what is said of it, in one class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from reinforce.errors import StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.codec import Codec
from reinforce.labels.codecs import CODECS
from reinforce.labels.label_kind import LABEL_KINDS, Asked, ClassLabels, LabelKind, Labeller, kind_of
from reinforce.labels.topk import KeepsK, TopK
from reinforce.policy import Policy
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.settings import Settings
from reinforce.sharing.card import summary_line
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from tests.conftest import make_settings

pytestmark = pytest.mark.unit


class Smoothed(ClassLabels):
    """Half of what the teacher says, the rest spread over all classes; of a few views."""

    name = "smoothed"
    codec, policy, views = "half:3", "rrc", 2
    unit = "views"
    of_any_crop = False

    def asked(self, teacher: Asked) -> Labeller:
        return lambda images: (teacher(images) + torch.full((1, 3), 1 / 3)) / 2

    def about(self, settings: Settings) -> str:
        return f"smoothed labels of {settings.views} views"

    def fault(self, policy: Policy, views: int, teachers: int) -> str | None:
        return None if views <= 3 else "smoothed labels are of three views at most"


@dataclass(frozen=True)
class Half(KeepsK):
    """TopK under another name."""

    name: ClassVar[str] = "half"
    form: ClassVar[str] = "half:K"
    labels: ClassVar[str] = "smoothed"

    def encode(self, answers: np.ndarray) -> bytes:
        return TopK(self.k).encode(answers)

    def decode(self, *given: Any) -> Any:
        return TopK(self.k).decode(*given)

    def decode_all(self, *given: Any) -> Any:
        return TopK(self.k).decode_all(*given)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, Half.name, Half)
    monkeypatch.setitem(LABEL_KINDS, Smoothed.name, Smoothed())


def test_it_is_asked_stored_told_and_replayed(registered: None, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, codec={"name": "half", "k": 3}, views=2)
    manifest = generate(source, teacher, settings, tmp_path / "labels", Execution(16, workers=0))
    assert "smoothed labels of 2 views" in summary_line(manifest)
    dataset = ReinforcedDataset(tmp_path / "labels", images)
    image, label, _ = dataset[3]
    assert torch.allclose(label, (teacher(image[None])[0] + 1 / 3) / 2, atol=2e-3)
    assert Store(tmp_path / "labels").kind.name == "smoothed"


def test_what_does_not_go_with_it_is_refused_before_it_is_complete(
    registered: None, images: Path, teacher: Teacher, tmp_path: Path
) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, codec={"name": "half", "k": 3}, views=4)
    with pytest.raises((ValueError, StoreError), match="three views at most"):
        generate(source, teacher, settings, tmp_path / "labels", Execution(16, workers=0))
    assert not (tmp_path / "labels" / "manifest.json").exists()


def test_every_codec_stores_a_kind_that_there_is() -> None:
    for name, codec in CODECS.items():
        assert kind_of({"name": name}) is LABEL_KINDS[codec.labels]
    for kind in LABEL_KINDS.values():
        assert codec_of(kind).labels == kind.name
    assert kind_of({"name": "of tomorrow"}) is LABEL_KINDS["views"]


def codec_of(kind: LabelKind) -> type[Codec]:
    return CODECS[kind.codec.partition(":")[0]]
