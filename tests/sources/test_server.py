"""Servers that send what was not asked for: reading ends at the length that is known, and compressed content is refused."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest

from reinforce.errors import SourceError
from reinforce.sharing.fetch import fetch_pieces
from reinforce.sources.location import File
from tests.bad_servers import bomb, send, served_bytes
from tests.sources.test_retry import CONTENT, KINDS, place

pytestmark = pytest.mark.network

MEGABYTE = 1 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_no_more_is_read_than_was_asked_for(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place(kind, tmp_path, monkeypatch) as there:
        assert File.open(there.url).size == len(CONTENT)
        for status in (206, 200):
            before = served_bytes[0]
            there.served.turns = [None, *[send(bytes(MEGABYTE), status=status, times=300)] * 9]
            tracemalloc.start()
            with pytest.raises(SourceError, match="more than the 10000 bytes came that were asked for"):
                b"".join(fetch_pieces(there.url, len(CONTENT)))
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            time.sleep(0.2)
            assert served_bytes[0] - before < 50 * MEGABYTE, "the connection was closed"
            assert peak < 40 * MEGABYTE
            there.served.turns = []


@pytest.mark.parametrize("kind", ["http", "hub"])
def test_compressed_content_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place(kind, tmp_path, monkeypatch) as there:
        assert File.open(there.url).size == len(CONTENT)
        there.served.turns = [None, *[bomb(64 * MEGABYTE)] * 9]
        tracemalloc.start()
        with pytest.raises(SourceError, match="Content-Encoding: gzip"):
            b"".join(fetch_pieces(there.url, len(CONTENT)))
        assert tracemalloc.get_traced_memory()[1] < 16 * MEGABYTE, "nothing was unpacked"
        tracemalloc.stop()
        assert len(there.served.turns) == 8, "a new try would not change it"


def test_another_range_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with place("http", tmp_path, monkeypatch) as there:
        there.served.turns = [None, send(CONTENT, Content_Range="bytes 7-10006/20000")]
        with pytest.raises(SourceError, match="bytes 7-10006/20000"):
            b"".join(fetch_pieces(there.url, len(CONTENT)))
        there.served.turns = [send(b"", length=12345)]
        with pytest.raises(SourceError, match="12345 bytes, expected 10000"):
            b"".join(fetch_pieces(there.url, len(CONTENT)))
        assert there.served.requests[-1][0] == "HEAD", "asked once"
