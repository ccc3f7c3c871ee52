"""Open source: from what a user gives as `--data` to an indexed source. The kind is stated, `wds:...`, or recognised.

| kind | what | recognised by |
|---|---|---|
| `folder` | class folders with images, or images | a folder |
| `wds` | webdataset shards | `.tar`, or a folder with some |
| `parquet` | tables with a column of images | `.parquet`, or a folder with some |
| `npz` | arrays; `FILE.npz#test` | `.npz` |
| `torchvision` | a data set by name; `torchvision:NAME@ROOT#SPLIT` | only when stated |

All but the last may be URLs that fsspec knows: `https://`, `s3://`, `hf://datasets/...`.
"""

from __future__ import annotations

import os
from pathlib import Path

from reinforce.errors import SourceError
from reinforce.sources.arrays import Arrays
from reinforce.sources.folder import ImageFolder
from reinforce.sources.location import file_system, is_remote
from reinforce.sources.parquet import Parquet
from reinforce.sources.shards import Shards
from reinforce.sources.source import Source
from reinforce.sources.torchvision_set import TorchvisionSet

KINDS: dict[str, type[Source]] = {kind.kind: kind for kind in (Shards, Parquet, Arrays, TorchvisionSet, ImageFolder)}
"""In the order in which they are tried; what none recognises is a folder of images."""


def open_source(data: str | Path | Source, download: bool = False) -> Source:
    """Open a source of any kind.

    Args:
        data: What `--data` takes; a source is given back as it is.
        download: Fetch a torchvision data set that is not there.

    Raises:
        SourceError: whatever is wrong with it.
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
    """A folder stands for all files of the kind in it."""
    if text.endswith(suffix) or any(c in text for c in "*{") or os.path.isfile(text):
        return text
    return f"{text.rstrip('/')}/*{suffix}"


def _names_in(folder: str) -> list[str]:
    if not is_remote(folder):
        return os.listdir(folder) if os.path.isdir(folder) else []
    try:
        fs, path = file_system(folder)
        return [str(name) for name in fs.ls(path, detail=False)]
    except Exception:  # noqa: BLE001 - not every server lists; then the kind must be stated
        return []
