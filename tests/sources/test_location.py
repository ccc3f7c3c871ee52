"""Locations: remote files are fetched once and in ranges, sources are read from the Hub, what is not there is said."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reinforce.errors import SourceError
from reinforce.sources.folder import ImageFolder
from reinforce.sources.location import CHUNK_BYTES, File
from reinforce.sources.open_source import open_source
from tests.conftest import run_cli
from tests.servers import serve_http, serve_hub

pytestmark = pytest.mark.unit

# Remote files


@pytest.mark.network
def test_a_remote_file_is_fetched_once_and_in_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    content = np.random.default_rng(0).bytes(5 * CHUNK_BYTES + 123)
    (tmp_path / "big.bin").write_bytes(content)
    with serve_http(tmp_path) as served:
        file = File.open(f"{served.url}/big.bin")
        at = 3 * CHUNK_BYTES - 10
        assert file.read(at, 20) == content[at : at + 20]
        assert served.sent == 2 * CHUNK_BYTES, "the two chunks that hold it, and no more"
        assert file.read(at, 20) == content[at : at + 20]
        assert served.sent == 2 * CHUNK_BYTES
        assert file.read() == content
        assert served.sent == len(content), "what was there is not fetched again"
        with pytest.raises(OSError, match="bytes"):
            file.read(len(content) - 5, 6)
        (tmp_path / "big.bin").write_bytes(content[::-1])
        assert File.open(f"{served.url}/big.bin").read(0, 9) == content[::-1][:9], "a changed file is another one"


@pytest.mark.network
@pytest.mark.parametrize(("version", "noticed"), [("ETag", True), ("Last-Modified", True), (None, False)])
def test_a_file_of_the_same_size_is_another_one_by_what_the_server_says(
    version: str | None, noticed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "a.bin"
    with serve_http(tmp_path) as served:
        served.version = version
        for second, content in enumerate((b"first", b"later")):
            path.write_bytes(content)
            os.utime(path, (1e9 + second, 1e9 + second))
            found = File.open(f"{served.url}/a.bin").read()
            assert found == (content if noticed else b"first")
            assert File.open(f"{served.url}/a.bin").read() == found
    assert served.sent == (10 if noticed else 5), "each version once"


@pytest.mark.network
def test_a_server_that_fails_now_and_then_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.bin").write_bytes(b"x" * 100)
    with serve_http(tmp_path) as served:
        file = File.open(f"{served.url}/a.bin")
        served.failures["/a.bin"] = 2
        assert file.read(10, 5) == b"xxxxx"
        (tmp_path / "b.bin").write_bytes(b"y" * (2 * CHUNK_BYTES))
        served.ranges = False
        with pytest.raises(OSError, match="range requests"):
            File.open(f"{served.url}/b.bin").read(CHUNK_BYTES, 5)
        with pytest.raises(SourceError, match="cannot be read"):
            File.open(f"{served.url}/nothing.tar")


@pytest.mark.network
def test_a_cut_chunk_in_the_cache_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REINFORCE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.bin").write_bytes(bytes(range(200)))
    with serve_http(tmp_path) as served:
        file = File.open(f"{served.url}/a.bin")
        file.read()
        [chunk] = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
        chunk.write_bytes(b"cut")
        assert file.read() == bytes(range(200))


@pytest.mark.network
@pytest.mark.process
@pytest.mark.slow
def test_a_source_on_the_hub_is_read(images: Path, store: Path, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    rows = [{"bytes": source.read(i), "path": f"{key}.jpg"} for i, key in enumerate(source.keys)]
    (tmp_path / "hub" / "me" / "pictures").mkdir(parents=True)
    table = pa.table({"image": rows, "label": list(source.labels or [])})
    pq.write_table(table, tmp_path / "hub" / "me" / "pictures" / "train-0.parquet", row_group_size=5)
    with serve_hub(tmp_path / "hub") as served:
        hub = {"HF_ENDPOINT": served.url, "HF_TOKEN": "secret", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        done = run_cli("verify", store, "--data", "hf://datasets/me/pictures/train-0.parquet", "--workers", 2, **hub)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "images and probes: 24 of 24" in done.stdout


# What is not there


@pytest.mark.network
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere", "There is no image folder"),
        ("nowhere-*.tar", "No file matches"),
        ("nowhere.tar", "cannot be read"),
        ("a.tar.gz", "is compressed"),
        ("torchvision:MNIZT", "no data set MNIZT"),
        ("torchvision:CIFAR10", "--download"),
        ("unheard://of/a.tar", "cannot be opened"),
        ("npz:nowhere.npz", "cannot be read"),
        ("https://127.0.0.1:9/a.tar", "no answer"),
        ("https://127.0.0.1:9/{0..2}.parquet", "no answer"),
    ],
)
def test_what_is_not_there_is_said(data: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match=message):
        open_source(data)


def test_a_pattern_that_a_server_does_not_answer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(*_: object) -> list[str]:
        raise RuntimeError("no credentials")  # each client raises errors of its own

    monkeypatch.setattr("reinforce.sources.remote_names._page", refusing)
    monkeypatch.setattr("reinforce.sources.retry.TRIES", 1)
    with pytest.raises(SourceError, match=r"(?s)a/\*.tar cannot be read.*no credentials"):
        open_source("s3://bucket/a/*.tar")


def test_download_is_for_torchvision(images: Path) -> None:
    with pytest.raises(SourceError, match="--download is for"):
        open_source(images, download=True)
