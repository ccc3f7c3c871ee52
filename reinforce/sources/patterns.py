"""Patterns: finds the files that a pattern such as `shards-{000..127}.tar` or `*.parquet` matches, local or at a URL."""

from __future__ import annotations

import glob
from functools import partial

from braceexpand import braceexpand

from reinforce.errors import SourceError
from reinforce.sources.location import is_remote, unreadable
from reinforce.sources.retry import retried
from reinforce.sources.server import file_system

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
                found += sorted(retried(partial(_glob, each), each))
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
    fs, path = file_system(url)
    return [str(fs.unstrip_protocol(p)) for p in fs.glob(path)]
