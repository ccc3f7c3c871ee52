"""A kind of labels that are no distributions: a vector per view, from the teacher to a training batch, defined in this file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from reinforce.errors import LabelError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.box import Box
from reinforce.labels.codec import Codec, damaged
from reinforce.labels.codecs import CODECS
from reinforce.labels.label_kind import LABEL_KINDS, LabelKind, Labeller
from reinforce.policy import Policy
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.drawn_labels import CropLabels
from reinforce.replay.epoch_views import FreshViews, ReplayedViews
from reinforce.replay.loader import batch_plan, batches, partners
from reinforce.settings import Settings
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.train.losses import LossWeights
from reinforce.train.tasks import ReplayTask
from reinforce.verification.verify import verify_labels, verify_store
from reinforce.views.policy_text import parse_policy
from tests.conftest import SIZE, make_settings
from tests.train.batch import CPU, student

pytestmark = pytest.mark.process  # whose batches come from a worker


@dataclass(frozen=True)
class Rows:
    """Vectors of a batch: float16 `[B, D]`."""

    rows: torch.Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> Rows:
        return Rows(self.rows.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Rows:
        return Rows(self.rows.pin_memory())

    def dense(self) -> torch.Tensor:
        return self.rows.float()


@dataclass(frozen=True)
class Halves(Codec):
    """Vectors as half floats, `f2 [V, D]`."""

    name: ClassVar[str] = "halves"
    form: ClassVar[str] = "halves"
    labels: ClassVar[str] = "embeddings"
    description: ClassVar[str] = "vectors as half floats"

    @classmethod
    def parse(cls, option: str) -> Codec:
        return cls()

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> Codec:
        return cls()

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name}

    def encode(self, answers: np.ndarray) -> bytes:
        return answers.astype("<f2").tobytes()

    def decode(self, record: memoryview | bytes, view: int, num_views: int, num_classes: int) -> np.ndarray:
        return self.decode_all(record, num_views, num_classes)[view]

    def decode_all(self, record: memoryview | bytes, num_views: int, num_classes: int) -> list[np.ndarray]:
        if len(record) % (2 * num_views):
            raise damaged("A record has the wrong length.", f"{len(record)} bytes", f"a vector for each of {num_views} views")
        return list(np.frombuffer(record, "<f2").reshape(num_views, -1))

    def decode_crops(self, record: memoryview | bytes, boxes: Sequence[Box], num_classes: int) -> list[np.ndarray]:
        return [np.float16(box.bottom - box.top) * self.decode_all(record, 1, num_classes)[0] for box in boxes]


class Embeddings(LabelKind):
    """What the teacher's head gets of a view."""

    name = "embeddings"
    codec, policy, views = "halves", "rrc", 3
    unit = "views"
    of_any_crop = False
    distance_name = "squared distance"

    def asked(self, teacher: Any) -> Labeller:
        (member,) = teacher.members
        return lambda images: member.model.forward_head(member.features(images), pre_logits=True).detach()

    def about(self, settings: Settings) -> str:
        return f"embeddings of {settings.views} views"

    def fault(self, policy: Policy, views: int, teachers: int) -> str | None:
        return None if teachers == 1 else "embeddings are of one teacher"

    def collate(self, labels: Sequence[np.ndarray], num_classes: int) -> Rows:
        return Rows(torch.from_numpy(np.stack(labels)))

    def mixed(self, own: np.ndarray, other: np.ndarray, share: float, num_classes: int) -> np.ndarray:
        return (share * own.astype(np.float32) + (1 - share) * other).astype(np.float16)

    def label_fault(self, label: np.ndarray) -> str | None:
        return None if np.isfinite(label).all() else "an embedding that is no number"

    def distance(self, codec: Codec, answers: np.ndarray, labels: Sequence[np.ndarray]) -> np.ndarray:
        return ((answers - np.stack(labels).astype(np.float64)) ** 2).sum(axis=1)


@pytest.fixture(scope="module")
def registered() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CODECS, Halves.name, Halves)
        patch.setitem(LABEL_KINDS, Embeddings.name, Embeddings())
        yield


