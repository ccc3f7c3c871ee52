"""Patterns: finds the files that a pattern such as `shards-{000..127}.tar` or `*.parquet` matches, local or at a URL."""

from __future__ import annotations

import glob
import re

from braceexpand import braceexpand
from fsspec.utils import glob_translate

from reinforce.errors import SourceError
from reinforce.sources.location import exists, is_remote, unreadable
from reinforce.sources.remote_names import names_below

MAX_EXPANDED = 1_000_000
"""Most names to which a pattern may expand."""


def expand(pattern: str) -> list[str]:
    """The files that a pattern matches: brace ranges in their order, globs sorted.

    Raises:
        SourceError: the pattern matches no file, or expands to more than `MAX_EXPANDED` names.
    """
    found: list[str] = []
    for each in _braces(pattern):
        if not any(c in each for c in "*?["):
            found.append(each)
        elif is_remote(each):
            try:
                found += sorted(_glob(each))
            except OSError as error:
                raise unreadable(each, error) from None
        else:
            found += sorted(glob.glob(each, recursive=True))
    if not found:
        raise SourceError(f"No file matches {pattern}.", expected="existing files", fix="check --data")
    return found


def _braces(pattern: str) -> list[str]:
    expanded = []
    try:
        for each in braceexpand(pattern):
            expanded.append(each)
            if len(expanded) > MAX_EXPANDED:
                raise ValueError(f"more than {MAX_EXPANDED} names")
    except ValueError as error:
        raise SourceError(
            f"{pattern} is not a valid pattern of files.", found=str(error), expected="as in shards-{000..127}.tar"
        ) from None
    return expanded


def _glob(url: str) -> list[str]:
    signs = "*[" if url.startswith(("http://", "https://")) else "*?["  # there, a question mark begins a query
    place = min((url.index(c) for c in signs if c in url), default=None)
    if place is None:
        return [url] if exists(url) else []
    outer = url[: url.rindex("/", 0, place) + 1]
    inner = url[len(outer) :]
    wanted = re.compile(glob_translate(inner))
    levels = None if "**" in inner else inner.count("/") + 1
    return [outer + name for name in names_below(outer, levels) if wanted.match(name)]
