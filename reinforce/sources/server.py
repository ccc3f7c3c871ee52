"""Server: what one answers about a file and about a range of its bytes, within limits of time and length.

fsspec knows how to reach a server, and who asks. Its own `cat_file` is not used where a server may be anyone's: it keeps all
that comes, whatever was asked for, and unpacks what comes compressed. Here reading ends at the length that was asked for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem, sync

from reinforce.errors import SourceError
from reinforce.sources import retry
from reinforce.sources.retry import RefusedError

SLOWEST = 16 * 1024
"""Bytes per second; a range that comes slower on average, after the first 30 s, is given up."""
_log = logging.getLogger(__name__)
MAX_PAGE = 16 << 20
"""Bytes of a page of names."""
_VERSIONS = ("ETag", "Content-MD5", "Digest", "Last-Modified")


def file_system(url: str, *, tries: int = 1) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path of the URL in that file system. Requests to it have a time-out.

    Args:
        url: The URL.
        tries: How often S3's client makes a request: files are read with our tries, and written with its own, per part.

    Raises:
        SourceError: no such protocol, or the package for it is not installed.
    """
    protocol = url.partition("://")[0]
    try:
        fs, path = fsspec.core.url_to_fs(url, **_options(protocol, tries))
    except (ValueError, ImportError) as error:
        package = {"s3": "pip install 'reinforce[s3]'"}.get(protocol, "install the package that it names")
        raise SourceError(f"{protocol}:// cannot be opened.", found=str(error), fix=package) from None
    if protocol in ("s3", "s3a"):
        fs.retries = 1  # s3fs's own tries, around those of its client
    if isinstance(fs, AsyncFileSystem) and fs.loop.get_exception_handler() is None:
        fs.loop.set_exception_handler(_unasked)
    if "hf" in fs.protocol:
        hub_session()
    return fs, path


