"""A source of one's own: one class, one entry in the registry, and it is recognised, generated from and replayed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from reinforce.sources.folder import ImageFolder
from reinforce.sources.open_source import KINDS, open_source
from reinforce.sources.source import Source, check_index
from reinforce.testing.sources import check_source
from tests.conftest import Cli

pytestmark = pytest.mark.unit


@dataclass(frozen=True)
class Listing(Source):
    """A text file with a key, a class and a path per line."""

    kind = "listing"
    suffix = ".lst"

    @classmethod
    def open(cls, location: str) -> Source:
        rows = [line.split("\t") for line in Path(location).read_text().splitlines()]
        keys, classes, paths = (tuple(column) for column in zip(*rows, strict=True))
        names = tuple(sorted(set(classes)))
        check_index(keys, paths, names)
        return cls(location, keys, tuple(map(names.index, classes)), names, paths)

    def read(self, index: int) -> bytes:
        return Path(self.places[index]).read_bytes()


@pytest.fixture
def listing(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(KINDS, Listing.kind, Listing)
    folder = ImageFolder.open(images)
    rows = [f"{key}\t{key.partition('/')[0]}\t{folder.where(i)}" for i, key in enumerate(folder.keys)]
    path = tmp_path / "images.lst"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_it_is_recognised_by_its_suffix_or_stated(listing: Path, images: Path) -> None:
    folder = ImageFolder.open(images)
    for data in (str(listing), f"listing:{listing}"):
        found = open_source(data)
        assert isinstance(found, Listing)
        assert (found.keys, found.labels, found.class_names) == (folder.keys, folder.labels, folder.class_names)
        assert found.index_sha256() == folder.index_sha256()
        assert [found.read(i) for i in range(len(found))] == [folder.read(i) for i in range(len(folder))]
        assert open_source(found) is found


@pytest.mark.process
def test_labels_made_from_it_replay_from_it_and_from_a_folder(
    listing: Path, images: Path, weights: Path, tmp_path: Path, cli: Cli
) -> None:
    teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 32, "--views", 2, "--workers", 0)
    assert cli("generate", "--data", listing, *teacher, "--out", tmp_path / "labels")[0] == 0
    assert json.loads((tmp_path / "labels" / "manifest.json").read_text())["settings"]["source"]["kind"] == "listing"
    for data in (listing, images):
        code, out, _ = cli("verify", tmp_path / "labels", "--data", data, "--views", 10)
        assert (code, "stripes replayed: 5 of 5; 10 views of " in out) == (0, True)


def test_fetching_is_refused_where_a_kind_does_not_say_how(listing: Path, cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("generate", "--data", listing, "--download", "--teacher", "test_resnet", "--out", tmp_path / "out")
    assert (code, "--download is for data sets of torchvision" in err) == (1, True)


@pytest.mark.process
def test_it_keeps_the_laws(listing: Path) -> None:
    check_source(lambda: open_source(listing))


@dataclass(frozen=True)
class Broken(Listing):
    """Breaks the law that it is named after."""

    law: ClassVar[str] = ""
    reads: ClassVar[list[int]] = []

    @classmethod
    def open(cls, location: str) -> Source:
        cls.reads.append(0)
        made: Any = super().open(location)
        changes: dict[str, dict[str, Any]] = {
            "keys are not unique": {"keys": tuple(made.keys[:1]) * len(made.keys)},
            "labels are not class ids": {"labels": (99,) * len(made.keys)},
            "both not": {"labels": None},
            "another index": {"keys": tuple(f"{len(cls.reads)}{key}" for key in made.keys)},
            "has no samples": {"keys": (), "labels": (), "places": ()},
        }
        return replace(made, **changes.get(cls.law, {}))

    def read(self, index: int) -> bytes:
        self.reads.append(index)
        if self.law == "order of reading" and self.reads[-2] == index + 1:
            return super().read(0)
        return b"text" if self.law == "is no image" and index == 3 else super().read(index)

    def take(self, indices: Sequence[int]) -> Any:
        part = super().take(indices)
        return replace(part, places=part.places[::-1]) if self.law == "other bytes" else part


@pytest.mark.parametrize(
    "law",
    ["", "keys are not unique", "labels are not class ids", "both not", "another index", "has no samples", "order of reading",
     "is no image", "other bytes"],
)  # fmt: skip
def test_a_broken_law_is_named(law: str, listing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Broken, "law", law)
    if not law:
        check_source(lambda: Broken.open(str(listing)), workers=0)
        return
    with pytest.raises(AssertionError, match=law):
        check_source(lambda: Broken.open(str(listing)), workers=0)
