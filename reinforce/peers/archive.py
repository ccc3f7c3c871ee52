"""Archive: read the files of a tar, compressed or not, or of a folder, one after the other, without unpacking to disk."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from reinforce.errors import SourceError, StoreError, first_line
from reinforce.files import read_small

MAX_MEMBER = 256 << 20
"""Largest file that is read, in bytes."""
_MAX_HEADER = 1 << 20
_LONG = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class _Header(tarfile.TarInfo):
    """Refuses long headers before they are read into memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG and self.size > _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        member: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return member


def archive_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file; links and devices are refused.

    Raises:
        SourceError: there is nothing at `path`.
        StoreError: the archive is damaged or hostile.
    """
    if path.is_dir():
        for folder, below, names in sorted(os.walk(path, onerror=_refuse)):
            if links := [name for name in below if Path(folder, name).is_symlink()]:
                raise _unread(Path(folder, links[0]), "a link")  # its labels would be left out without a word
            for name in sorted(names):
                file = Path(folder, name)
                yield file.relative_to(path).as_posix(), _small(file)
        return
    if not path.is_file():
        raise SourceError(f"There is nothing at {path}.", expected="a tar, a tar.gz or a folder", fix="check the path")
    try:
        with tarfile.open(path, "r|*", tarinfo=_Header) as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member in memory otherwise
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse() or member.size > MAX_MEMBER:
                    raise tarfile.ReadError(f"{member.name!r} is no plain file of at most {MAX_MEMBER} bytes")
                content = tar.extractfile(member)
                assert content is not None
                yield member.name, content.read()
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise StoreError(
            f"{path} cannot be read.",
            found=first_line(error),
            expected="a tar, or a compressed one, of plain files",
            cause="a broken download, or a hostile one",
            fix="download it again",
        ) from None


def _small(file: Path) -> bytes:
    if file.is_symlink():
        raise _unread(file, "a link")
    try:
        return read_small(file, MAX_MEMBER)
    except OSError as error:
        raise _unread(file, error.strerror or error) from None


def _unread(path: object, found: object) -> StoreError:
    return StoreError(
        f"{path} is not read.", found=found, expected=f"a plain file of at most {MAX_MEMBER} bytes", fix="remove it"
    )


def _refuse(error: OSError) -> NoReturn:
    raise StoreError(
        f"The folder {error.filename} cannot be read.",
        found=error.strerror,
        expected="permission to list every folder: without it its labels would be left out",
        fix="change its permissions, or move it elsewhere",
    )
