"""Shards: a source of webdataset shards with `KEY.jpg` and `KEY.cls`, local or at URLs.

Shards are not unpacked: an image is read from its byte offset in the tar file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reinforce.errors import SourceError, StoreError
from reinforce.long_work import long_work
from reinforce.settings import MAX_BYTES
from reinforce.sources.column import numbers, texts
from reinforce.sources.kept_table import kept_table
from reinforce.sources.location import File, ServerDownError, is_remote
from reinforce.sources.pack_folder import PackFolder, indexed, missing_shards, pack_beside, parse_class_names
from reinforce.sources.pack_manifest import CLASS_NAMES
from reinforce.sources.patterns import expand
from reinforce.sources.source import Source, check_index, check_texts, numbered_classes
from reinforce.sources.tar_members import tar_members

_PLACE = ("offset", "size", "rein_offset", "rein_size")
_INDEX = pa.schema(
    [pa.field("key", pa.string()), pa.field("label", pa.int64()), pa.field("place", pa.list_(pa.int64(), 1 + len(_PLACE)))]
)
_LOCAL_THREADS = 4  # so that a disk has several requests at a time


@dataclass(frozen=True)
class Shards(Source):
    """Indexed shards.

    `places` are int64 `[N, 5]`: number of the shard, offset and size of the image, offset and size of its `.rein` (0: none).

    Attributes:
        shards: The tar files.
        pack: The files that `reinforce pack` wrote beside the shards; None if it did not make them.
    """

    shards: tuple[File, ...] = ()
    pack: PackFolder | None = None

    kind = "wds"
    suffix = ".tar"
    in_folders = True

    @classmethod
    def open(cls, pattern: str) -> Shards:
        """Index shards: a file, a glob, or brace ranges as in `shards-{000..127}.tar`.

        `FOLDER/*.tar` means all shards of a folder: if a pack is there, none of them may be missing.

        Raises:
            SourceError: no such files, not shards, labels for some samples only, or two images with the same key.
            StoreError: shards that are not those of the pack beside them, or not all of them.
        """
        return cls.open_some(pattern, complete=pattern.rpartition("/")[2] == f"*{cls.suffix}")

    @classmethod
    def open_some(cls, pattern: str, complete: bool = False) -> Shards:
        """The same; `complete`: refuse to open some of the shards of a pack.

        Raises:
            SourceError: as `open` does.
            StoreError: as `open` does.
        """
        locations = expand(pattern)
        pack = pack_beside(locations[0])
        if pack is not None and complete and (missing := missing_shards(pack, locations)):
            raise StoreError(
                f"{len(missing)} of {len(pack.pack.shards)} shards of the pack are missing.",
                found=f"no {missing[0]} in {pack.location}",
                expected="all shards that pack.json lists",
                cause="an incomplete copy",
                fix="copy them again; to use some shards only, name them, as in shards-{000000..000003}.tar",
            )
        with ThreadPoolExecutor(8 if is_remote(pattern) else _LOCAL_THREADS) as pool:
            shards = tuple(pool.map(File.open, locations))
            made_from = "\n".join(["shards-1", "" if pack is None else pack.sha256, *(file.fingerprint for file in shards)])

            def make() -> pa.RecordBatch:
                return _index(indexed(pack, shards) if pack else _scanned(pool.map(tar_members, shards), len(shards)), shards)

            table = kept_table(made_from, _INDEX, make)
        keys, given = texts(table["key"]), table["label"]
        labels = None if given.null_count else numbers(given)
        named = _class_names(locations[0]) if pack is None else pack.class_names()
        names = numbered_classes(labels, named, pattern) if labels else ()
        check_texts(names)
        places = table["place"].values.to_numpy().reshape(-1, 1 + len(_PLACE))
        number = places[:, 0]
        return cls(pattern, keys, labels or None, names, places, number, shards, pack)

    @property
    def has_labels(self) -> bool:
        return self.pack is not None and self.pack.pack.labels is not None

    def read(self, index: int) -> bytes:
        shard, offset, size, _, _ = self.places[index].tolist()
        content: bytes = self.shards[shard].read(offset, size)
        return content

    def read_rein(self, index: int) -> bytes:
        """The bytes of a sample's `.rein` member: its params and soft labels.

        Raises:
            OSError: the shard has none for this sample, or it cannot be read.
        """
        shard, _, _, offset, size = self.places[index].tolist()
        if not size:
            raise OSError("no .rein beside the image")
        content: bytes = self.shards[shard].read(offset, size)
        return content

    def where(self, index: int) -> str:
        return f"{self.keys[index]} in {self.shards[int(self.places[index, 0])].location}"


def _index(members: Sequence[pa.Table], shards: Sequence[File]) -> pa.RecordBatch:
    """The samples of all shards, with the columns of `_INDEX`.

    Raises:
        SourceError: no samples, labels for some of them only, or two with the same key.
    """
    table = pa.concat_tables(members).combine_chunks()
    number = np.repeat(np.arange(len(members)), [len(each) for each in members])
    keys, given = texts(table["key"]), table["label"].combine_chunks()
    if 0 < given.null_count < len(given):
        absent = keys[pc.index(given.is_null(), True).as_py()]
        raise SourceError(
            "Some samples have a label and others have none.",
            found=f"no .cls for {given.null_count} of {len(given)} images, such as {absent}",
            expected="KEY.cls for every image, or for none",
            fix="pack the shards again",
        )
    check_index(keys, (f"{key} in {shards[s].location}" for key, s in zip(keys, number.tolist(), strict=True)))
    places = np.stack([number, *(table[name].to_numpy() for name in _PLACE)], axis=1)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(places.reshape(-1)), places.shape[1])
    return pa.RecordBatch.from_arrays([keys.array, given, flat], schema=_INDEX)


def _scanned(tables: Iterator[pa.Table], total: int) -> list[pa.Table]:
    shown, found = long_work("index", "shards"), []
    for each in tables:
        found.append(each)
        shown(len(found), total)
    return found


def _class_names(first: str) -> Sequence[str] | None:
    """Class names from `class_names.json` beside the first shard; None if there is no such file."""
    beside = f"{first.rpartition('/')[0]}/{CLASS_NAMES}" if "/" in first else CLASS_NAMES
    try:
        file = File.open(beside)
        text = file.read(0, min(file.size, MAX_BYTES))
    except ServerDownError:
        raise
    except (SourceError, OSError):
        return None
    return parse_class_names(text, beside)
