"""Names at servers: all of them, in pages, and no more than the bounds allow."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler as Handler
from pathlib import Path

import pytest

from reinforce.errors import SourceError
from reinforce.sources import remote_names, retry
from reinforce.sources.open_source import open_source
from reinforce.sources.patterns import expand
from reinforce.sources.remote_names import names_below
from reinforce.sources.retry import RefusedError
from tests.bad_servers import before_s3, fail, send, silence
from tests.servers import Served, Turn, running, serve_http, serve_hub, serve_s3
from tests.sources.test_retry import _hub_at

pytestmark = pytest.mark.network

NAMES = ["a/x.jpg", "a/y.jpg", "b/deep/z.jpg", "c.tar"]


def _page(links: Callable[[str], list[str]]) -> type[Handler]:
    class Pages(Handler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            body = "".join(f'<a href="{link}">' for link in links(self.path)).encode()
            send(body, status=200, Content_Type="text/html")(self)

    return Pages


def _links(path: str) -> list[str]:
    inside = {name[len(path) - 1 :].partition("/") for name in NAMES if f"/{name}".startswith(path)}
    return ["../", "?C=N;O=D", "http://elsewhere/x.jpg", "//[", *sorted(first + slash for first, slash, _ in inside)]


def test_all_files_below_a_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(url: str) -> None:
        assert names_below(url) == NAMES
        assert names_below(url, levels=1) == ["c.tar"]
        assert expand(f"{url}/*/*.jpg") == [f"{url}/a/x.jpg", f"{url}/a/y.jpg"]
        assert expand(f"{url}/**/*.jpg") == [f"{url}/{name}" for name in NAMES[:3]]

    with running(_page(_links)) as url:
        check(url)
    with serve_s3("names") as bucket:
        import fsspec

        for name in NAMES:
            fsspec.filesystem("s3").pipe_file(f"{bucket}/in/{name}", b"x")
        check(f"{bucket}/in")
    for name in NAMES:
        (tmp_path / "me" / "data" / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "me" / "data" / "in" / name).write_bytes(b"x")
    with serve_hub(tmp_path) as served:
        _hub_at(served.url, monkeypatch)
        check("hf://datasets/me/data/in")


def test_a_server_that_lists_without_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(_page(lambda path: ["x/"])) as url, pytest.raises(RefusedError, match="32 deep"):
        names_below(url)
    monkeypatch.setattr(remote_names, "MAX_NAMES", 100)
    with running(_page(lambda path: [f"{i}.jpg" for i in range(150)] + ["x/"])) as url:
        with pytest.raises(RefusedError, match="more than 100 files"):
            names_below(url)
        with pytest.raises(SourceError, match="more than 100 files"):
            open_source(url)
    monkeypatch.setattr(remote_names, "MAX_PAGES", 7)
    more = (
        b"<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken></ListBucketResult>"
    )
    with serve_s3("endless") as bucket, before_s3() as served:
        served.turns = [send(more, status=200)] * 99
        with pytest.raises(RefusedError, match="more than 7 requests"):
            names_below(bucket)
        assert len(served.turns) == 99 - 7


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_a_page_without_end_is_left(kind: str, tmp_path: Path) -> None:
    def check(url: str, served: Served) -> None:
        served.turns = [send(b"<a" * (1 << 19), status=200, times=300, Content_Type="text/html")] * 9
        tracemalloc.start()
        with pytest.raises(RefusedError, match=r"more than 16777216 bytes"):
            names_below(url)
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
        tracemalloc.stop()
        assert len(served.turns) == 8, "asked once"

    if kind == "http":
        with serve_http(tmp_path) as served:
            check(served.url, served)
    else:
        with serve_s3("page") as bucket, before_s3() as served:
            check(f"{bucket}/in", served)


@pytest.mark.parametrize("turn", [silence(3), fail(503)], ids=["silence", "503"])
def test_names_are_asked_for_again_and_not_for_ever(turn: Turn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "TIMEOUT_S", 0.3)
    (tmp_path / "me" / "data").mkdir(parents=True)
    (tmp_path / "me" / "data" / "a.jpg").write_bytes(b"x")
    with serve_hub(tmp_path) as served:
        _hub_at(served.url, monkeypatch)
        assert names_below("hf://datasets/me/data") == ["a.jpg"]
        served.lists = [turn, turn]
        assert names_below("hf://datasets/me/data") == ["a.jpg"]
        served.lists = [turn] * 99
        with pytest.raises(retry.OutageError, match="tried 5 times"):
            names_below("hf://datasets/me/data")
        served.lists = []
