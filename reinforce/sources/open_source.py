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

KINDS = ("folder", "wds", "parquet", "npz", "torchvision")


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
    if not (colon and stated in KINDS) or os.path.exists(text):
        stated, rest = _recognised(text), text
    if stated == "torchvision":
        return TorchvisionSet.open(rest, download)
    if download:
        raise SourceError(
            "--download is for data sets of torchvision.", found=text, expected="torchvision:NAME", fix="leave --download out"
        )
    if stated == "npz":
        return Arrays.open(rest)
    if stated == "folder":
        return ImageFolder.open(rest)
    kind, suffix = (Shards, ".tar") if stated == "wds" else (Parquet, ".parquet")
    return kind.open(_inside(rest, suffix))


def _recognised(text: str) -> str:
    lower = text.partition("#")[0].lower()
    for kind, suffix in (("wds", ".tar"), ("parquet", ".parquet"), ("npz", ".npz")):
        if lower.endswith(suffix):
            return kind
    if lower.endswith((".tar.gz", ".tgz", ".zip")):
        raise SourceError(
            f"{text} is compressed.", found=os.path.basename(text), expected="an uncompressed .tar", fix="decompress it"
        )
    names = _names_in(text)
    if any(n.endswith(".tar") for n in names):
        return "wds"
    if any(n.endswith(".parquet") for n in names):
        return "parquet"
    return "folder"


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
    except Exception:  # not every server lists; then the kind must be stated
        return []
