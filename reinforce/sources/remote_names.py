"""Remote names: the files that a bucket, a folder of the Hub or a page of links has, up to a bound.

Each page has a time-out, and is asked for again. fsspec's own `find`, `glob` and `ls` are not used: they follow whatever a
server lists, without end, and keep it all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urljoin

from fsspec.asyn import AsyncFileSystem, sync

from reinforce.sources import retry
from reinforce.sources.retry import RefusedError, retried
from reinforce.sources.server import file_system, hub_page, is_http, is_hub, page_text, timed

MAX_NAMES = 1 << 24
"""Files that a place may list; ImageNet-21k has 14 million."""
MAX_PAGES = 1 << 17
"""Requests for names of one place: of folders at web servers, or of a thousand names in a bucket."""
MAX_LEVELS = 32
"""Folders in folders, at a web server."""
_LINK = re.compile(r"""<a\s[^<>]{0,2000}?href\s*=\s*["']([^"'<>]{1,4096})["']""", re.IGNORECASE)
_Page = tuple[list[str], list[str], str | None]
"""Paths of files and of folders below the place, and what to ask for next."""


def names_below(url: str, levels: int | None = None) -> list[str]:
    """Paths of the files below a folder at a server, relative to it, sorted.

    Args:
        url: The folder, or a bucket.
        levels: 1: only files that are directly in it; default: all.

    Raises:
        RefusedError: it lists more than the bounds allow.
        OSError: as `retried` raises it: FileNotFoundError, PermissionError and others.
    """
    fs, base = file_system(url)
    flat = levels is None and ("s3" in fs.protocol or is_hub(fs, base))
    found: set[str] = set()
    folders, pages = [""], 0
    while folders:
        folder, then = folders.pop(), None
        while True:
            pages += 1
            if pages > MAX_PAGES or len(found) > MAX_NAMES:
                raise RefusedError(f"it lists more than {MAX_NAMES} files, or they take more than {MAX_PAGES} requests")
            files, inner, then = retried(lambda f=folder, t=then: _page(fs, base, f, t, flat), url)  # type: ignore[misc]
            found.update(files)
            deeper = folder.count("/") + 1  # `folder` ends with a slash, or is empty
            if not flat and (levels is None or deeper < levels):
                if inner and deeper > MAX_LEVELS:
                    raise RefusedError(f"folders in folders, {MAX_LEVELS} deep")
                folders += inner
            if then is None:
                break
    return sorted(name for name in found if levels is None or name.count("/") < levels)


def _page(fs: Any, base: str, folder: str, then: str | None, flat: bool) -> _Page:
    if is_http(fs):
        return _http_page(fs, f"{base.rstrip('/')}/{folder}" if folder else base, folder)
    if "s3" in fs.protocol:
        return _s3_page(fs, base, folder, then, flat)
    if is_hub(fs, base):
        return _hub_page(fs, base, folder, then, flat)
    place = f"{base.rstrip('/')}/{folder}".rstrip("/")
    entries = (
        sync(fs.loop, timed, fs._ls(place, detail=True), _page_s()) if isinstance(fs, AsyncFileSystem) else fs.ls(place, True)
    )
    return _split(((str(e["name"]), e["type"] == "directory") for e in entries), base)


def _page_s() -> float:
    return 4 * retry.TIMEOUT_S


def _split(entries: Iterator[tuple[str, bool]], base: str) -> _Page:
    """Entries, by name as the file system has them and whether they are folders, as paths below `base`."""
    outer = base.rstrip("/") + "/"
    inside = [(name.removeprefix(outer), folder) for name, folder in entries if name.startswith(outer) and name != outer]
    return [n for n, folder in inside if not folder], [f"{n.rstrip('/')}/" for n, folder in inside if folder], None


def _http_page(fs: Any, url: str, folder: str) -> _Page:
    text = sync(fs.loop, timed, page_text(fs, url), _page_s())
    outer, files, folders = url.rstrip("/") + "/", set[str](), set[str]()
    for link in _LINK.findall(text):
        try:
            place = urljoin(outer, link)
        except ValueError:
            continue
        name = place.removeprefix(outer)
        if name and name != place and not set(name) & set("?#") and name.count("/") == name.endswith("/"):
            (folders if name.endswith("/") else files).add(folder + name)
    return sorted(files), sorted(folders), None


def _s3_page(fs: Any, base: str, folder: str, then: str | None, flat: bool) -> _Page:
    bucket, key, _ = fs.split_path(base)
    outer = f"{key.rstrip('/')}/" if key else ""
    more = ({} if then is None else {"ContinuationToken": then}) | ({} if flat else {"Delimiter": "/"})
    call = fs._call_s3("list_objects_v2", Bucket=bucket, Prefix=outer + folder, **more)
    answer = sync(fs.loop, timed, call, _page_s())
    files = [e["Key"].removeprefix(outer) for e in answer.get("Contents", []) if not e["Key"].endswith("/")]
    folders = [e["Prefix"].removeprefix(outer) for e in answer.get("CommonPrefixes", [])]
    return files, folders, answer.get("NextContinuationToken") if answer.get("IsTruncated") else None


def _hub_page(fs: Any, base: str, folder: str, then: str | None, flat: bool) -> _Page:
    about = fs.resolve_path(base)
    outer = f"{about.path_in_repo.rstrip('/')}/" if about.path_in_repo else ""
    if then is None:
        kind = f"{about.repo_type}s/{about.repo_id}/tree/{quote(about.revision, safe='')}"
        inside = quote((outer + folder).rstrip("/"))
        then = f"{fs.endpoint}/api/{kind}{'/' if inside else ''}{inside}?recursive={'true' if flat else 'false'}"
    entries, then = hub_page(fs, then)
    inside_ = [(str(e["path"]).removeprefix(outer), e["type"]) for e in entries if str(e["path"]).startswith(outer)]
    return [p for p, kind in inside_ if kind == "file"], [f"{p}/" for p, kind in inside_ if kind == "directory"], then
