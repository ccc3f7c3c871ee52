"""Zarr layout: check the layout of a block's arrays by their metadata, and read one inner chunk of `params` without zarr.

A block is ordinary zarr v3, which any zarr library reads. But with zarr, opening a block takes ten milliseconds and one view's
params two more, and ImageNet has 2,503 blocks. Source: FORMAT.md, "Blocks"; the zarr v3 specification, `sharding_indexed`.
"""

from __future__ import annotations

import json
import os
from functools import lru_cache
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import blosc

STRIPE_ARRAYS = {"records": 1, "offsets": 1, "params": 3}
"""Names of the arrays of a block's first stripe of views, and how many dimensions they have; see `stripe_array`."""

ARRAYS = {
    "probes": 1,
    "sha256": 2,
    "width_height": 2,
    "status": 1,
    "label_error": 2,
}
"""The same for the arrays that belong to no stripe."""

_DTYPES = {
    "records": "uint8",
    "offsets": "uint64",
    "params": "int32",
    "witness": "uint32",
    "probes": "uint32",
    "sha256": "uint8",
    "width_height": "uint32",
    "status": "uint8",
    "label_error": "float32",
}
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_BLOSC_HEADER = 16


def stripe_array(name: str, stripe: int) -> str:
    """The name of an array in a stripe of views: `params`, `params_1`, `params_2`."""
    return f"{name}_{stripe}" if stripe else name


@lru_cache(maxsize=256)  # the blocks of a data set share a few texts; only the length of the records differs
def check_layout(name: str, text: bytes, samples: int, views: int, columns: int) -> int:
    """Check the metadata of one array; S, V and P as in FORMAT.md.

    Returns:
        Length of its first axis.

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
    if name in ("records", "offsets", "witness") and [_plain(c) for c in codecs] != [_plain(_LITTLE)]:
        raise ValueError(f"{name} is compressed")
    if name == "params":
        _check_shard(codecs, samples, columns)
    return int(shape[0])


def _plain(codec: Any) -> str:
    # Metadata of single-byte types has no byte order.
    return str(codec["name"]) + str(codec.get("configuration", {}).get("endian", "little"))


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


def read_inner_chunk(path: str, number: int, count: int, size: int) -> bytes:
    """One chunk of a shard file.

    Args:
        path: The file: chunks, then an index of offset and length of each, `<u8`, and its CRC-32C.
        number: Number of the chunk.
        count: How many chunks the shard has.
        size: Bytes of the chunk when decompressed.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
        RuntimeError: Blosc cannot read the chunk.
    """
    if not 0 <= number < count:
        raise ValueError(f"no chunk {number} of {count}")
    with open(path, "rb") as file:
        at_index = os.fstat(file.fileno()).st_size - 16 * count - 4
        if at_index < 0:
            raise ValueError("the shard is shorter than its index")
        file.seek(at_index)
        tail = file.read(16 * count + 4)
        if google_crc32c.value(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
            raise ValueError("the index of the shard does not have its checksum")
        offset, length = (int(n) for n in np.frombuffer(tail, "<u8", 2, 16 * number))
        if length < _BLOSC_HEADER or offset + length > at_index:
            raise ValueError("a chunk that is not there")
        file.seek(offset)
        chunk = file.read(length)
    # Blosc trusts the sizes in the chunk's header (decompressed, compressed): check them before decoding.
    if [int.from_bytes(chunk[i : i + 4], "little") for i in (4, 12)] != [size, length]:
        raise ValueError("a chunk of another size")
    return bytes(blosc.decompress(chunk))