@pytest.fixture(scope="module")
def embeddings(registered: Any, images: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Embeddings of views, of views that are mixed, and of one view of the whole image."""
    source, found = ImageFolder.open(images), {}
    for name, policy, views in (("rrc", "rrc", 3), ("usi", "usi", 3), ("whole", "whole", 1)):
        found[name] = tmp_path_factory.mktemp("embeddings") / name
        settings = make_settings(source, teacher, codec={"name": "halves"}, views=views, policy=parse_policy(policy))
        generate(source, teacher, settings, found[name], Execution(16, workers=0))
    return found


def said_by(teacher: Teacher, images: torch.Tensor) -> torch.Tensor:
    return Embeddings().asked(teacher)(images).half().float()


@pytest.mark.parametrize("name", ["rrc", "usi", "whole"])
def test_they_are_stored_and_verified(embeddings: dict[str, Path], images: Path, teacher: Teacher, name: str) -> None:
    root = embeddings[name]
    assert [check.failed for check in verify_store(root)] == [0, 0, 0, 0]
    dataset = ReinforcedDataset(root, images)
    check = verify_labels(dataset, teacher, 20, 8)
    assert not check.failed
    assert "squared distance" in check.note
    assert "nats" not in check.note
    image, label, _ = dataset[3]
    assert torch.allclose(label, said_by(teacher, image[None])[0], atol=1e-3)
    statistics = Store(root).manifest.statistics
    assert statistics.top1_probability is None
    assert statistics.hard_label_agreement is None
    assert statistics.codec_samples == 0


def test_others_are_found_by_check_and_teacher(
    embeddings: dict[str, Path], images: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Halves, "decode_all", lambda self, record, *shape: list(np.full((shape[0], 4), np.nan, np.float16)))
    labels = verify_store(embeddings["rrc"])[-1]
    assert "an embedding that is no number" in labels.failures[0]
    monkeypatch.undo()
    monkeypatch.setattr(
        Embeddings, "asked", lambda self, teacher, asked=Embeddings.asked: lambda x: asked(self, teacher)(255 - x)
    )
    assert verify_labels(ReinforcedDataset(embeddings["rrc"], images), teacher, 20, 8).failed


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["rrc", "usi"])
def test_a_training_batch_has_what_the_teacher_says_of_its_views(
    embeddings: dict[str, Path], images: Path, teacher: Teacher, name: str, workers: int
) -> None:
    views = ReplayedViews(ReinforcedDataset(embeddings[name], images))
    views.set_epoch(1)
    plan = batch_plan(0, 1, len(views), 8, partners(views.mixing))
    task = ReplayTask(student(), LossWeights(), CPU)
    for pixels, targets in batches(views, plan, workers=workers):
        expected = said_by(teacher, pixels)
        assert targets.soft.rows.dtype == torch.float16
        assert torch.allclose(task.soft_of(pixels, targets.to(CPU)), expected, atol=2e-3 * float(expected.abs().max()))


def test_drawn_views_are_labelled_and_mixed_as_the_kind_says(embeddings: dict[str, Path], images: Path) -> None:
    dataset = ReinforcedDataset(embeddings["whole"], images)
    policy = parse_policy("rrc:mixup=0.8,mixup_prob=1.0")
    views = FreshViews(dataset.source, dataset.source_index, CropLabels(dataset), policy, SIZE, 3, decoded=dataset.decoded)
    views.set_epoch(0)
    assert views.mixing is not None
    (mixing,) = views.mixing
    for samples, (_, targets) in zip(
        plan := batch_plan(0, 0, len(views), 8, mixing.partner), batches(views, plan, workers=1), strict=True
    ):
        for row, sample in enumerate(samples.tolist()):
            own, other = (views.items(s)[0].soft.astype(np.float32) for s in (sample, int(mixing.partner[sample])))
            share = float(targets.share[row])
            assert np.allclose(targets.soft.dense()[row], share * own + (1 - share) * other, rtol=2e-3, atol=1e-3)


def test_a_codec_without_labels_of_crops_says_so(store: Path) -> None:
    with pytest.raises(LabelError, match="labels of the stored views"):
        Store(store).crop_labels_of(0, [Box(0, 0, 1, 1)])
