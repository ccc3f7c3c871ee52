"""S3: throttled, wrong, and killed between requests; what is there is whole, and the same command finishes."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from reinforce.errors import SourceError, StoreError
from reinforce.files import file_sha256
from reinforce.packs.pack import Options, pack
from reinforce.settings import read_model, to_json
from reinforce.sharing.publish import publish
from reinforce.sharing.publish_pack import publish_pack
from reinforce.sharing.pull import pull
from reinforce.sources.folder import ImageFolder
from reinforce.sources.pack_manifest import PACK, Pack
from tests.bad_servers import before_s3, drop, fail, s3_error, send
from tests.conftest import content
from tests.forked import Point, run
from tests.servers import Turn, serve_s3
from tests.sharing.conftest import EXTRA, LICENCES

pytestmark = [pytest.mark.network, pytest.mark.process, pytest.mark.slow]

SLOW_DOWN = s3_error(503, "SlowDown")
PART = 5 << 20


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own pauses between its tries."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda self, context: 0.01)


def test_a_throttled_server_gets_and_gives_all(whole: Path, tmp_path: Path, quick: None) -> None:
    bad: list[Turn | None] = [SLOW_DOWN, SLOW_DOWN, drop, None, fail(500), s3_error(500, "InternalError"), None]
    with serve_s3("throttled") as bucket, before_s3() as served:
        served.turns = bad * 4
        publish(whole, f"{bucket}/digits", "digits", LICENCES)
        assert not served.turns
        served.turns = bad * 4
        pull(f"{bucket}/digits", tmp_path / "back")
        assert not served.turns
    assert {k: v for k, v in content(tmp_path / "back").items() if k not in EXTRA} == content(whole)


def test_a_server_that_stays_so_is_told(whole: Path, tmp_path: Path, quick: None) -> None:
    with serve_s3("stays") as bucket, before_s3() as served:
        served.turns = [None, None, *[SLOW_DOWN] * 99]
        with pytest.raises(StoreError, match="cannot be written"):
            publish(whole, f"{bucket}/digits", "digits", LICENCES)
        assert len(served.turns) == 99 - 5, "tried 5 times"
        served.turns = []
        with pytest.raises(StoreError, match="No labels are published at"):
            pull(f"{bucket}/digits", tmp_path / "back")
        publish(whole, f"{bucket}/digits", "digits", LICENCES)
        served.turns = [SLOW_DOWN] * 99
        with pytest.raises(SourceError, match="the server answers 503, tried 5 times"):
            pull(f"{bucket}/digits", tmp_path / "back")
        served.turns = [None, None, *[send(b"{}", Content_Range="bytes 0-1/2")] * 99]
        with pytest.raises(SourceError, match="bytes"):
            pull(f"{bucket}/digits", tmp_path / "back")
        assert not (tmp_path / "back" / "manifest.json").exists()


def _publish(environment: dict[str, str], root: Path, to: str, with_images: bool) -> None:
    os.environ.update(environment)
    import s3fs.core

    s3fs.core.calculate_chunksize = lambda *_, **__: PART
    (publish_pack if with_images else publish)(root, to, "digits", LICENCES)


@pytest.mark.parametrize("what", ["labels", "shards"])
def test_a_kill_between_requests_leaves_nothing_half(what: str, whole: Path, images: Path, tmp_path: Path) -> None:
    root: Any = whole
    if what == "shards":
        root = tmp_path / "pack"
        pack(ImageFolder.open(images), whole, root, Options())
        about = read_model(Pack, (root / PACK).read_bytes(), PACK)
        [shard] = about.shards
        with open(root / shard.name, "ab") as file:
            file.write(bytes(11 << 20))  # zeros at the end of a tar mean nothing; it is sent in three parts
        changed = shard.model_copy(
            update={"bytes": (root / shard.name).stat().st_size, "sha256": file_sha256(root / shard.name)}
        )
        (root / PACK).write_text(to_json(about.model_copy(update={"shards": [changed]})))
    last = "pack.json" if what == "shards" else "publication.json"
    with serve_s3(f"kills-{what}") as bucket:
        import s3fs

        there = {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
        kills = 0
        for call in range(2, 60, 5):  # every fifth request
            at = Point("s3fs.core:S3FileSystem._call_s3", call=call)
            code, said = run(_publish, there, root, f"{bucket}/x", what == "shards", at=at)
            s3fs.S3FileSystem.clear_instance_cache()
            fs = s3fs.S3FileSystem()
            here = list(fs.find(f"{bucket}/x"))
            if code == 0:
                break
            assert code == -signal.SIGKILL, said
            kills += 1
            assert not any(path.endswith(last) for path in here), "the list comes last"
            for path in here:
                if what == "shards" and not path.endswith("README.md"):
                    assert fs.cat_file(path) == (root / Path(path).relative_to(f"{bucket.partition('://')[2]}/x")).read_bytes()
        assert kills >= 2
        assert any(path.endswith(last) for path in here), "the same command finishes"
        if what == "labels":
            pull(f"{bucket}/x", tmp_path / "back")
            assert {k: v for k, v in content(tmp_path / "back").items() if k not in EXTRA} == content(whole)
