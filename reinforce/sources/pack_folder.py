"""Pack folder: the files that `reinforce pack` wrote beside its shards, local or at a URL.

The SHA-256 of each file is checked when it is read.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from reinforce.errors import SourceError, StoreError, first_line
from reinforce.settings import MAX_BYTES, read_model
from reinforce.sources.location import File, ServerDownError
from reinforce.sources.pack_manifest import CLASS_NAMES, INDEX, PACK, Pack
from reinforce.sources.table_guard import BYTES_PER_ROW, MAX_TABLE, SPARE_BYTES, read_table
from reinforce.sources.tar_members import lie_within

MAX_MIXING = (1 << 30) + (1 << 21)
"""Largest file of pairs, in bytes: a block's params are at most 2^30, and the frame of each view has less than 32 more."""
INDEX_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("rein_offset", pa.int64(), nullable=False),
        pa.field("rein_size", pa.int64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class PackFolder:
    """A pack.

    Attributes:
        location: Folder or URL, without a slash at its end.
        pack: The manifest, `pack.json`.
        sha256: SHA-256 of the file `pack.json`.
    """

    location: str
    pack: Pack
    sha256: str

    def read(self, path: str) -> bytes:
        """The content of a file of the pack that is not a shard.

        Raises:
            StoreError: the manifest does not list the file, or the hash differs from the manifest.
            SourceError: the file cannot be read.
        """
        return self.checked(path)[1]

    def checked(self, path: str) -> tuple[File, bytes]:
        """Like `read`, and also returns the `File`, from which parts can be read again later.

        Raises:
            StoreError: the manifest does not list the file, or the hash differs from the manifest.
            SourceError: the file cannot be read.
        """
        if path not in self.pack.files:
            raise StoreError(f"The pack has no {path}.", found=self.location, fix="pack again")
        try:
            file = File.open(f"{self.location}/{path}")
            if file.size > (most := self._most(path)):  # before it is read: its hash can only be compared behind that
                raise OSError(f"{file.size} bytes; at most {most} are read")
            content = file.read()
        except OSError as error:
            raise SourceError(f"{self.location}/{path} cannot be read.", found=error, fix="copy it again") from None
        found = hashlib.sha256(content).hexdigest()
        if found != self.pack.files[path]:
            raise StoreError(
                f"{path} is not the file of the pack.",
                found=f"sha256 {found[:16]}...",
                expected=f"sha256 {self.pack.files[path][:16]}...",
                cause="a broken copy, or a file changed by hand",
                fix="copy it again",
            )
        return file, content

    def _most(self, path: str) -> int:
        """Most bytes that a file of the pack may have."""
        if path == INDEX:
            return min(BYTES_PER_ROW * self.pack.num_samples + SPARE_BYTES, MAX_TABLE)
        return {CLASS_NAMES: MAX_BYTES, "samples.parquet": MAX_TABLE}.get(path, MAX_MIXING)

    def class_names(self) -> list[str] | None:
        """Names of the classes; None if the pack has none."""
        return parse_class_names(self.read(CLASS_NAMES), CLASS_NAMES) if CLASS_NAMES in self.pack.files else None


def parse_class_names(text: bytes, name: str) -> list[str]:
    """The names in the text of a `class_names.json`.

    Raises:
        SourceError: the text is not a list of distinct names.
    """
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        names = error
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) != len(names):
        raise SourceError(f"{name} is not valid.", found=str(names)[:80], expected="a JSON list of distinct class names")
    return names


def pack_beside(shard: str) -> PackFolder | None:
    """The pack whose `pack.json` is in the same folder as a shard; None if there is no such file.

    Raises:
        StoreError: there is a `pack.json`, but it is not valid.
        ServerDownError: whether there is one is not known.
    """
    location = shard.rpartition("/")[0] if "/" in shard else "."
    try:
        file = File.open(f"{location}/{PACK}")
        text = file.read(0, min(file.size, MAX_BYTES + 1))
    except ServerDownError:
        raise
    except (SourceError, OSError):
        return None
    return PackFolder(location, read_model(Pack, text, f"{location}/{PACK}"), hashlib.sha256(text).hexdigest())


def missing_shards(folder: PackFolder, locations: Sequence[str]) -> list[str]:
    """Names of the shards that `pack.json` lists and that are not among these locations."""
    there = {location.rpartition("/")[2] for location in locations}
    return [shard.name for shard in folder.pack.shards if shard.name not in there]


def indexed(folder: PackFolder, shards: Sequence[File]) -> list[pa.Table]:
    """The images of each shard, with the columns of the pack's index, read instead of the shards' headers.

    Raises:
        StoreError: a shard is not part of the pack, or the index does not fit the shards.
    """
    number_of = {shard.name: number for number, shard in enumerate(folder.pack.shards)}
    numbers = []
    for file in shards:
        name = file.location.rpartition("/")[2]
        number = number_of.get(name)
        if number is None or folder.pack.shards[number].bytes != file.size:
            raise StoreError(
                f"{name} is not a shard of the pack beside it.",
                found=f"{file.size} bytes",
                expected="a shard that pack.json lists" if number is None else f"{folder.pack.shards[number].bytes} bytes",
                cause="a broken copy, or shards of two packs in one folder",
                fix="copy it again",
            )
        numbers.append(number)
    sizes, counts = (np.array([getattr(s, name) for s in folder.pack.shards], np.int64) for name in ("bytes", "samples"))
    try:
        table = read_table(io.BytesIO(folder.read(INDEX)), INDEX, folder.pack.num_samples, INDEX_SCHEMA)
        if any(table[field.name].null_count for field in INDEX_SCHEMA if not field.nullable):
            raise ValueError("a place that is missing")
        own = table["shard"].to_numpy()
        known = (own >= 0) & (own < len(sizes))
        inside = known & lie_within(table, sizes[np.where(known, own, 0)])
        if not inside.all():
            raise ValueError(f"{table['key'][int(inside.argmin())].as_py()} past the end of its shard")
        found = np.bincount(own, minlength=len(sizes))
        if (wrong := np.flatnonzero(found != counts)).size:
            shard = folder.pack.shards[wrong[0]]
            raise ValueError(f"{found[wrong[0]]} samples in {shard.name}, {shard.samples} by {PACK}")
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise StoreError(
            f"{INDEX} is damaged.", found=first_line(error), expected="the table of FORMAT.md", fix="copy it again"
        ) from None
    if np.any(np.diff(own) < 0):
        table = table.take(pa.array(np.argsort(own, kind="stable")))
    ends = np.cumsum(counts)
    return [table.slice(ends[number] - counts[number], counts[number]) for number in numbers]
