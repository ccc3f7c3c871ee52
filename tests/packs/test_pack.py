"""Packing: the same bytes each time, also after an interruption; nothing else is overwritten, no name leads elsewhere."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reinforce.errors import ReinforceError, SettingsError, SourceError, StoreError, UsageError
from reinforce.packs.pack import Options, pack
from reinforce.packs.pack_order import escaped, unescaped
from reinforce.sources.folder import ImageFolder
from reinforce.sources.open_source import open_source
from reinforce.sources.pack_manifest import Pack
from reinforce.store.store import Store
from tests.conftest import CLASSES, Cli, content, picture
from tests.packs.conftest import SMALL

pytestmark = pytest.mark.unit


def test_mixed_samples_stand_by_blocks_and_no_block_is_torn(
    packs: Callable[[str], Path], labels: Callable[[str], Path]
) -> None:
    source, store = open_source(packs("mixed")), Store(labels("mixed"))
    assert source.groups is not None
    block_of = {store.samples.key(s): int(store.samples.block[s]) for s in range(24)}
    shards = [{block_of[k] for k, g in zip(source.keys, source.groups, strict=True) if g == n} for n in set(source.groups)]
    assert len(shards) > 1
    assert sum(map(len, shards)) == 4


def test_packing_twice_gives_the_same_bytes(
    packs: Callable[[str], Path], labels: Callable[[str], Path], images: Path, tmp_path: Path
) -> None:
    pack(ImageFolder.open(images), labels("alone"), tmp_path / "again", SMALL)
    assert content(tmp_path / "again") == content(packs("alone"))


def test_an_interrupted_pack_goes_on_and_ends_the_same(
    packs: Callable[[str], Path], labels: Callable[[str], Path], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, source = tmp_path / "again", ImageFolder.open(images)
    calls: list[int] = []

    def stop(done: int, total: int) -> None:
        fresh = done > max(calls, default=0)
        calls.append(done)
        if fresh:
            raise KeyboardInterrupt

    for _ in range(40):
        try:
            pack(source, labels("alone"), out, SMALL, stop)
            break
        except KeyboardInterrupt:
            assert not (out / "pack.json").exists()
    assert len(calls) > 4
    assert content(out) == content(packs("alone"))


def test_a_folder_with_something_else_is_left_alone(
    packs: Callable[[str], Path], labels: Callable[[str], Path], images: Path, tmp_path: Path
) -> None:
    source = ImageFolder.open(images)
    before = content(packs("alone"))
    for again in (SMALL, Options(shard_bytes=10_000)):
        with pytest.raises(SettingsError, match="has another pack"):
            pack(source, labels("alone"), packs("alone"), again)
    assert content(packs("alone")) == before
    with pytest.raises(StoreError, match="holds other files"):
        pack(source, None, labels("alone"), SMALL)
    with pytest.raises(UsageError, match="Labels belong to the images as they were"):
        pack(source, labels("alone"), tmp_path / "x", Options(resize=32))
    assert not (tmp_path / "x").exists()


def test_changed_and_missing_images_are_not_packed_with_labels(
    labels: Callable[[str], Path], own_images: Path, tmp_path: Path
) -> None:
    picture(99).save(own_images / "apple" / "000.jpg")
    with pytest.raises(ReinforceError, match="is not the one that the teacher saw"):
        pack(ImageFolder.open(own_images), labels("alone"), tmp_path / "a", SMALL)
    (own_images / "apple" / "000.jpg").unlink()
    with pytest.raises(SourceError, match="are not in"):
        pack(ImageFolder.open(own_images), labels("alone"), tmp_path / "b", SMALL)
    gone = ImageFolder.open(own_images)
    (own_images / "apple" / "001.jpg").unlink()
    with pytest.raises(SourceError, match="apple/001 cannot be read"):
        pack(gone, None, tmp_path / "c", SMALL)


def test_images_alone_are_packed_smaller_and_are_a_new_source(tmp_path: Path, weights: Path, cli: Cli) -> None:
    root = tmp_path / "images"
    for c, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(3):
            picture(3 * c + i, 300, 200 + 50 * i).save(root / name / f"{i}.v1.jpg")
    (root / "apple" / "small.png").write_bytes(_png(picture(50, 20, 30)))
    (root / "bread" / "broken.jpg").write_bytes(b"\xff\xd8\xff no image")
    code, out, _ = cli("pack", "--data", root, "--out", tmp_path / "packed", "--resize", 64, "--quality", 80)
    assert code == 0
    before, after = ImageFolder.open(root), open_source(tmp_path / "packed")
    assert sorted(after.keys) == sorted(before.keys), "dots in names survive"
    for index, key in enumerate(after.keys):
        was = before.read(before.keys.index(key))
        if "small" in key or "broken" in key:
            assert after.read(index) == was
            continue
        image = Image.open(io.BytesIO(after.read(index)))
        assert min(image.size) == 64
        assert image.format == "JPEG"
        assert after.read(index) != was
    assert after.labels is not None
    assert after.class_names == CLASSES
    teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 32, "--views", 2, "--workers", 0)
    code, out, _ = cli("generate", "--data", tmp_path / "packed", *teacher, "--out", tmp_path / "labels")
    assert code == 0
    assert "10 samples x 2 views, 0 missing, 1 corrupt" in out
    code, out, _ = cli("inspect", tmp_path / "packed")
    assert "11 images, shorter side 64 pixels" in out
    assert cli("verify", tmp_path / "packed")[0] == 0


def _png(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


@given(st.text(st.characters(exclude_characters="/", codec="utf-8"), min_size=1))
def test_any_key_survives_as_a_name(key: str) -> None:
    assert unescaped(escaped(f"a.b/{key}")) == f"a.b/{key}"
    assert "." not in escaped(key)


@pytest.mark.parametrize("key", ["../a", "/a", "a//b", "./a", "a/../b", ".."])
def test_keys_that_lead_elsewhere_are_not_written(key: str, images: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    source = ImageFolder.open(images)
    with pytest.raises(SourceError, match="no name for a member"):
        pack(replace(source, keys=(key, *source.keys[1:])), None, tmp_path / "out", SMALL)


def test_the_keys_of_the_manifest_stand_on_the_page() -> None:
    text = (Path(__file__).parents[2] / "reinforce" / "FORMAT.md").read_text()
    for key in Pack.model_fields:
        assert f"| `{key}` |" in text[text.index("## Packs") :]


def test_all_folders_of_a_pack_are_synced_before_its_list_is_there(
    labels: Callable[[str], Path], images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by the power cuts: the list could last longer than the folder of pairs that it names."""
    out, synced = tmp_path / "out", [set[str]()]
    fsync, replace = os.fsync, os.replace  # noqa: TID251 - to see when they are called

    def noting(handle: int) -> None:
        fsync(handle)
        if Path(f"/proc/self/fd/{handle}").readlink() == out:
            synced.append({p.name for p in out.iterdir()})

    def listing(old: Path, new: Path) -> None:
        if Path(new).name == "pack.json":
            assert "mixing" in synced[-1]
            synced.append({"done"})
        replace(old, new)

    monkeypatch.setattr("os.fsync", noting)
    monkeypatch.setattr("os.replace", listing)
    pack(ImageFolder.open(images), labels("mixed"), out, Options())
    assert {"done"} in synced
