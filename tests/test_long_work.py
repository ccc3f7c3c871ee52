"""Work that takes long is shown to whoever listens, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reinforce import long_work as work
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.long_work import listen, long_work
from reinforce.sources.folder import ImageFolder
from reinforce.sources.open_source import open_source
from reinforce.teachers.teacher import Teacher
from tests.conftest import make_settings
from tests.sources.writers import write_shards

pytestmark = pytest.mark.unit
Told = list[tuple[object, ...]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What is shown while it is tested; all work counts as long."""
    shown: Told = []
    monkeypatch.setattr(work, "PATIENCE_S", 0.0)
    listen(lambda name, unit: lambda done, total: shown.append((name, unit, done, total)))
    yield shown
    listen(None)


def test_short_work_is_not_shown_nor_is_any_to_nobody(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "PATIENCE_S", 100.0)
    long_work("work", "steps")(1, 2)
    monkeypatch.setattr(work, "PATIENCE_S", 0.0)
    long_work("work", "steps")(2, 2)  # it is done already
    assert not told
    listen(None)
    long_work("work", "steps")(1, 2)
    assert not told


def test_what_is_shown_is_shown_to_its_end(told: Told) -> None:
    tell = long_work("work", "steps")
    for done in range(3):
        tell(done, 2)
    assert told == [("work", "steps", 0, 2), ("work", "steps", 1, 2), ("work", "steps", 2, 2)]


def test_the_first_look_at_shards_is_shown(told: Told, images: Path, tmp_path: Path) -> None:
    open_source(write_shards(ImageFolder.open(images), tmp_path / "wds", per_shard=8))
    assert told == [("index", "shards", done, 3) for done in (1, 2, 3)]


def test_the_end_of_stage_one_is_shown(told: Told, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(64, 0))
    assert [each for each in told if each[0] == "finish"] == [("finish", "blocks", done, 4) for done in range(4)]
