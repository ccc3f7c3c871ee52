"""Labels at a URL: fetched when they are needed, as far as they are needed, once; then the run is that from a folder."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reinforce.errors import StoreError
from reinforce.packs.pack import Options, pack
from reinforce.settings import to_json
from reinforce.sharing.cached import fetched
from reinforce.sharing.remote_place import RemotePlace
from reinforce.sources.folder import ImageFolder
from reinforce.store.manifest import Job
from reinforce.store.store import JOB, Store, read_manifest
from tests.conftest import Cli, content
from tests.servers import serve_http, serve_s3
from tests.sharing.conftest import EXTRA

pytestmark = [pytest.mark.network, pytest.mark.slow]
TRAIN = ("train", "--student", "test_resnet", "--epochs", 2, "--batch-size", 8, "--workers", 0, "--device", "cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "labels"


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_training_fetches_the_stripes_that_it_needs(
    published: Path, whole: Path, images: Path, tmp_path: Path, cache: Path, cli: Cli
) -> None:
    given = (*TRAIN, "--data", images, "--views", 2)
    with serve_http(published) as served:
        assert cli(*given, "--labels", served.url, "--out", tmp_path / "a")[0] == 0
        bundles = {path for method, path, _ in served.requests if path.endswith(".zip")}
        assert bundles == {f"/blocks/00000{block}.000.zip" for block in range(4)}
        served.requests.clear()
        assert cli(*given, "--labels", f"{served.url}/", "--out", tmp_path / "b")[0] == 0
        assert not [path for _, path, _ in served.requests if path.endswith(".zip")]
        assert cli(*given, "--mode", "plain", "--labels", served.url, "--out", tmp_path / "plain")[0] == 0
        assert not [path for _, path, _ in served.requests if path.endswith(".zip")]
    assert cli(*given, "--labels", whole, "--out", tmp_path / "c")[0] == 0
    assert losses(tmp_path / "a") == losses(tmp_path / "b") == losses(tmp_path / "c")
    assert len(list(cache.iterdir())) == 1


def test_other_protocols(
    published: Path, whole: Path, images: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reinforce.sharing.publish import publish
    from tests.sharing.conftest import LICENCES

    with serve_s3("labels-here") as bucket:
        publish(whole, f"{bucket}/digits", "digits", LICENCES)
        assert {k: v for k, v in content(fetched(f"{bucket}/digits")).items() if k not in EXTRA} == content(whole)
        assert cli(*TRAIN, "--data", images, "--labels", f"{bucket}/digits", "--out", tmp_path / "run")[0] == 0


@pytest.mark.process
def test_two_ranks_fetch_once(published: Path, whole: Path) -> None:
    with serve_http(published) as served, ThreadPoolExecutor(3) as ranks:
        found = list(ranks.map(lambda _: fetched(served.url), range(3)))
        asked = [path for method, path, _ in served.requests if method == "GET" and path.endswith(".zip")]
    assert len(set(found)) == 1
    assert len(asked) == 12
    assert {k: v for k, v in content(found[0]).items() if k not in EXTRA} == content(whole)


def test_what_is_there_is_shown_verified_and_drawn(
    published: Path, whole: Path, images: Path, tmp_path: Path, cache: Path, cli: Cli
) -> None:
    with serve_http(published) as served:
        code, there, _ = cli("inspect", served.url, "--json")
        assert code == 0
        assert not [path for _, path, _ in served.requests if path.endswith(".zip")], "no labels are read for it"
        here = json.loads(cli("inspect", whole, "--json")[1])
        differing = {key for key, value in json.loads(there).items() if here[key] != value}
        assert differing == {"bytes_per_view"}
        assert "complete    yes: 4 blocks" in cli("inspect", served.url)[1]

        served.requests.clear()
        key = Store(whole).samples.key(8)  # of the second block
        assert cli("show", served.url, "--data", images, "--sample", key, "--out", tmp_path / "there.png")[0] == 0
        assert {path[:14] for _, path, _ in served.requests if path.endswith(".zip")} == {"/blocks/000001"}
        assert cli("show", whole, "--data", images, "--sample", key, "--out", tmp_path / "here.png")[0] == 0
        assert (tmp_path / "there.png").read_bytes() == (tmp_path / "here.png").read_bytes()
        code, _, said = cli("show", served.url, "--data", images, "--sample", "no such", "--out", tmp_path / "x.png")
        assert (code, "no such" in said) == (2, True)

        code, said, _ = cli("verify", served.url, "--data", images, "--views", "all")
        assert (code, "FAILED" in said) == (0, False)


def test_damage_is_refused_and_nothing_of_it_is_kept(own: Path, images: Path, tmp_path: Path, cache: Path, cli: Cli) -> None:
    bundle = own / "blocks" / "000002.001.zip"
    bundle.write_bytes(bundle.read_bytes()[:-1] + b"x")
    with serve_http(own) as served:
        with pytest.raises(StoreError, match="not the file that was promised"):
            fetched(served.url)
        code, _, said = cli(*TRAIN, "--data", images, "--labels", served.url, "--out", tmp_path / "run")
        assert (code, "000002.001.zip is not the file that was promised" in said) == (1, True)
        assert not (tmp_path / "run" / "checkpoint.safetensors").exists()
        assert "000002.zarr" not in {path.name for path in cache.rglob("*")}
        assert fetched(served.url, views=2).is_dir(), "the stripe is not needed"


def test_where_nothing_was_published(tmp_path: Path, images: Path, whole: Path, cli: Cli) -> None:
    with serve_http(tmp_path) as served:
        url = served.url
        lines = [
            ("inspect", url),
            ("verify", url),
            ("show", url, "--data", images, "--sample", "x", "--out", tmp_path / "x.png"),
            (*TRAIN, "--data", images, "--labels", url, "--out", tmp_path / "run"),
            ("pull", url, "--out", tmp_path / "pulled"),
        ]
        for line in lines:
            code, _, said = cli(*line)
            assert (code, f"No labels are published at {url}." in said) == (1, True), line
        manifest = read_manifest(whole)
        (tmp_path / JOB).write_text(to_json(Job(settings=manifest.settings, environment=manifest.environment)))
        for line in lines[1:]:
            code, _, said = cli(*line)
            assert (code, f"{url} is not complete yet." in said) == (1, True), line
        assert {path.name for path in tmp_path.iterdir()} <= {JOB, "cache"}


def test_what_an_unfinished_place_has_is_told(whole: Path, tmp_path: Path, cli: Cli) -> None:
    manifest = read_manifest(whole)
    place = RemotePlace(f"memory://{tmp_path}")
    place.write(JOB, to_json(Job(settings=manifest.settings, environment=manifest.environment)).encode())
    code, said, _ = cli("inspect", place.name)
    assert (code, "no: 0 of 4 blocks" in said) == (0, True)


def test_shards_at_a_url_are_told_too(whole: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    pack(ImageFolder.open(images), whole, tmp_path / "shards", Options())
    with serve_http(tmp_path / "shards") as served:
        assert cli("inspect", served.url)[1] == cli("inspect", tmp_path / "shards")[1]
