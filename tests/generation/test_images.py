"""Images that cannot be used: rows with a reason, and all others are labelled."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reinforce import ReinforcedDataset
from reinforce.errors import StoreError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.views.policy_text import parse_policy
from tests.conftest import SIZE, TEACHER, Cli, make_settings
from tests.generation.conftest import rows_of

pytestmark = pytest.mark.unit


def spoil(images: Path) -> dict[str, tuple[str, str]]:
    """Spoil an indexed folder in the ways of real life: status and a word of the reason, by key."""
    whole = (images / "apple" / "001.jpg").read_bytes()
    (images / "apple" / "001.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "apple" / "002.jpg").write_bytes(bytes(range(256)) * 4)
    (images / "apple" / "003.png").write_bytes((images / "apple" / "003.png").read_bytes()[:100])
    (images / "bread" / "000.jpg").write_bytes(b"")
    (images / "bread" / "001.jpg").write_bytes(b"\xff\xd8\xff garbage")
    (images / "bread" / "002.jpg").unlink()
    (images / "cheese" / "004.jpg").unlink()
    (images / "cheese" / "004.jpg").mkdir()
    (images / "cheese" / "005.jpg").unlink()
    (images / "cheese" / "005.jpg").symlink_to(images / "cheese" / "005.jpg")
    return {
        "apple/001": ("corrupt", "truncated"),
        "apple/002": ("corrupt", "cannot identify image file"),
        "apple/003": ("corrupt", "cannot be decoded"),
        "bread/000": ("corrupt", "cannot identify image file"),
        "bread/001": ("corrupt", "cannot be decoded"),
        "bread/002": ("missing", "No such file or directory"),
        "cheese/004": ("missing", "is no file but a pipe, a device or a folder"),
        "cheese/005": ("missing", "symbolic links"),
    }


@pytest.mark.process
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_become_rows_with_a_reason_and_all_others_are_labelled(
    own_images: Path, store: Path, teacher: Teacher, tmp_path: Path, cli: Cli, workers: int
) -> None:
    source = ImageFolder.open(own_images)
    expected = spoil(own_images)  # behind the back of the index
    out = tmp_path / "out"
    manifest = generate(source, teacher, make_settings(source, teacher), out, Execution(16, workers))
    assert manifest.counts.model_dump() == {"ok": 16, "missing": 3, "corrupt": 5}
    rows, clean = rows_of(out), Store(store)
    assert list(rows) == list(source.keys)
    for index, (key, row) in enumerate(rows.items()):
        status, word = expected.get(key, ("ok", None))
        assert row["status"] == status
        assert (row["reason"] is None) == (word is None)
        assert word is None or word in row["reason"]
        assert "object at 0x" not in (row["reason"] or "")  # equal runs give equal bytes
        assert (row["sha256"] is None) == (status == "missing")
        assert (row["width"] is None) == (row["height"] is None) == (status != "ok")
        assert (row["label"], row["block"], row["row"]) == (source.label(index), *divmod(index, 7))
    opened = Store(out)
    for index, key in enumerate(source.keys):
        block, at = divmod(index, 7)
        if key in expected:
            assert len(opened.block(block).record(at)) == 0
            assert not opened.block(block).params()[at].any()
            assert opened.block(block).probes()[at] == 0
        else:
            assert np.array_equal(opened.block(block).params()[at], clean.block(block).params()[at])
            assert opened.block(block).probes()[at] == clean.block(block).probes()[at]
            for (ids, probs, *_), (_, other, *_) in zip(opened.labels_of(index), clean.labels_of(index), strict=True):
                assert len(ids) == 2
                assert np.allclose(probs, other, atol=1e-3)
    code, text, _ = cli("inspect", out)
    assert code == 0
    assert "samples     16 ok, 3 missing, 5 corrupt" in text
    for key, (_, word) in expected.items():
        line = next(line for line in text.splitlines() if line.startswith("not ok") and f"{key}: " in line)
        assert word in line
    code, text, _ = cli("inspect", out, "--json")
    assert json.loads(text)["not_ok"].keys() == expected.keys()
    assert json.loads(text)["counts"] == {"ok": 16, "missing": 3, "corrupt": 5}
    dataset = ReinforcedDataset(out, source)
    assert len(dataset) == 16
    code, text, err = cli("verify", out, "--data", own_images, "--views", 20, "--workers", 0)
    assert code == 0, text + err
    assert "ok     images and probes: 16 of 16" in text


def test_a_disk_that_fails_while_it_is_read_counts_as_missing(
    images: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ImageFolder.open(images)
    real = ImageFolder.read

    def failing(self: ImageFolder, index: int) -> bytes:
        if index == 9:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, index)

    monkeypatch.setattr(ImageFolder, "read", failing)
    manifest = generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(16, workers=0))
    assert manifest.counts.model_dump() == {"ok": 23, "missing": 1, "corrupt": 0}
    assert rows_of(tmp_path / "out")[source.keys[9]]["reason"] == "Input/output error"


@pytest.mark.process
def test_the_command_says_how_many_images_were_bad(own_images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    (own_images / "bread" / "004.jpg").write_bytes(b"garbage")
    (own_images / "bread" / "005.jpg").unlink()
    (own_images / "bread" / "005.jpg").symlink_to("nowhere")
    arguments = ["generate", "--data", own_images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE]
    code, text, err = cli(*arguments, "--views", 2, "--workers", 1, "--out", tmp_path / "out")
    assert code == 0, err
    assert "22 samples x 2 views, 1 missing, 1 corrupt images" in text
    code, text, _ = cli(*arguments, "--views", 2, "--workers", 1, "--out", tmp_path / "json", "--json")
    assert code == 0
    assert json.loads(text)["counts"] == {"ok": 22, "missing": 1, "corrupt": 1}


def test_a_folder_in_which_no_image_can_be_read_is_an_error(teacher: Teacher, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(b"garbage")
    source = ImageFolder.open(tmp_path / "images")
    with pytest.raises(StoreError, match="No sample could be read"):
        generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(16, workers=0))


def test_a_very_long_image_does_not_end_the_run(own_images: Path, teacher: Teacher, tmp_path: Path) -> None:
    Image.new("RGB", (700, 1), "red").save(own_images / "apple" / "008.png")  # 25 200 pixels wide where its height fits
    source = ImageFolder.open(own_images)
    settings = make_settings(source, teacher, policy=parse_policy("none"))
    manifest = generate(source, teacher, settings, tmp_path / "out", Execution(16, workers=0))
    assert manifest.counts.ok >= 24
