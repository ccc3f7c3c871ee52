"""Torch file: the data in a file that `torch.save` wrote, read without unpickling. Source: torch/serialization.py."""

from __future__ import annotations

import io
import zipfile
from typing import Any

from reinforce.peers.pickle_reader import read_pickle, refused

MAX_BYTES = 1 << 30
"""Largest file that is read, in bytes when unfolded."""


def read_torch(content: bytes) -> Any:
    """What a torch file holds, tensors as numpy arrays.

    Raises:
        StoreError: not such a file, compressed, larger than `MAX_BYTES`, or with more in it than data.
    """
    if len(content) > MAX_BYTES:
        raise refused(f"{len(content)} bytes")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {m.filename: m for m in archive.infolist()}
            for member in members.values():
                if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
                    raise refused(f"{member.filename} is compressed")
            if sum(m.file_size for m in members.values()) > len(content):
                raise refused("members that overlap")
            data = [name for name in members if name.endswith("/data.pkl") or name == "data.pkl"]
            if len(data) != 1:
                raise refused(f"{len(data)} files data.pkl")
            prefix = data[0].removesuffix("data.pkl")

            def storage(key: str, length: int) -> bytes:
                name = f"{prefix}data/{key}"
                if name not in members or members[name].file_size < length:
                    raise refused(f"no storage {key} of {length} bytes")
                return archive.read(name)[:length]

            return read_pickle(archive.read(data[0]), storage)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise refused(f"no zip that torch.save wrote: {error}") from None
