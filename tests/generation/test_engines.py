"""Engines: one of one's own is one class and one entry in the registry, and gives the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reinforce.errors import SourceError
from reinforce.files import Progress
from reinforce.generation.engine import Engine, Execution, Work
from reinforce.generation.engines import ENGINES
from reinforce.generation.generate import generate
from reinforce.generation.local_engine import LocalEngine
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import block_path, committed_blocks
from reinforce.teachers.teacher import Teacher
from reinforce.testing.engines import check_engine
from tests.conftest import SIZE, TEACHER, Cli, make_settings

pytestmark = pytest.mark.unit


class Backwards(Engine):
    """The last block first, each by itself."""

    name = "backwards"
    description = "the last block first"

    def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
        settings, total = work.settings, len(work.source)
        done = total - sum(min(settings.block_size, total - block * settings.block_size) for block in missing)
        on_progress(done, total)
        for block in reversed(missing):
            LocalEngine().make_blocks(work, [block], lambda *_: None)
            done += min(settings.block_size, total - block * settings.block_size)
            on_progress(done, total)


class Meddling(Backwards):
    """Makes what is there too."""

    name = "meddling"

    def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
        for block in work.committed():
            shutil.rmtree(block_path(Path(work.place.name), block))
        super().make_blocks(work, list(range(work.settings.num_blocks)), on_progress)


class Reseeding(Backwards):
    """Makes other views."""

    name = "reseeding"

    def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
        changed = work.settings.model_copy(update={"seed": work.settings.seed + 1})
        super().make_blocks(work._replace(settings=changed), missing, on_progress)


class Silent(Backwards):
    """Says nothing of what it does."""

    name = "silent"

    def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
        super().make_blocks(work, missing, lambda *_: None)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    for engine in (Backwards(), Meddling(), Reseeding(), Silent()):
        monkeypatch.setitem(ENGINES, engine.name, engine)


@pytest.mark.parametrize("name", ["local", "backwards"])
def test_an_engine_keeps_the_laws(name: str, registered: None, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    check_engine(name, source, teacher, make_settings(source, teacher, views=2), tmp_path)


@pytest.mark.parametrize(("name", "law"), [
    ("meddling", "which was there"), ("reseeding", "other bytes than the local engine"), ("silent", "progress begins"),
])  # fmt: skip
def test_a_broken_law_is_named(name: str, law: str, registered: None, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    with pytest.raises(AssertionError, match=law):
        check_engine(name, source, teacher, make_settings(source, teacher, views=2), tmp_path)


def test_it_is_chosen_by_its_name(registered: None, images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    given = ("--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE, "--views", 2)
    line = ("generate", *given, "--block-size", 7, "--workers", 0)
    assert cli(*line, "--engine", "backwards", "--out", tmp_path / "a")[0] == 0
    assert cli(*line, "--out", tmp_path / "b")[0] == 0
    for block in committed_blocks(tmp_path / "b"):
        one, other = (block_path(tmp_path / name, block) for name in "ab")
        assert [p.read_bytes() for p in sorted(one.rglob("*.json"))] == [p.read_bytes() for p in sorted(other.rglob("*.json"))]
    code, _, err = cli(*line, "--engine", "sideways", "--out", tmp_path / "c")
    assert code == 2
    assert "There is no engine 'sideways'." in err
    assert "local, ray, backwards" in err
    assert not (tmp_path / "c").exists()


def test_what_an_engine_committed_before_it_failed_is_kept(
    registered: None, images: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, views=2)

    class Failing(Backwards):
        def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
            super().make_blocks(work, missing[-2:], on_progress)
            raise SourceError("The images are gone.")

    monkeypatch.setitem(ENGINES, "failing", Failing())
    with pytest.raises(SourceError):
        generate(source, teacher, settings, tmp_path / "out", Execution(16, 0, "failing"))
    assert committed_blocks(tmp_path / "out") == {settings.num_blocks - 2, settings.num_blocks - 1}
    generate(source, teacher, settings, tmp_path / "out", Execution(16, 0))
    assert (tmp_path / "out" / "manifest.json").exists()
