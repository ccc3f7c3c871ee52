"""Open source: opens the value of `--data` as an indexed source. The user states the kind (`wds:...`), or it is recognised.

| kind | what it is | recognised by |
|---|---|---|
| `folder` | class folders with images, or images | a folder |
| `wds` | webdataset shards | `.tar`, or a folder with `.tar` files |
| `parquet` | tables with a column of images | `.parquet`, or a folder with `.parquet` files |
| `npz` | arrays; `FILE.npz#test` | `.npz` |
| `torchvision` | a data set by name; `torchvision:NAME@ROOT#SPLIT` | only when stated |

All but the last may be URLs that fsspec supports: `https://`, `s3://`, `hf://datasets/...`.
"""

from __future__ import annotations

import os
from pathlib import Path

from reinforce.errors import SourceError
from reinforce.sources.arrays import Arrays
from reinforce.sources.folder import ImageFolder
from reinforce.sources.location import is_remote, unreadable
from reinforce.sources.parquet import Parquet
from reinforce.sources.remote_names import names_below
from reinforce.sources.retry import OutageError, RefusedError
from reinforce.sources.shards import Shards
from reinforce.sources.source import Source
from reinforce.sources.torchvision_set import TorchvisionSet

KINDS: dict[str, type[Source]] = {kind.kind: kind for kind in (Shards, Parquet, Arrays, TorchvisionSet, ImageFolder)}
"""In the order in which they are tried; if no kind recognises the value, it is taken as a folder of images."""


def open_source(data: str | Path | Source, download: bool = False) -> Source:
    """Open a source of any kind.

    Args:
        data: The value of `--data`; a source is returned unchanged.
        download: Fetch a torchvision data set whose files are missing.

    Raises:
        SourceError: the source cannot be opened; the message says why.
    """
    if isinstance(data, Source):
        return data
    text = str(data)
    stated, colon, rest = text.partition(":")
    if colon and stated in KINDS and not os.path.exists(text):
        kind = KINDS[stated]
    else:
        kind, rest = _recognised(text), text
    if kind.in_folders and kind.suffix is not None:
        rest = _inside(rest, kind.suffix)
    return kind.open_option(rest, download)


def _recognised(text: str) -> type[Source]:
    lower = text.partition("#")[0].lower()
    for kind in KINDS.values():
        if kind.recognises(lower, ()):
            return kind
    if lower.endswith((".tar.gz", ".tgz", ".zip")):
        raise SourceError(
            f"{text} is compressed.", found=os.path.basename(text), expected="an uncompressed .tar", fix="decompress it"
        )
    names = _names_in(text)
    return next((kind for kind in KINDS.values() if kind.recognises(lower, names)), ImageFolder)


def _inside(text: str, suffix: str) -> str:
    """The pattern of all files of the kind in a folder; a file or a pattern is returned unchanged."""
    if text.endswith(suffix) or any(c in text for c in "*{") or os.path.isfile(text):
        return text
    return f"{text.rstrip('/')}/*{suffix}"


def _names_in(folder: str) -> list[str]:
    if not is_remote(folder):
        return os.listdir(folder) if os.path.isdir(folder) else []
    try:
        return names_below(folder, levels=1)
    except (OutageError, RefusedError) as error:
        raise unreadable(folder, error) from None
    except OSError:  # some servers cannot list a folder; then the user must state the kind
        return []
