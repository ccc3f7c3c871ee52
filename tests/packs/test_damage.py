"""Damage: packs tell where they were changed, and a manifest that could not be ours is refused."""

from __future__ import annotations

import copy
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reinforce.errors import ReinforceError, StoreError
from reinforce.files import file_sha256
from reinforce.packs.packed_store import PackedStore
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sources.location import File
from reinforce.sources.open_source import open_source
from reinforce.verification.verify import verify_pixels
from reinforce.verification.verify_pack import verify_pack
from tests.conftest import Cli
from tests.packs.conftest import open_shards

pytestmark = pytest.mark.unit


@pytest.fixture
def own(packs: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(packs("mixed"), tmp_path / "own"))


def failures(root: Path) -> str:
    try:
        checks = verify_pack(open_shards(root))
        if not any(c.failed for c in checks):
            checks += verify_pixels(ReinforcedDataset(root, check=False), 0, 0)
    except ReinforceError as error:
        return str(error)
    return "\n".join(failure for check in checks for failure in check.failures)


FILES = ("shards-000000.tar", "shards-000001.tar", "index.parquet", "samples.parquet", "class_names.json")


@pytest.mark.parametrize("path", [*FILES, "mixing/000001.001.bin"])
def test_one_changed_byte_is_found(path: str, own: Path) -> None:
    assert failures(own) == ""
    content = bytearray((own / path).read_bytes())
    content[len(content) // 2] ^= 1
    (own / path).write_bytes(content)
    assert Path(path).name in failures(own)


def test_a_missing_or_cut_shard_is_found(own: Path) -> None:
    whole = (own / "shards-000001.tar").read_bytes()
    (own / "shards-000001.tar").write_bytes(whole[:-512])
    with pytest.raises(StoreError, match="not a shard of the pack"):
        open_source(own)
    (own / "shards-000001.tar").write_bytes(whole)
    (own / "foreign.tar").write_bytes(whole)
    with pytest.raises(StoreError, match="not a shard of the pack"):
        open_source(own)


def test_a_shard_that_is_not_there_is_missed_unless_others_are_named(own: Path, cli: Cli) -> None:
    (own / "shards-000001.tar").unlink()
    with pytest.raises(StoreError, match=r"1 of \d+ shards of the pack are missing(.|\n)*no shards-000001.tar"):
        open_source(own)
    with pytest.raises(StoreError, match="shards of the pack are missing"):
        ReinforcedDataset(own, check=False)
    code, text, _ = cli("verify", own)
    assert code == 1
    assert "shards-000001.tar: missing" in text
    assert len(open_source(f"{own}/shards-000000.tar")) < 24


def test_an_index_with_other_counts_than_the_list_is_refused(own: Path) -> None:
    about = json.loads((own / "pack.json").read_bytes())
    about["shards"][0]["samples"] += 1
    about["shards"][1]["samples"] -= 1
    (own / "pack.json").write_text(json.dumps(about))
    assert "index.parquet is damaged" in failures(own)


def test_a_sample_that_was_swapped_is_found_when_it_is_read(own: Path) -> None:
    """Hashes forged all along: the sample says itself where it belongs, and the image's hash is in the table."""
    from reinforce.sources.pack_folder import PackFolder

    source = open_shards(own)
    assert source.groups is not None
    store = PackedStore(source)
    first, second = [s for s in store.ok_samples.tolist() if source.groups[store.positions[s]] == 0][:2]
    a, b = int(store.positions[first]), int(store.positions[second])
    swapped = source.places.copy()
    swapped[[a, b], 3:] = source.places[[b, a], 3:]
    object.__setattr__(source, "places", swapped)
    with pytest.raises(StoreError, match="is of another data set"):
        PackedStore(source).labels_of(first)
    assert isinstance(source.pack, PackFolder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["files"].update({"../evil": "0" * 64}), "is no path of a pack"),
        (lambda a: a["shards"][0].update(name="../evil.tar"), "pack.json is not valid"),
        (lambda a: a["shards"][0].update(name="a/b.tar"), "pack.json is not valid"),
        (lambda a: a["shards"].append(a["shards"][0]), "shards with one name"),
        (lambda a: a.update(num_samples=3), "another number of samples"),
        (lambda a: a["files"].pop("samples.parquet"), "labels without their table"),
        (lambda a: a["files"].pop("index.parquet"), "index.parquet is not listed"),
        (lambda a: a["files"].pop("class_names.json"), "3 classes, and no class_names.json"),
        (lambda a: a["files"].pop("mixing/000001.001.bin"), "11 files of pairs, expected 12"),
        (lambda a: a["labels"]["counts"].update(ok=23, missing=1), "24 samples in the shards, 23 with labels"),
        (lambda a: a["labels"]["settings"]["source"].update(num_samples=1 << 31), "24 samples by status, 2147483648 in all"),
        (lambda a: a["labels"]["files"].update({"samples.parquet": "0" * 64}), "another samples.parquet"),
        (lambda a: a["labels"]["settings"].update(codec={"name": "pickle"}), "codec is not one"),
        (lambda a: a["labels"].update(params_fields=[1, 2, 3, 999]), "params layout"),
        (lambda a: a.update(more=1), "pack.json is not valid"),
    ],
)
def test_a_manifest_that_could_not_be_ours_is_refused(change: Any, message: str, own: Path) -> None:
    about = json.loads((own / "pack.json").read_bytes())
    change(about)
    (own / "pack.json").write_text(json.dumps(about))
    assert message in failures(own)


