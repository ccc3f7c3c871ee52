"""Retry: servers that fail for a while are asked again, those that refuse are not, and no server holds anyone for ever."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from reinforce.errors import SourceError
from reinforce.sources import retry
from reinforce.sources.folder import ImageFolder
from reinforce.sources.location import File, ServerDownError, pieces
from tests.bad_servers import before_s3, drop, fail, send, silence
from tests.servers import Served, Turn, serve_http, serve_hub, serve_s3

pytestmark = pytest.mark.network

CONTENT = bytes(range(250)) * 40


@dataclass
class Place:
    """A file at a server that takes turns."""

    url: str
    served: Served


@contextmanager
def place(kind: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    if kind == "http":
        (root / "a.bin").write_bytes(CONTENT)
        with serve_http(root) as served:
            yield Place(f"{served.url}/a.bin", served)
    elif kind == "s3":
        import fsspec

        with serve_s3("retry") as bucket, before_s3() as served:
            fsspec.filesystem("s3").pipe_file(f"{bucket}/a.bin", CONTENT)
            yield Place(f"{bucket}/a.bin", served)
    else:
        (root / "me" / "data").mkdir(parents=True)
        (root / "me" / "data" / "a.bin").write_bytes(CONTENT)
        with serve_hub(root) as served:
            _hub_at(served.url, monkeypatch)
            yield Place("hf://datasets/me/data/a.bin", served)


def _hub_at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfFileSystem, constants

    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "secret")
    HfFileSystem.clear_instance_cache()


def _read(there: Place) -> bytes:
    """Ranges alone, without a question for the size; each time another version, so that the cache has none."""
    return File(there.url, len(CONTENT), str(time.monotonic_ns())).read()


KINDS = ["http", "s3", "hub"]
FAILURES: dict[str, Turn] = {
    "500": fail(500),
    "502": fail(502),
    "503": fail(503),
    "429": fail(429, Retry_After="0"),
    "a connection that is dropped": drop,
}
CUT: dict[str, Turn] = {
    "a body that is cut": send(CONTENT[:100], length=len(CONTENT)),
    "too short a body": send(CONTENT[:100], Content_Range=f"bytes 0-99/{len(CONTENT)}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_fails_for_a_while_is_asked_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with place(kind, tmp_path, monkeypatch) as there:
        for name, turn in (FAILURES | CUT).items():
            caplog.clear()
            there.served.turns = [turn] * (retry.TRIES - 1)
            assert _read(there) == CONTENT, name
            assert not there.served.turns
            said = [r.message for r in caplog.records if r.name == "reinforce.sources.retry"]
            assert said
            assert all(there.url in each and "trying again in" in each for each in said), "it says that it waits"
            if name in FAILURES:
                there.served.turns = [turn] * (retry.TRIES - 1)
                assert File.open(there.url).size == len(CONTENT), name
            there.served.turns = [turn, None, turn, turn] if name in FAILURES else [None, turn, turn]
            assert b"".join(pieces(there.url, len(CONTENT))) == CONTENT, name
            there.served.turns = []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_there_or_not_allowed_is_not_asked_again(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place(kind, tmp_path, monkeypatch) as there:
        assert _read(there) == CONTENT
        for status, error in ((404, FileNotFoundError), (403, PermissionError), (416, OSError)):
            asked = len(there.served.requests)
            there.served.turns = [fail(status)] * 9
            with pytest.raises(error):
                _read(there)
            assert len(there.served.requests) - asked == 1, status
            there.served.turns = [fail(status)] * 9
            with pytest.raises(SourceError, match="no such file" if status == 404 else "cannot be read"):
                File.open(there.url)
            assert len(there.served.requests) - asked <= 4, "HEAD, and what clients ask in its place"
            there.served.turns = []


def test_an_outage_that_lasts_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place("http", tmp_path, monkeypatch) as there:
        there.served.turns = [fail(503)] * 99
        with pytest.raises(SourceError, match=r"the server answers 503, tried 5 times"):
            File.open(there.url)
        asked = len(there.served.requests)
        assert asked == retry.TRIES
        with pytest.raises(ServerDownError, match="the server answers 503, tried 5 times"):
            _read(there)
        assert len(there.served.requests) == 2 * asked


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_says_nothing_has_a_time_out(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert retry.TIMEOUT_S == 30
    with place(kind, tmp_path, monkeypatch) as there:
        assert File.open(there.url).size == len(CONTENT)  # the Hub is also asked for the repository, once
        monkeypatch.setattr(retry, "TIMEOUT_S", 1.0)
        monkeypatch.setattr(retry, "TRIES", 2)
        there.served.turns = [silence(3)]
        begin = time.monotonic()
        assert _read(there) == CONTENT
        there.served.turns = [silence(3)] * 99
        with pytest.raises(ServerDownError, match="no answer within 1 s, tried 2 times"):
            _read(there)
        with pytest.raises(SourceError, match="no answer within 1 s, tried 2 times"):
            File.open(there.url)
        assert time.monotonic() - begin < 30
        there.served.turns = []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_dribbles_is_given_up(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place(kind, tmp_path, monkeypatch) as there:
        assert File.open(there.url).size == len(CONTENT)
        monkeypatch.setattr(retry, "TIMEOUT_S", 0.5)
        monkeypatch.setattr(retry, "TRIES", 2)
        monkeypatch.setattr("reinforce.sources.server.SLOWEST", 100_000)
        there.served.turns = [send(b"x", length=len(CONTENT), times=100, pause=0.1)] * 99
        begin = time.monotonic()
        with pytest.raises(ServerDownError, match="no answer within"):
            _read(there)
        assert time.monotonic() - begin < 12
        there.served.turns = []


# Pauses


class _AskedError(Exception):
    def __init__(self, **headers: str) -> None:
        self.status, self.headers = 503, {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], list[float]]:
    waited: list[float] = []
    monkeypatch.setattr("threading.Event.wait", lambda self, seconds=None: waited.append(seconds))
    monkeypatch.setattr(retry, "PAUSE_S", 1.0)

    def failing(error: Exception) -> list[float]:
        waited.clear()

        def call() -> None:
            raise error

        with pytest.raises(OSError, match="tried 5 times"):
            retry.retried(call, "x")
        return list(waited)

    return failing


@pytest.mark.unit
def test_pauses_grow_and_are_bounded(pauses: Callable[[Exception], list[float]]) -> None:
    found = [pauses(_AskedError()) for _ in range(20)]
    for waited in found:
        assert all(0.75 * 2**i <= each <= 1.25 * 2**i for i, each in enumerate(waited))
        assert len(waited) == 4
    assert len({waited[0] for waited in found}) > 10, "not all clients come back at the same moment"
    assert pauses(_AskedError(Retry_After="20"))[:3] == [20, 20, 20]
    assert pauses(_AskedError(Retry_After="9" * 400)) == [60] * 4
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 27 < pauses(_AskedError(Retry_After=soon))[0] <= 30
    for nonsense in ("-5", "nan", "inf", "soon", "\u0665", "", format_datetime(datetime(1990, 1, 1, tzinfo=UTC))):
        assert pauses(_AskedError(Retry_After=nonsense))[0] <= 1.25, nonsense


@pytest.mark.unit
@pytest.mark.parametrize("error", [ValueError("a wrong URL"), MemoryError(), retry.RefusedError("no"), SourceError("no")])
def test_what_no_new_try_changes_is_not_tried(error: Exception) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        raise error

    with pytest.raises((OSError, SourceError, MemoryError)):
        retry.retried(call, "x")
    assert calls == 1


def test_an_image_at_a_server_that_is_down_is_not_missing(images: Path) -> None:
    """Found by the attacks on S3: it was stored as missing, for good."""
    name = next(p for p in sorted(images.rglob("*")) if p.is_file()).relative_to(images)
    with serve_http(images) as served:
        source = ImageFolder(f"{served.url}", (str(name.with_suffix("")),), None, (), (str(name),))
        served.turns = [fail(503)] * 99
        with pytest.raises(ServerDownError, match="the server answers 503, tried 5 times"):
            source.read(0)
        served.turns = [None, *[fail(503)] * 99]
        with pytest.raises(ServerDownError, match="the server answers 503, tried 5 times"):
            source.read(0)
        served.turns = [fail(404)] * 2
        absent = ImageFolder(f"{served.url}", ("x",), None, (), ("x.jpg",))
        with pytest.raises(OSError, match="cannot be read"):
            absent.read(0)