def _unasked(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A connection that the server closed ends in errors of tasks of aiohttp's too; whoever asked has had its own."""
    _log.debug("%s: %r", context.get("message"), context.get("exception"))


def _options(protocol: str, tries: int) -> dict[str, Any]:
    """What we ask of fsspec's file systems, put together with what the user's configuration of fsspec says."""
    given = fsspec.config.conf.get(protocol, {})
    if protocol in ("http", "https"):
        import aiohttp

        client = dict(given.get("client_kwargs", {}))
        client.setdefault("timeout", aiohttp.ClientTimeout(total=None, sock_connect=retry.TIMEOUT_S, sock_read=retry.TIMEOUT_S))
        client["headers"] = {"Accept-Encoding": "identity", **client.get("headers", {})}
        return {"client_kwargs": client | {"auto_decompress": False}}
    if protocol in ("s3", "s3a"):
        from reinforce.sources.s3_session import BoundedSession

        times = {"connect_timeout": retry.TIMEOUT_S, "read_timeout": retry.TIMEOUT_S}
        again = {"retries": {"mode": "standard", "total_max_attempts": tries}}
        return {"config_kwargs": {**times, **again, "http_session_cls": BoundedSession, **given.get("config_kwargs", {})}}
    return {}


def file_info(url: str) -> dict[str, Any]:
    """Size and version of a file, under the names that fsspec's file systems use; one request, or two."""
    fs, path = file_system(url)
    if is_http(fs):
        return dict(sync(fs.loop, timed, _http_info(fs, path), retry.TIMEOUT_S))
    if is_hub(fs, path):
        from huggingface_hub import get_hf_file_metadata

        about = get_hf_file_metadata(fs.url(path), token=fs.token, timeout=retry.TIMEOUT_S)
        return {"size": about.size, "ETag": about.etag}
    if isinstance(fs, AsyncFileSystem):
        return dict(sync(fs.loop, timed, fs._info(path), retry.TIMEOUT_S))
    return dict(fs.info(path))


def file_range(url: str, begin: int, end: int) -> bytes:
    """The bytes from `begin` to before `end` of a file: exactly so many.

    Raises:
        RefusedError: the server sends more than was asked for, another range, or compressed content.
        OSError: fewer bytes came. Other errors: those of the protocol's client.
    """
    if begin == end:
        return b""
    fs, path = file_system(url)
    limit = retry.TIMEOUT_S + (end - begin) / SLOWEST
    if is_http(fs):
        content = sync(fs.loop, timed, _http_range(fs, path, begin, end), limit)
    elif "s3" in fs.protocol:
        content = sync(fs.loop, timed, _s3_range(fs, path, begin, end), limit)
    elif is_hub(fs, path):
        content = _hub_range(fs, path, begin, end, limit)
    elif isinstance(fs, AsyncFileSystem):
        content = sync(fs.loop, timed, fs._cat_file(path, start=begin, end=end), limit)
    else:
        content = fs.cat_file(path, start=begin, end=end)
    if len(content) > end - begin:
        raise _too_much(begin, end)
    if len(content) < end - begin:
        raise OSError(f"{len(content)} bytes came for bytes {begin} to {end}")
    return bytes(content)


def is_http(fs: Any) -> bool:
    """Whether it is a web server's."""
    return "https" in fs.protocol


def is_hub(fs: Any, path: str) -> bool:
    """Whether the path is in a repository of the Hub."""
    return "hf" in fs.protocol and not path.startswith("buckets/")


async def timed(answer: Awaitable[Any], seconds: float) -> Any:
    """The answer, if it comes in so many seconds; otherwise TimeoutError."""
    return await asyncio.wait_for(answer, seconds)


async def _http_info(fs: Any, url: str) -> dict[str, Any]:
    session, options = await fs.set_session(), _plain_request(fs)
    found: dict[str, Any] = {"size": None}
    for method in ("HEAD", "GET"):  # some servers answer HEAD with 403 or 405, or without a length; of GET, no content is read
        async with session.request(method, fs.encode_url(url), allow_redirects=True, **options) as answer:
            if method == "HEAD" and answer.status in (400, 401, 403, 405, 501):
                continue
            answer.raise_for_status()
            _check_plain(answer.headers)
            found = {"size": answer.content_length} | {name: answer.headers.get(name) for name in _VERSIONS}
        if found["size"] is not None:
            break
    return found


async def _http_range(fs: Any, url: str, begin: int, end: int) -> bytes:
    session, options = await fs.set_session(), _plain_request(fs)
    options["headers"]["Range"] = f"bytes={begin}-{end - 1}"
    async with session.get(fs.encode_url(url), **options) as answer:
        answer.raise_for_status()
        _check_range(answer.status, answer.headers, begin, end)
        return await _up_to(end - begin, answer.content.readany, lambda: _too_much(begin, end, answer.status))


async def page_text(fs: Any, url: str) -> str:
    """A page of links of a web server; nothing if it is no page.

    Raises:
        RefusedError: it is longer than the bound.
    """
    session, options = await fs.set_session(), _plain_request(fs)
    async with session.get(fs.encode_url(url), **options) as answer:
        answer.raise_for_status()
        _check_plain(answer.headers)
        if answer.headers.get("Content-Type", "text/html").partition(";")[0] != "text/html":
            return ""
        content = await _up_to(MAX_PAGE, answer.content.readany, _long_page)
        return content.decode(errors="replace")


def hub_page(fs: Any, url: str) -> tuple[list[dict[str, Any]], str | None]:
    """A page of the Hub's list of files, and the address of the next one.

    Raises:
        RefusedError: it is longer than the bound, or no list.
    """
    stop, content = time.monotonic() + 4 * retry.TIMEOUT_S, bytearray()
    with hub_session().stream("GET", url, headers=_hub_headers(fs), timeout=retry.TIMEOUT_S) as answer:
        answer.raise_for_status()
        _check_plain(answer.headers)
        for piece in answer.iter_raw():
            content += piece
            if len(content) > MAX_PAGE:
                raise _long_page()
            if time.monotonic() > stop:
                raise TimeoutError
        following = answer.links.get("next", {}).get("url")
    try:
        entries = json.loads(content)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not all(isinstance(e, dict) and {"path", "type"} <= e.keys() for e in entries):
        raise RefusedError("the server sends no list of files")
    if following is not None and not following.startswith(f"{fs.endpoint}/"):
        raise RefusedError(f"the list of files goes on elsewhere: {following[:80]}")
    return entries, following


def hub_session(seconds: float | None = None) -> Any:
    """The session of the Hub's client, which waits for ever unless it is told not to.

    Args:
        seconds: In which it must answer; default: 30.
    """
    from huggingface_hub import get_session

    session = get_session()
    session.timeout = retry.TIMEOUT_S if seconds is None else seconds
    return session


def _hub_headers(fs: Any) -> dict[str, str]:
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, without __all__

    return {**build_hf_headers(token=fs.token), "Accept-Encoding": "identity"}


def _long_page() -> RefusedError:
    return RefusedError(f"a page of names has more than {MAX_PAGE} bytes")


async def _s3_range(fs: Any, path: str, begin: int, end: int) -> bytes:
    bucket, key, version = fs.split_path(path)
    which = {"VersionId": version} if version else {}
    answer = await fs._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={begin}-{end - 1}", **which)
    body = answer["Body"]
    try:
        return await _up_to(end - begin, lambda: body.read(1 << 16), lambda: _too_much(begin, end))
    finally:
        body.close()


async def _up_to(length: int, read: Callable[[], Awaitable[bytes]], too_much: Callable[[], RefusedError]) -> bytes:
    pieces, size = [], 0
    while piece := await read():
        pieces.append(piece)
        size += len(piece)
        if size > length:
            raise too_much()
    return b"".join(pieces)


def _hub_range(fs: Any, path: str, begin: int, end: int, limit: float) -> bytes:
    headers = _hub_headers(fs) | {"Range": f"bytes={begin}-{end - 1}"}
    stop, pieces, size = time.monotonic() + limit, [], 0
    with hub_session().stream("GET", fs.url(path), headers=headers, timeout=retry.TIMEOUT_S) as answer:
        answer.raise_for_status()
        _check_range(answer.status_code, answer.headers, begin, end)
        for piece in answer.iter_raw():
            pieces.append(piece)
            size += len(piece)
            if size > end - begin:
                raise _too_much(begin, end, answer.status_code)
            if time.monotonic() > stop:
                raise TimeoutError
    return b"".join(pieces)


def _plain_request(fs: Any) -> dict[str, Any]:
    return {**fs.kwargs, "headers": {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}}


def _check_plain(headers: Mapping[str, str]) -> None:
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise RefusedError(f"the server sends compressed content (Content-Encoding: {encoding[:40]}), which was not asked for")


def _check_range(status: int, headers: Mapping[str, str], begin: int, end: int) -> None:
    _check_plain(headers)
    if status != 206 and begin:
        raise _too_much(begin, end, status)
    told = headers.get("Content-Range", "")
    if status == 206 and told and not told.replace("=", " ").startswith(f"bytes {begin}-"):
        raise RefusedError(f"the server sends {told[:60]!r} for bytes {begin} to {end}")


def _too_much(begin: int, end: int, status: int = 206) -> RefusedError:
    cause = "" if status == 206 else ": the server ignores range requests"
    return RefusedError(f"more than the {end - begin} bytes came that were asked for, from byte {begin} on{cause}")
