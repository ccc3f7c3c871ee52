"""Plain headers of a tar are read without tarfile: what is found and what is refused is the same as with it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reinforce.errors import SourceError
from reinforce.sources import tar_members
from reinforce.sources.location import File
from reinforce.sources.tar_headers import UnusualHeaderError
from reinforce.sources.tar_members import scan

pytestmark = pytest.mark.unit
NAMES = ("n01/a.jpg", "n01/a.cls", "n01/a.rein", "b.PNG", "./c.jpg", "__meta__/d.jpg", "e.txt", "f" * 90 + ".jpg")
LONG, OTHER = "g/" * 60 + "h.jpg", "ü.jpg"


def a_tar(names: tuple[str, ...], form: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.mtime, info.uname = 1_700_000_000 + number, "user"
            content = b"7" if name.endswith(".cls") else bytes([number]) * 100 * number
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return sink.getvalue()


def found(path: Path, content: bytes) -> pa.Table | str:
    path.write_bytes(content)
    try:
        return scan(File.open(str(path)))
    except SourceError as error:
        return str(error)


def by_tarfile(path: Path, content: bytes) -> pa.Table | str:
    def unusual(*_: object) -> None:
        raise UnusualHeaderError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tar_members, "plain_members", unusual)
        return found(path, content)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("more", [(), (LONG,), (OTHER,), (LONG, OTHER)])
def test_every_format_gives_the_same_members(form: int, more: tuple[str, ...], tmp_path: Path) -> None:
    content = a_tar((*NAMES, *more), form)
    table = found(tmp_path / "a.tar", content)
    assert isinstance(table, pa.Table)
    assert table.equals(by_tarfile(tmp_path / "a.tar", content))
    assert table["key"].to_pylist()[:4] == ["n01/a", "b", "c", "f" * 90]
    assert table["label"].to_pylist()[:2] == [7, None]


def test_plain_ones_are_read_without_tarfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = a_tar(NAMES, tarfile.USTAR_FORMAT)
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("tarfile"))
    assert isinstance(found(tmp_path / "a.tar", content), pa.Table)


WHOLE = a_tar(NAMES, tarfile.USTAR_FORMAT)
HEADERS = [m.offset for m in tarfile.open(fileobj=io.BytesIO(WHOLE))]  # noqa: SIM115 - of bytes


@given(
    st.sampled_from(HEADERS),
    st.integers(0, 511),
    st.binary(min_size=1, max_size=12),
    st.booleans(),
    st.none() | st.integers(0, len(WHOLE)),
)
def test_a_changed_one_is_read_or_refused_as_tarfile_does(
    tmp_path_factory: pytest.TempPathFactory, start: int, at: int, change: bytes, summed: bool, cut: int | None
) -> None:
    content = bytearray(WHOLE)
    content[start + at : start + at + len(change)] = change
    content = content[: len(WHOLE)]
    if summed:  # a checksum that fits
        header = content[start : start + 512]
        content[start + 148 : start + 156] = b"%06o\0 " % (256 + sum(header) - sum(header[148:156]))
    path = tmp_path_factory.getbasetemp() / "changed.tar"
    ours, theirs = found(path, bytes(content[:cut])), by_tarfile(path, bytes(content[:cut]))
    assert ours.equals(theirs) if isinstance(ours, pa.Table) else ours == theirs
