"""Outputs: seen whole or not at all, never over something else, and in one place of the code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reinforce.errors import StoreError
from reinforce.files import check_output, file_sha256, make_folder, read_at_most, read_small, replacing, write_atomic

pytestmark = pytest.mark.unit


def write(path: Path, kind: str, content: str, at_the_end: Callable[[], None] | None = None) -> None:
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        if kind == "folder":
            (temporary / "deep").mkdir(parents=True)
            (temporary / "deep" / "file").write_text(content)
        else:
            temporary.write_text(content)
        if at_the_end is not None:
            at_the_end()


def read(path: Path) -> str:
    return ((path / "deep" / "file") if path.is_dir() else path).read_text()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_written_takes_its_place_and_nothing_is_left_beside_it(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "out").mkdir()  # an empty one may be there
    write(tmp_path / "out", kind, "first")
    assert read(tmp_path / "out") == "first"
    if kind == "file":
        write(tmp_path / "out", kind, "second")
        assert read(tmp_path / "out") == "second"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("failing", ["the block", "fsync", "replace"])
def test_what_fails_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, failing: str) -> None:
    write_atomic(tmp_path / "beside", b"x")
    if kind == "file":
        write(tmp_path / "out", kind, "old")
    before = sorted(os.listdir(tmp_path))

    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if failing != "the block":
        monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "out", kind, "new", at_the_end=fail if failing == "the block" else None)
    assert sorted(os.listdir(tmp_path)) == before
    assert kind == "folder" or read(tmp_path / "out") == "old"


def test_a_folder_with_something_in_it_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out", "folder", "theirs")
    with pytest.raises(OSError, match="not empty"):
        write(tmp_path / "out", "folder", "ours")
    assert read(tmp_path / "out") == "theirs"
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.process
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_writer_left_is_in_nobodys_way(tmp_path: Path, kind: str) -> None:
    program = (
        "import os, sys, signal; from pathlib import Path; from reinforce.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as t:\n"
        "    (t.mkdir(), (t / 'half').write_text('half')) if sys.argv[2] == 'folder' else t.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "out"), kind])
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert len(os.listdir(tmp_path)) == 1
    check_output(tmp_path)  # counts as empty
    write(tmp_path / "out", kind, "whole")
    assert (read(tmp_path / "out"), os.listdir(tmp_path)) == ("whole", ["out"])


def test_two_writers_of_a_cache_do_not_meet(tmp_path: Path) -> None:
    with replacing(tmp_path / "chunk", shared=True) as one, replacing(tmp_path / "chunk", shared=True) as two:
        one.write_text("whole")
        two.write_text("whole")
    assert (tmp_path / "chunk").read_text() == "whole"
    assert os.listdir(tmp_path) == ["chunk"]


def test_the_current_folder_is_refused_and_a_link_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    write(tmp_path / "link", "folder", "new")
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "here") == "new"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    for name in (".", tmp_path / "empty"):
        with pytest.raises(StoreError, match=r"(?s)is the current folder.*choose another --out"):
            write(Path(name), "folder", "new")
    assert os.listdir(tmp_path / "empty") == []


def test_an_output_that_holds_other_files_is_refused(tmp_path: Path) -> None:
    check_output(tmp_path / "absent")
    check_output(tmp_path)
    (tmp_path / ".lock").touch()
    (tmp_path / "blocks").mkdir()
    check_output(tmp_path, marks=("job.json",), allowed=("blocks",))
    with pytest.raises(StoreError, match=r"(?s)holds other files.*found: +blocks.*empty or new"):
        check_output(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(StoreError, match=r"notes\.txt"):
        check_output(tmp_path, marks=("job.json",), allowed=("blocks",))
    (tmp_path / "job.json").touch()
    check_output(tmp_path, marks=("job.json",), allowed=("blocks",))


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, kind: str) -> None:
    """A pipe without a writer would be waited for for ever, and a device may have no end."""
    path = Path("/dev/zero") if kind == "device" else tmp_path / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    for read in (lambda: read_at_most(path, 10), lambda: read_small(path), lambda: file_sha256(path)):
        with pytest.raises(OSError, match="no plain file"):
            read()


def test_no_more_is_read_than_was_asked_for_and_one_byte(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(200_000))
    assert [len(read_at_most(tmp_path / "x", most)) for most in (0, 99_999, 200_000, 1 << 40)] == [1, 100_000, 200_000, 200_000]
    assert len(read_small(tmp_path / "x")) == 200_000
    with pytest.raises(OSError, match="more than 199999 bytes"):
        read_small(tmp_path / "x", 199_999)


def test_every_new_folder_is_synced_into_the_one_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("os.fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink()))
    make_folder(tmp_path / "a" / "b" / "c")
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert synced == [tmp_path, tmp_path / "a", tmp_path / "a" / "b"]
    make_folder(tmp_path / "a")
    assert len(synced) == 3