def renamed(tar: bytes, place: tarfile.TarInfo, name: str) -> bytes:
    """The same tar with another name in one header."""
    changed = copy.copy(place)
    changed.name = name
    return tar[: place.offset] + changed.tobuf(tarfile.USTAR_FORMAT) + tar[place.offset + 512 :]


def doubled(tar: bytes, members: list[tarfile.TarInfo]) -> bytes:
    """The same tar with its first sample once more at its end."""
    first = [m for m in members if m.name.partition(".")[0] == members[0].name.partition(".")[0]]
    start, stop = first[0].offset, members[len(first)].offset
    end = members[-1].offset_data + -(-members[-1].size // 512) * 512
    return tar[:end] + tar[start:stop] + tar[end:]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tar, members: renamed(tar, members[0], "../../evil.jpg"), "the index has other places"),
        (lambda tar, members: renamed(tar, members[0], "/etc/passwd.jpg"), "the index has other places"),
        (lambda tar, members: renamed(tar, members[0], "elses/image.jpg"), "the index has other places"),
        (doubled, "is not a shard that can be read"),
    ],
    ids=["outside", "absolute", "another", "twice"],
)
def test_a_hostile_tar_with_a_pack_beside_it_is_not_believed(change: Any, message: str, own: Path) -> None:
    """The index says where members lie, and its hashes can be forged; `verify` reads the headers too."""
    shard = own / "shards-000000.tar"
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
    shard.write_bytes(change(shard.read_bytes(), members))
    about = json.loads((own / "pack.json").read_bytes())
    about["shards"][0].update(sha256=file_sha256(shard), bytes=shard.stat().st_size)
    (own / "pack.json").write_text(json.dumps(about))
    assert message in failures(own)


def rehashed(own: Path, path: str, content: bytes) -> None:
    (own / path).write_bytes(content)
    about = json.loads((own / "pack.json").read_bytes())
    about["files"][path] = file_sha256(own / path)
    (own / "pack.json").write_text(json.dumps(about))


def test_a_damaged_page_of_the_index_is_told_whatever_its_hash(own: Path) -> None:
    whole, refused = (own / "index.parquet").read_bytes(), []
    for place in range(4, 400, 7):
        rehashed(own, "index.parquet", whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            open_source(own)
        except ReinforceError as error:
            refused.append(error.what)
    assert "index.parquet is damaged." in refused


@pytest.mark.parametrize("path", [*FILES[2:], "mixing/000001.001.bin"])
def test_a_file_beside_the_shards_that_is_too_long_is_not_read(path: str, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(own / path, 9 << 30)  # a hole, of which the disk has nothing
    read = File.read

    def small(self: File, offset: int = 0, length: int | None = None) -> bytes:
        assert (self.size if length is None else length) < 1 << 20, "it is read before its length is looked at"
        return read(self, offset, length)

    monkeypatch.setattr(File, "read", small)
    assert f"{9 << 30} bytes; at most" in failures(own)


def test_more_samples_than_a_shard_has_room_for_are_refused(own: Path) -> None:
    about = json.loads((own / "pack.json").read_bytes())
    about["shards"][0]["samples"] = about["shards"][0]["bytes"] // 512 + 1
    (own / "pack.json").write_text(json.dumps(about))
    assert "each has a header of 512" in failures(own)
