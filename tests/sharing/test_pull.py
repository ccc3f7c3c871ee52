"""Pull: what was published comes back as it was over real servers, also after interruptions, and overwrites nothing."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from reinforce.errors import BusyError, Interrupted, SettingsError, SourceError, StoreError
from reinforce.locks import only_writer
from reinforce.packs.pack import Options, pack
from reinforce.sharing.publish import publish
from reinforce.sharing.publish_pack import pull_pack
from reinforce.sharing.pull import pull
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import committed_blocks
from reinforce.verification.verify import require, verify_store
from tests.conftest import content, run_cli
from tests.forked import Point, command, run
from tests.servers import serve_http, serve_hub, serve_s3
from tests.sharing.conftest import EXTRA, LICENCES

pytestmark = pytest.mark.unit


def test_what_is_pulled_is_what_was_published(whole: Path, published: Path, tmp_path: Path) -> None:
    pulled = pull(str(published), tmp_path / "back")
    there = content(tmp_path / "back")
    assert {k: v for k, v in there.items() if k not in EXTRA} == content(whole)
    assert there.keys() - content(whole).keys() == EXTRA
    assert pulled.fetched <= pulled.total
    require(verify_store(tmp_path / "back"))
    assert pull(str(published), tmp_path / "back").fetched == 0


@pytest.mark.network
@pytest.mark.process
@pytest.mark.parametrize("server", ["http", "s3", "hub"])
def test_the_servers_that_people_have(server: str, whole: Path, published: Path, tmp_path: Path) -> None:
    out = tmp_path / "back"
    if server == "http":
        with serve_http(published) as served:
            pull(served.url, out)
    elif server == "s3":
        with serve_s3("labels") as bucket:
            publish(whole, f"{bucket}/digits", "digits", LICENCES)
            pull(f"{bucket}/digits", out)
    else:
        with serve_hub(tmp_path / "hub") as served:
            hub = {"HF_ENDPOINT": served.url, "HF_TOKEN": "secret", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
            done = run_cli("publish", whole, "--to", "hf://datasets/me/digits", **hub, HF_HUB_DISABLE_XET="1")
            assert done.returncode == 0, done.stderr
            assert sum(method == "PUT" for method, _, _ in served.requests) == 14, "bundles and tables as large files"
            done = run_cli("pull", "hf://datasets/me/digits", "--out", out, **hub, HF_HUB_DISABLE_XET="1")
            assert done.returncode == 0, done.stderr
            refused = run_cli("publish", whole, "--to", "hf://datasets/me/digits", **{**hub, "HF_TOKEN": "wrong"})
            assert refused.returncode == 1
            assert "cannot be written" in refused.stderr
            assert "Traceback" not in refused.stderr
    assert {k: v for k, v in content(out).items() if k not in EXTRA} == content(whole)


# Interruptions


@pytest.mark.network
def test_a_pull_that_broke_off_goes_on_where_it_was(
    published: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reinforce.sources.retry.TRIES", 1)
    out = tmp_path / "back"
    with serve_http(published) as served:
        bundles = sum(len(c) for p, c in content(published).items() if p.endswith(".zip"))
        total = sum(len(c) for c in content(published).values())
        served.broken_after = total - bundles // 2
        with pytest.raises(SourceError, match="cannot be read"):
            pull(served.url, out, jobs=1)
        assert 0 < len(committed_blocks(out)) < 4
        assert not (out / "manifest.json").exists()
        first, served.broken_after, served.sent = committed_blocks(out), None, 0
        pulled = pull(served.url, out, jobs=1)
        asked = {path for _, path, _ in served.requests[-60:]}
        assert asked
        kept = sum(len((published / f"blocks/{b:06d}.{s:03d}.zip").read_bytes()) for b in first for s in range(3))
        assert served.sent == total - kept
        assert pulled.fetched < total
    assert {k: v for k, v in content(out).items() if k not in EXTRA} == content(whole)


HALF = Point("reinforce.sharing.pull:unpack_bundle", after=True)  # the first of the block's three stripes is there
WHOLE = Point("reinforce.sharing.pull:fetch_block", after=True)


@pytest.mark.network
@pytest.mark.process
def test_a_killed_pull_loses_no_committed_block(published: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "back"
    with serve_http(published) as served:
        for there in range(4):
            for at in (HALF, WHOLE):
                code, said = run(command, "pull", served.url, "--out", out, "--jobs", 1, at=at)
                assert code == -signal.SIGKILL, said
                assert len(committed_blocks(out)) == there + (at is WHOLE)
        assert not (out / "manifest.json").exists()
    pull(str(published), out)
    assert {k: v for k, v in content(out).items() if k not in EXTRA} == content(whole)
    require(verify_store(out))


def test_a_block_that_was_removed_is_fetched_again(published: Path, whole: Path, tmp_path: Path) -> None:
    pull(str(published), tmp_path / "back")
    shutil.rmtree(tmp_path / "back" / "blocks" / "000002.zarr")
    pull(str(published), tmp_path / "back")
    assert {k: v for k, v in content(tmp_path / "back").items() if k not in EXTRA} == content(whole)


def test_a_folder_is_not_overwritten(published: Path, store: Path, own_store: Path, tmp_path: Path) -> None:
    before = content(own_store)
    with pytest.raises(SettingsError, match="another data set"):
        pull(str(published), own_store)
    assert content(own_store) == before
    pull(str(published), tmp_path / "part", views=2)
    with pytest.raises(SettingsError, match="another part"):
        pull(str(published), tmp_path / "part", views=4)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match="holds other files"):
        pull(str(published), tmp_path / "other")
    with only_writer(tmp_path / "part"), pytest.raises(BusyError):
        pull(str(published), tmp_path / "part", views=2)
    shutil.rmtree(tmp_path / "part" / "blocks" / "000002.zarr")
    with pytest.raises(SettingsError, match="another data set"):
        pull(str(published), tmp_path / "part")


@pytest.mark.parametrize("error", [KeyboardInterrupt, None], ids=["Ctrl-C", "a damaged shard"])
def test_after_an_error_no_other_file_of_a_pack_is_fetched(error: Any, whole: Path, images: Path, tmp_path: Path) -> None:
    pack(ImageFolder.open(images), whole, tmp_path / "pack", Options(shard_bytes=1_000))
    listed = sorted(p.name for p in (tmp_path / "pack").glob("*.tar"))
    assert len(listed) > 8
    if error is None:
        damaged = bytearray((tmp_path / "pack" / listed[0]).read_bytes())
        damaged[600] ^= 1
        (tmp_path / "pack" / listed[0]).write_bytes(damaged)

    def told(done: int, total: int) -> None:
        if error is not None and done == 3:
            raise error

    text = (tmp_path / "pack" / "pack.json").read_bytes()
    with pytest.raises(StoreError if error is None else Interrupted):
        pull_pack(str(tmp_path / "pack"), text, tmp_path / "back", 1, told)
    here = [p.name for p in (tmp_path / "back").glob("*.tar")]
    assert len(here) < len(listed) // 2, "the rest was not begun"
    assert not (tmp_path / "back" / "pack.json").exists()
    assert not [p for p in (tmp_path / "back").rglob("*") if p.name.endswith(".partial")]
