"""Fetch: read files of a published data set from a folder or URL, and check them against their published size and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from threading import Event

from reinforce.errors import Interrupted, SourceError, StoreError
from reinforce.settings import MAX_BYTES
from reinforce.sharing.publication import PUBLICATION, Entry
from reinforce.sources.location import File, exists, pieces
from reinforce.sources.pack_manifest import PACK
from reinforce.sources.retry import stop_with

_MAX_FILE = 1 << 42


def fetch_pieces(url: str, size: int | None) -> Iterator[bytes]:
    """The content of a file, a few megabytes at a time; `size`: its published size in bytes, if there is one.

    Raises:
        SourceError: the file cannot be read, or has another length.
    """
    try:
        size = File.open(url).size if size is None else size
        if size > _MAX_FILE:
            raise OSError(f"{size} bytes")
        yield from pieces(url, size)
    except OSError as error:
        fix = "run the same command again: what has come is kept"
        raise SourceError(f"{url} cannot be read.", found=error, fix=fix) from None


def fetch_small(url: str, entry: Entry | None) -> bytes:
    """Read a whole file into memory, and check its hash if `entry` has one.

    Raises:
        StoreError: the file is too large, or has another hash.
        SourceError: the file cannot be read.
    """
    size = File.open(url).size if entry is None else entry.bytes
    if size > MAX_BYTES and not url.endswith(".parquet"):
        raise StoreError(
            f"{url} is too large.", found=f"{size} bytes", expected=f"at most {MAX_BYTES}", fix="tell the publisher"
        )
    content = b"".join(fetch_pieces(url, size))
    if entry is not None and (found := hashlib.sha256(content).hexdigest()) != entry.sha256:
        raise differs(url.rpartition("/")[2], found, entry.sha256)
    return content


def published_pack(location: str) -> bytes | None:
    """The `pack.json` at a location, if it has one and no `publication.json`; otherwise None.

    Raises:
        SourceError: a server that does not answer, or fails.
    """
    if exists(f"{location}/{PUBLICATION}") or not exists(f"{location}/{PACK}"):
        return None
    return fetch_small(f"{location}/{PACK}", None)


def reachable(locations: Sequence[str]) -> str:
    """The first location at which something is published, without a slash at its end; if none has anything, the first one."""
    places = [location.rstrip("/") for location in locations]
    if len(places) > 1:
        return next((p for p in places if _published(p)), places[0])
    return places[0]


def _published(place: str) -> bool:
    try:
        return exists(f"{place}/{PUBLICATION}") or exists(f"{place}/{PACK}")
    except SourceError:
        return False


def fetch_all(jobs: int, fetches: list[Callable[[], int]], on_fetched: Callable[[int], None]) -> None:
    """Run `jobs` fetches at once and call `on_fetched` with the result of each. After an error no further fetch is started.

    Those that wait for a server then wait no longer.

    Raises:
        Interrupted: Ctrl-C.
    """
    stop = Event()
    with ThreadPoolExecutor(jobs, initializer=stop_with, initargs=(stop,)) as pool:
        running = [pool.submit(fetch) for fetch in fetches]
        try:
            for finished in as_completed(running):
                on_fetched(finished.result())
        except KeyboardInterrupt:
            raise Interrupted(
                "The pull was interrupted; what has come is kept.", fix="the same command fetches what is missing"
            ) from None
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def differs(name: str, found: str, expected: str) -> StoreError:
    """The error for a file whose hash is not the published one."""
    return StoreError(
        f"{name} is not the file that was promised.",
        found=f"sha256 {found[:16]}...",
        expected=f"sha256 {expected[:16]}...",
        cause="a broken upload or transfer, or someone else's file",
        fix="run the same command again, and tell the publisher if it stays so",
    )
