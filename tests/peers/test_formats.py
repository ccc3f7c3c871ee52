"""A format of someone else's: one class, one entry in the registry, and its labels come in; one function, and they go out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reinforce.errors import StoreError
from reinforce.labels.topk import TopK
from reinforce.peers.formats import READERS, WRITERS
from reinforce.peers.reader import PeerEntry, PeerViews, Reader, ReadOptions, bad_labels, check_top, top_of
from reinforce.settings import Origin
from reinforce.sources.folder import ImageFolder
from reinforce.store.label_store import LabelStore
from reinforce.store.store import Store
from reinforce.views.draw import draw
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import view_rng
from tests.conftest import Cli

pytestmark = pytest.mark.unit


class LinesReader(Reader):
    """A JSON line per image: its key, class ids and probabilities of the whole image."""

    format = "lines"
    codec = TopK(2)
    policy = parse_policy("whole")
    views = 1

    def __init__(self, path: Path, given: ReadOptions) -> None:
        if not path.is_file():
            raise StoreError(f"There are no labels in {path}.", expected="a file of lines", fix="check the path")
        self.path, self.num_classes, self.size, self.teachers = path, given.num_classes, given.size, given.names
        self.origin = Origin(format=self.format, pixels="the whole image", replay="approximate", options={})

    @classmethod
    def open(cls, path: Path, given: ReadOptions) -> Reader:
        return cls(path, given)

    def entries(self) -> Iterator[PeerEntry]:
        for line in self.path.read_text().splitlines():
            yield PeerEntry(json.loads(line)["key"], line.encode())

    def parse(self, content: bytes, width: int, height: int) -> PeerViews:
        found = json.loads(content)
        if len(found["ids"]) != 2:
            raise bad_labels(f"{len(found['ids'])} classes")
        ids, probs = check_top(np.array([found["ids"]]), np.array([found["probs"]]), self.num_classes)
        return PeerViews(draw(view_rng(0, 0, 0), self.policy, self.size, width, height)[None], TopK(2).pack(ids, probs, 3))


def lines_of(store: LabelStore, k: int) -> Iterator[tuple[str, bytes]]:
    """All of it in one file."""
    rows = []
    for sample in store.ok_samples.tolist():
        ids, probs = top_of(store.label_of(sample, 0), k, store.settings.num_classes)
        rows.append(json.dumps({"key": store.samples.key(sample), "ids": ids.tolist(), "probs": probs.tolist()}))
    yield "labels.jsonl", "\n".join(rows).encode()


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, LinesReader.format, LinesReader)
    monkeypatch.setitem(WRITERS, LinesReader.format, lines_of)


def test_labels_come_in_are_learnt_from_and_go_out(registered: None, images: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [{"key": key, "ids": [2, i % 2], "probs": [0.75, 0.1875]} for i, key in enumerate(ImageFolder.open(images).keys)]
    (tmp_path / "labels.jsonl").write_text("\n".join(map(json.dumps, rows)))
    out = tmp_path / "out"
    given = ("--data", images, "--num-classes", 3, "--size", 32, "--workers", 0)
    code, _, err = cli("import", "lines", tmp_path / "labels.jsonl", *given, "--out", out)
    assert code == 0, err
    assert Store(out).settings.origin == Origin(format="lines", pixels="the whole image", replay="approximate", options={})
    run = ("--student", "test_resnet", "--data", images, "--labels", out, "--epochs", 1, "--batch-size", 8, "--workers", 0)
    assert cli("train", *run, "--out", tmp_path / "run")[0] == 0
    assert cli("export", out, "--format", "lines", "--topk", 2, "--out", tmp_path / "back")[0] == 0
    assert [json.loads(line) for line in (tmp_path / "back" / "labels.jsonl").read_text().splitlines()] == rows


def test_an_unknown_format_is_wrong_usage(images: Path, store: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("import", "lines", store, "--data", images, "--out", tmp_path / "out")
    assert (code, "expected:     imagenet-plus, fkd, tinyvit, relabel" in err) == (2, True), err
    code, _, err = cli("export", store, "--format", "lines", "--out", tmp_path / "out")
    assert (code, "expected:     ml-dr, fkd" in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_unknown_labels_are_wrong_usage(images: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("generate", "--data", images, "--teacher", "test_resnet", "--labels", "words", "--out", tmp_path / "out")
    assert (code, "There are no labels 'words'." in err) == (2, True), err
