"""Safetensors header: the names, dtypes and places of the tensors in such a file, and text; JSON in front of the numbers."""

from __future__ import annotations

from pathlib import Path

from reinforce.errors import StoreError
from reinforce.files import open_plain

MAX_HEADER_BYTES = 16 << 20
"""Longest header that is read, about a hundred bytes for each tensor. The library itself reads up to 100 MB, in gigabytes."""


def check_header(path: Path) -> None:
    """Refuse a file whose header would fill memory with names of tensors that have no numbers.

    Raises:
        StoreError: the header is too long.
        OSError: the file cannot be read.
    """
    with open_plain(path) as file:
        length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise StoreError(
            f"{path} is refused.",
            found=f"a header of {length} bytes",
            expected=f"at most {MAX_HEADER_BYTES}: names, dtypes and shapes of the tensors of a model",
            cause="another kind of file, a damaged one, or one that was made to do harm",
            fix="save the weights again",
        )
