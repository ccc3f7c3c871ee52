"""Publish: what is written for others, that images go only when it is said, and what is not published."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from reinforce.errors import BusyError, ReinforceError, StoreError
from reinforce.packs.pack import Options, pack
from reinforce.sharing.publish import publish
from reinforce.sharing.pull import pull
from reinforce.sharing.target import open_target
from reinforce.sources.folder import ImageFolder
from tests.bad_servers import drop, fail
from tests.conftest import Cli, content, run_cli
from tests.servers import serve_http, serve_hub, serve_s3
from tests.sharing.conftest import LICENCES

pytestmark = pytest.mark.unit


def test_publishing_twice_gives_the_same_bundles(whole: Path, published: Path, tmp_path: Path) -> None:
    publish(whole, str(tmp_path / "again"), "digits", LICENCES)
    first, second = content(published), content(tmp_path / "again")
    for path in first:
        if path not in ("README.md", "croissant.json", "publication.json"):  # they have place and date
            assert first[path] == second[path], path


def test_the_list_has_size_and_hash_of_everything_else(published: Path) -> None:
    about, files = json.loads((published / "publication.json").read_bytes()), content(published)
    listed = dict(about["files"]) | {f"blocks/{b['block']:06d}.{b['stripe']:03d}.zip": b for b in about["bundles"]}
    assert listed.keys() == files.keys() - {"publication.json"}
    for path, entry in listed.items():
        assert entry["bytes"] == len(files[path])
        assert entry["sha256"] == hashlib.sha256(files[path]).hexdigest()
    assert about["licences"] == {"labels": "cc-by-4.0", "images": "their owners'", "teacher": "not stated"}


def test_two_do_not_publish_to_one_folder_at_once(whole: Path, tmp_path: Path) -> None:
    """The unfinished files of both would have the same names."""
    there = tmp_path / "new" / "there"
    target = open_target(str(there))
    with pytest.raises(BusyError, match="is being written"):
        publish(whole, str(there), "digits", LICENCES)
    target.abandon()
    publish(whole, str(there), "digits", LICENCES)
    assert not (there / ".lock").exists()


def test_no_pixels_are_published(published: Path, images: Path) -> None:
    everything = b"".join(content(published).values())
    source = ImageFolder.open(images)
    for i in range(len(source)):
        encoded = source.read(i)
        assert encoded[len(encoded) // 2 :][:32] not in everything
    assert b"\xff\xd8\xff" not in everything
    assert b"\x89PNG" not in everything


def test_a_dry_run_lists_and_writes_nothing(whole: Path, tmp_path: Path, cli: Cli) -> None:
    code, out, _ = cli("publish", whole, "--to", tmp_path / "there", "--dry-run")
    assert code == 0
    assert "blocks/000003.002.zip" in out
    assert "no pixels" in out
    assert not (tmp_path / "there").exists()
    code, out, _ = cli("publish", whole, "--to", tmp_path / "there", "--dry-run", "--json")
    assert {p for p, n in json.loads(out)["files"].items()} >= {"manifest.json", "publication.json", "blocks/000000.000.zip"}


def test_publish_and_pull_on_the_command_line(whole: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("publish", whole, "--to", "place/My Labels!", "--license-labels", "mit")
    assert code == 0
    assert "licences not stated: --license-images, --license-teacher" in out
    assert json.loads(Path("place/My Labels!/publication.json").read_text())["name"] == "my-labels-"
    code, out, _ = cli("pull", "place/My Labels!", "--out", "mine", "--views", 3, "--json")
    assert code == 0
    assert json.loads(out)["views"] == 4
    code, out, _ = cli("pull", "place/My Labels!", "--out", "mine2", "--views", 3)
    assert "`reinforce train --views 3` uses 3 of them" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("publish", "WHOLE", "--to", "https://example.org/x"), "cannot be written to"),
        (("publish", "WHOLE", "--to", "hf://models/me/x"), "no repository of data sets"),
        (("publish", "WHOLE", "--to", "WHOLE"), "onto itself"),
        (("publish", "WHOLE", "--to", "there", "--name", "No Name"), "is no name"),
        (("pull", "nothing-known"), "There is no data set 'nothing-known'"),
        (("pull", "imagenet-plus-rrc"), "reinforce import imagenet-plus"),
        (("pull", "digits-demo"), "reinforce demo"),
        (("pull", "./x", "--blocks", "3-x"), "--blocks 3-x is not valid"),
        (("pull", "WHOLE"), "is here already"),
    ],
)
def test_wrong_usage_is_told(
    arguments: Any, message: str, whole: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(whole.parent)
    code, _, err = cli(*[str(whole) if a == "WHOLE" else a for a in arguments])
    assert (code, message in err) == (2, True), err


def test_a_damaged_data_set_is_not_published(whole: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(whole, tmp_path / "broken"))
    (broken / "blocks/000001.zarr/probes/c/0").write_bytes(b"?" * 28)
    with pytest.raises(StoreError, match="is not the file of the manifest"):
        publish(broken, str(tmp_path / "there"), "x", LICENCES)
    assert not (tmp_path / "there" / "publication.json").exists(), "without the list it is not published"
    with pytest.raises(StoreError, match="No labels are published"):
        pull(str(tmp_path / "there"), tmp_path / "back")
    shutil.copy(tmp_path / "broken/manifest.json", broken / "samples.parquet")
    with pytest.raises(ReinforceError):
        publish(broken, str(tmp_path / "there"), "x", LICENCES)


# With images


@pytest.fixture(scope="module")
def shards(whole: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "pack"
    pack(ImageFolder.open(images), whole, out, Options(shard_bytes=30_000))
    return out


def test_images_go_only_when_it_is_said(shards: Path, whole: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("publish", shards, "--to", tmp_path / "there")
    assert (code, "have images in them" in err) == (2, True)
    code, _, err = cli("publish", whole, "--with-images", "--to", tmp_path / "there")
    assert (code, "no images in" in err) == (2, True)
    code, out, _ = cli("publish", shards, "--with-images", "--dry-run", "--to", tmp_path / "there")
    assert code == 0
    assert "shards-000000.tar" in out
    assert "with the images" in out
    assert not (tmp_path / "there").exists()
    pack(ImageFolder.open(images), None, tmp_path / "plain", Options(shard_bytes=30_000))
    code, _, err = cli("publish", tmp_path / "plain", "--with-images", "--to", tmp_path / "there")
    assert (code, "no labels in" in err) == (2, True)


@pytest.mark.network
@pytest.mark.process
@pytest.mark.parametrize("server", ["folder", "http", "s3"])
def test_shards_go_and_come_whole(server: str, shards: Path, tmp_path: Path, cli: Cli) -> None:
    place = tmp_path / "there"
    with serve_http(tmp_path) as served, serve_s3("shards") as bucket:
        to = f"{bucket}/x" if server == "s3" else place
        code, out, err = cli("publish", shards, "--with-images", "--license-images", "cc0-1.0", "--to", to)
        assert code == 0, err
        assert "with the images" in out
        source = {"folder": place, "http": f"{served.url}/there", "s3": to}[server]
        assert cli("pull", source, "--out", tmp_path / "back")[0] == 0
        assert {k: v for k, v in content(tmp_path / "back").items() if k != "README.md"} == content(shards)
        code, out, _ = cli("pull", source, "--out", tmp_path / "back", "--json")
        assert json.loads(out)["fetched"] == 0
        (tmp_path / "back" / "shards-000001.tar").write_bytes(b"cut")
        code, out, _ = cli("pull", source, "--out", tmp_path / "back", "--json")
        assert json.loads(out)["fetched"] == (shards / "shards-000001.tar").stat().st_size
        code, _, err = cli("pull", source, "--views", 2, "--out", tmp_path / "part")
        assert (code, "Shards can only be pulled whole" in err) == (2, True)
        train = ("--student", "test_vit", "--student-kwargs", "img_size=32", "--epochs", 1, "--batch-size", 6, "--workers", 1)
        code, _, err = cli("train", "--data", f"{source}/shards-000000.tar", *train, "--out", tmp_path / "run")
        assert code == 0, err
    assert cli("verify", tmp_path / "back")[0] == 0
    if server == "folder":
        text = (tmp_path / "back" / "README.md").read_text()
        assert "the images, which are in it: cc0-1.0" in text
        (place / "samples.parquet").write_bytes(b"other")
        code, _, err = cli("pull", place, "--out", tmp_path / "again")
        assert code == 1
        assert "samples.parquet is not the file that was promised" in err
        assert not (tmp_path / "again" / "pack.json").exists()


@pytest.mark.network
@pytest.mark.process
def test_an_upload_to_the_hub_is_tried_again(whole: Path, tmp_path: Path) -> None:
    with serve_hub(tmp_path / "hub") as served:
        hub = {"HF_ENDPOINT": served.url, "HF_TOKEN": "secret", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        served.commits = [fail(500), drop]
        done = run_cli("publish", whole, "--to", "hf://datasets/me/digits", **hub)
        assert done.returncode == 0, done.stderr
        assert not served.commits
        assert (tmp_path / "hub" / "me" / "digits" / "publication.json").exists()
        served.commits = [fail(403)] * 9
        done = run_cli("publish", whole, "--to", "hf://datasets/me/digits", "--name", "other", **hub)
        assert done.returncode == 1
        assert "hf://datasets/me/digits cannot be written" in done.stderr
        assert len(served.commits) == 8, "asked once"
