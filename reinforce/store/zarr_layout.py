"""Zarr layout: check the layout of a block's arrays by their metadata, and read their chunks without zarr.

A block is ordinary zarr v3, which any zarr library reads. But with zarr, opening a block takes ten milliseconds and one view's
params two more, and ImageNet has 2,503 blocks. And zarr runs whatever codecs the metadata names, to whatever size they unfold:
fifty bytes can become gigabytes. Here only the codecs of the format are known, and sizes are checked before memory is taken.
Source: FORMAT.md, "Blocks" and "Bounds"; the zarr v3 specification, `sharding_indexed`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
import zstandard
from numcodecs import blosc

from reinforce.files import open_plain, read_at_most

STRIPE_ARRAYS = {"records": 1, "offsets": 1, "params": 3}
"""Names of the arrays of a block's first stripe of views, and how many dimensions they have; see `stripe_array`."""

ARRAYS = {
    "probes": 1,
    "sha256": 2,
    "crc32c": 1,
    "width_height": 2,
    "status": 1,
    "label_error": 2,
}
"""The same for the arrays that belong to no stripe. Their one chunk is raw, or one zstd frame."""

MAX_PARAMS_BYTES = 1 << 30
"""Largest params of a block, in bytes when decompressed: S x V x P x 4."""

_DTYPES = {
    "records": "uint8",
    "offsets": "uint64",
    "params": "int32",
    "witness": "uint32",
    "probes": "uint32",
    "sha256": "uint8",
    "crc32c": "uint32",
    "width_height": "uint32",
    "status": "uint8",
    "label_error": "float32",
}
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_BLOSC_HEADER = 16
_ZSTD = {"name": "zstd"}


class ArrayLayout(NamedTuple):
    """What the metadata of an array says: its shape, and whether its one chunk is a zstd frame."""

    shape: tuple[int, ...]
    compressed: bool


def stripe_array(name: str, stripe: int) -> str:
    """The name of an array in a stripe of views: `params`, `params_1`, `params_2`."""
    return f"{name}_{stripe}" if stripe else name


@lru_cache(maxsize=256)  # the blocks of a data set share a few texts; only the length of the records differs
def check_layout(name: str, text: bytes, samples: int, views: int, columns: int) -> ArrayLayout:
    """Check the metadata of one array; S, V and P as in FORMAT.md.

    Raises:
        ValueError: not JSON, or not the array that the format describes.
    """
    about = json.loads(text)
    sizes = {"offsets": (samples + 1,), "params": (samples, views, columns), "sha256": (samples, 32)}
    sizes |= {"width_height": (samples, 2), "label_error": (samples, 3)}
    shape = tuple(about["shape"])
    expected = sizes.get(name, (samples,)) if name != "records" else (shape[0],) if len(shape) == 1 else ()
    if shape != expected or not all(type(n) is int and n > 0 for n in shape) or about["data_type"] != _DTYPES[name]:
        raise ValueError(f"{name} is {about['data_type']} {list(shape)}, expected {_DTYPES[name]} {list(expected)}")
    chunks = about["chunk_grid"]["configuration"]["chunk_shape"]
    separator = about["chunk_key_encoding"].get("configuration", {}).get("separator", "/")
    if tuple(chunks) != shape or separator != "/" or about["chunk_key_encoding"]["name"] != "default":
        raise ValueError(f"{name} is not one chunk, or under another name")
    codecs = about["codecs"]
    if name == "params":
        _check_shard(codecs, samples, columns)
        return ArrayLayout(shape, True)
    found = [_plain(codec) for codec in codecs[:3]]
    if found == [_plain(_LITTLE)]:
        return ArrayLayout(shape, False)
    if name not in ARRAYS:
        raise ValueError(f"{name} is compressed")
    if found != [_plain(_LITTLE), _plain(_ZSTD)]:
        raise ValueError(f"{name} has other codecs than `bytes` and `zstd`")
    return ArrayLayout(shape, True)


def _plain(codec: Any) -> str:
    # Metadata of single-byte types has no byte order.
    return str(codec["name"]) + str(codec.get("configuration", {}).get("endian", "little"))


def read_one_chunk(path: str, name: str, layout: ArrayLayout) -> np.ndarray:
    """An array that is one chunk: any of a block but `params` and `records`.

    Args:
        path: The file of the chunk.
        name: The array's name in FORMAT.md.
        layout: What its metadata says.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    dtype = np.dtype(_DTYPES[name]).newbyteorder("<")
    size = math.prod(layout.shape) * dtype.itemsize
    longest = size + size // 128 + 1024 if layout.compressed else size  # zstd adds a little to what it cannot compress
    content = read_at_most(path, longest)
    if len(content) > longest or (not layout.compressed and len(content) != size):
        raise ValueError(f"a chunk of {len(content)} bytes or more, expected {size}")
    if layout.compressed:
        try:
            if (stated := zstandard.get_frame_parameters(content).content_size) != size:  # checked first: zstd trusts it
                raise ValueError(f"a frame of {stated} bytes when decompressed, expected {size}")
            content = zstandard.ZstdDecompressor().decompress(content, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ValueError(f"zstd: {error}") from None
    return np.frombuffer(content, dtype).reshape(layout.shape)


def _check_shard(codecs: Any, samples: int, columns: int) -> None:
    shard = codecs[0]["configuration"] if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed" else {}
    inner = [c["name"] for c in shard.get("codecs", [])]
    index = [c["name"] for c in shard.get("index_codecs", [])]
    as_expected = (
        shard.get("chunk_shape") == [samples, 1, columns]
        and inner == ["transpose", "bytes", "blosc"]
        and shard["codecs"][0]["configuration"]["order"] == [1, 2, 0]
        and _plain(shard["codecs"][1]) == _plain(_LITTLE)
        and index == ["bytes", "crc32c"]
        and _plain(shard["index_codecs"][0]) == _plain(_LITTLE)
        and shard.get("index_location", "end") == "end"
    )
    if not as_expected:
        raise ValueError("params is not a shard with a chunk per view, transposed, in Blosc")


def read_inner_chunks(path: str, numbers: Iterable[int], count: int, size: int) -> Iterator[bytes]:
    """Chunks of a shard file, decompressed.

    Args:
        path: The file: chunks, then an index of offset and length of each, `<u8`, and its CRC-32C.
        numbers: Numbers of the chunks.
        count: How many chunks the shard has.
        size: Bytes of a chunk when decompressed.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
        RuntimeError: Blosc cannot read a chunk.
    """
    with open_plain(path) as file:
        at_index = os.fstat(file.fileno()).st_size - 16 * count - 4
        if at_index < 0:
            raise ValueError("the shard is shorter than its index")
        file.seek(at_index)
        tail = file.read(16 * count + 4)
        if google_crc32c.value(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
            raise ValueError("the index of the shard does not have its checksum")
        for number in numbers:
            if not 0 <= number < count:
                raise ValueError(f"no chunk {number} of {count}")
            offset, length = (int(n) for n in np.frombuffer(tail, "<u8", 2, 16 * number))
            if length < _BLOSC_HEADER or offset + length > at_index:
                raise ValueError("a chunk that is not there")
            if length > size + _BLOSC_HEADER:  # what Blosc cannot compress it copies
                raise ValueError("a chunk of another size")
            file.seek(offset)
            chunk = file.read(length)
            # Blosc trusts the sizes in the chunk's header (decompressed, compressed): check them before decoding.
            if [int.from_bytes(chunk[i : i + 4], "little") for i in (4, 12)] != [size, length]:
                raise ValueError("a chunk of another size")
            yield bytes(blosc.decompress(chunk))
