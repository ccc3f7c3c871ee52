"""Plain headers of a tar are read without tarfile: what is found and what is refused is the same as with it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.errors import SourceError
from reinforce.sources import tar_members
from reinforce.sources.location import File
from reinforce.sources.tar_headers import TarMember, UnusualHeaderError
from reinforce.sources.tar_members import scan

pytestmark = pytest.mark.unit
NAMES = ("n01/a.jpg", "n01/a.cls", "n01/a.rein", "b.PNG", "./c.jpg", "__meta__/d.jpg", "e.txt", "f" * 90 + ".jpg")
LONG, OTHER = "g/" * 60 + "h.jpg", "ü.jpg"
SLASH = "i" * 99 + "/j.jpg"  # what fits into the header ends like a folder


def a_tar(names: tuple[str, ...], form: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.mtime, info.uname = 1_700_000_000 + number, "user"
            if form == tarfile.PAX_FORMAT and number % 3:
                info.mtime += 0.5  # as webdataset writes it: a header of its own for the fraction
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


FORMS = [
    a_tar(NAMES, tarfile.USTAR_FORMAT),
    a_tar((*NAMES, OTHER, LONG, SLASH), tarfile.PAX_FORMAT),
    a_tar((LONG, *NAMES, SLASH), tarfile.GNU_FORMAT),
    a_tar((*NAMES, LONG), tarfile.USTAR_FORMAT),  # its name is in two parts
]
HEADERS = [[at for at in range(0, len(form), 512) if form[at + 257 : at + 262] == b"ustar"] for form in FORMS]


@pytest.mark.parametrize("form", FORMS, ids=["ustar", "pax", "GNU", "prefix"])
def test_they_are_read_without_tarfile(form: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = by_tarfile(tmp_path / "a.tar", form)
    monkeypatch.setattr(tarfile, "open", lambda *_, **__: pytest.fail("tarfile"))
    made = found(tmp_path / "a.tar", form)
    assert isinstance(made, pa.Table)
    assert made.equals(expected)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from([(form, start) for form in range(len(FORMS)) for start in HEADERS[form]]),
    st.integers(0, 1023),  # behind a header is what it holds about the next one
    st.binary(min_size=1, max_size=12) | st.sampled_from([b"\0", b"/", b"x", b"L", b"g", b"2", b"path", b"size", b" ", b"\n"]),
    st.booleans(),
    st.none() | st.integers(0, len(FORMS[0])),
)
def test_a_changed_one_is_read_or_refused_as_tarfile_does(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[int, int], at: int, change: bytes, summed: bool, cut: int | None
) -> None:
    whole, start = FORMS[place[0]], place[1]
    content = bytearray(whole)
    content[start + at : start + at + len(change)] = change
    content = content[: len(whole)]
    if summed:  # a checksum that fits
        header = content[start : start + 512]
        content[start + 148 : start + 156] = b"%06o\0 " % (256 + sum(header) - sum(header[148:156]))
    path = tmp_path_factory.getbasetemp() / "changed.tar"
    ours, theirs = found(path, bytes(content[:cut])), by_tarfile(path, bytes(content[:cut]))
    assert ours.equals(theirs) if isinstance(ours, pa.Table) else ours == theirs


def test_records_of_pax_that_mean_more_are_left_to_tarfile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def of(records: dict[str, str]) -> bytes:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
            info = tarfile.TarInfo("a.jpg")
            info.size, info.pax_headers = 3, records
            tar.addfile(info, io.BytesIO(b"abc"))
        return sink.getvalue()

    asked: list[str] = []
    real = tar_members._members

    def by_library(file: File) -> list[TarMember]:
        asked.append(file.location)
        return real(file)

    monkeypatch.setattr(tar_members, "_members", by_library)
    path = tmp_path / "a.tar"
    for records in ({"mtime": "1.5"}, {"path": "b/c.jpg"}, {"comment": "x=y\n1 z=", "atime": "7"}, {"path": "ü" * 70 + ".jpg"}):
        assert isinstance(found(path, of(records)), pa.Table)
    assert asked == []
    for records in ({"size": "2"}, {"GNU.sparse.size": "9"}, {"hdrcharset": "BINARY"}, {"path": "b/"}, {"comment": "x" * 5000}):
        content = of(records)
        ours, theirs = found(path, content), by_tarfile(path, content)
        assert ours.equals(theirs) if isinstance(ours, pa.Table) else ours == theirs
    assert len(asked) == 10
