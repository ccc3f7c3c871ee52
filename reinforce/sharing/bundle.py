"""Bundle: the files of one stripe of a block as one file to transfer, a zip without compression. The reader does not trust it.

The reader accepts exactly the names that the manifest lists for the stripe, uncompressed, each with its hash. So a hostile
bundle cannot write elsewhere, and cannot expand beyond its own size. Source: FORMAT.md, "Publication".
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO

from reinforce.errors import StoreError
from reinforce.files import open_plain, write_pieces

_STRIPE = re.compile(r"(?:records|offsets|params|witness)(?:_([1-9][0-9]*))?")
_COPY = 1 << 20


def stripe_of(path: str) -> tuple[int, int] | None:
    """Block and stripe of a path in the manifest; files of no stripe count as stripe 0. None: the path is in no block."""
    parts = path.split("/")
    if parts[0] != "blocks":
        return None
    match = _STRIPE.fullmatch(parts[2])
    return int(parts[1][:6]), int(match[1] or 0) if match else 0


def files_by_bundle(files: Mapping[str, str]) -> dict[tuple[int, int], dict[str, str]]:
    """The manifest's files by block and stripe: path in the block to sha256."""
    found: dict[tuple[int, int], dict[str, str]] = {}
    for path, digest in files.items():
        place = stripe_of(path)
        if place is not None:
            found.setdefault(place, {})[path.split("/", 2)[2]] = digest
    return found


def make_bundle(block: Path, files: Mapping[str, str]) -> bytes:
    """Bundle some files of a block; equal files give equal bytes.

    Raises:
        StoreError: a file does not have the hash that the manifest lists.
    """
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            content = _content(block / name)
            found = hashlib.sha256(content).hexdigest()
            if found != files[name]:
                raise StoreError(
                    f"{block.name}/{name} is not the file of the manifest.",
                    found=f"sha256 {found[:16]}...",
                    expected=f"sha256 {files[name][:16]}...",
                    cause="it was changed or damaged",
                    fix="reinforce verify DIR",
                )
            archive.writestr(zipfile.ZipInfo(name), content)
    return sink.getvalue()


def _content(path: Path) -> bytes:
    try:
        with open_plain(path) as file:
            return file.read()
    except OSError as error:
        raise StoreError(f"{path} cannot be read.", found=error.strerror, fix="reinforce verify DIR") from None


def replace_files(content: bytes, names: Iterable[str], block: Path) -> None:
    """Write the files of a bundle that this project's own command has put over those of a block, without hashes.

    Raises:
        StoreError: it is no bundle of these files.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if sorted(m.filename for m in members) != sorted(names) or any(
                m.compress_type != zipfile.ZIP_STORED for m in members
            ):
                raise refused("other files than those of its stripe, or compressed ones")
            for member in members:
                (block / member.filename).write_bytes(archive.read(member))
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise refused(f"{type(error).__name__}: {error}") from None


def unpack_bundle(file: BinaryIO, files: Mapping[str, str], into: Path) -> None:
    """Write the files of a bundle below `into`, synced.

    Args:
        file: The bundle.
        files: What must be in it: path to sha256.
        into: Folder of the block.

    Raises:
        StoreError: the bundle is not a zip, is compressed, or has other names or contents than `files` says.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            names = [m.filename for m in members]
            if sorted(names) != sorted(files):
                odd = next(iter(sorted(set(names) ^ set(files))), "a name twice")
                raise refused(f"{odd!r}, in only one of bundle and manifest")
            for member in members:
                if (
                    member.compress_type != zipfile.ZIP_STORED
                    or member.file_size != member.compress_size
                    or member.flag_bits & 1
                ):
                    raise refused(f"{member.filename} is compressed or encrypted")
                _copy(archive, member, into / member.filename, files[member.filename])
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise refused(f"{type(error).__name__}: {error}") from None


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, expected: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, open(path, "wb") as target:
        found, _ = write_pieces(target, iter(lambda: source.read(_COPY), b""))
    if found != expected:
        raise refused(f"{member.filename}: sha256 {found[:16]}..., expected {expected[:16]}...")


def refused(found: str) -> StoreError:
    """The error for a bundle that is not what the manifest promises."""
    return StoreError(
        "A bundle is refused.",
        found=found,
        expected="an uncompressed zip of exactly the files that the manifest has hashes of",
        cause="a broken upload, or someone else's file",
        fix="tell the publisher; nothing of it was kept",
    )
