"""Bombs: a small file that unfolds is refused, soon and in little memory; each is read in a process that may not have more."""

from __future__ import annotations

import io
import os
import resource
import signal
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reinforce.errors import ReinforceError, StoreError, shown
from reinforce.teachers.class_map import read_class_map
from reinforce.teachers.models import read_state_dict
from reinforce.teachers.safetensors_header import check_header
from reinforce.teachers.torch_file import read_torch
from tests.peers.label_files import saved

pytestmark = pytest.mark.process

SECONDS, SPARE = 20, 1 << 30
START = b"\x80\x02"
DOUBLED = b")q\x000" + 60 * b"h\x00h\x00\x86q\x000" + b"h\x00"
"""Pushes `t = (t, t)`, nested 60 deep."""
DEEP = b")" + 200_000 * b"\x85"
NUMPY, DTYPE = b"cnumpy.core.multiarray\n", b"cnumpy\ndtype\n"
F8 = DTYPE + b"U\x02f8\x85R"
MEGABYTE, LONG = b"X\x00\x00\x10\x00" + (1 << 20) * b"a", b"J" + struct.pack("<i", 1 << 18)
STORAGE = b"U\x07storagectorch\nFloatStorage\n"
OF_ALL = (
    b"ctorch._utils\n_rebuild_tensor_v2\n((" + STORAGE + b"U\x010U\x03cpu" + LONG + b"tQK\x00" + LONG + b"\x85K\x01\x85\x89N"
)
"""A tensor of a mebibyte, but for the last of its arguments."""
SHARED = "each counted as often as it is named"
OLD_HEAD = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02M\xe9\x03." + b"\x80\x02}U\rlittle_endian\x88s."
"""Magic, version and machine in front of the data, in files before 1.6."""

BOMBS: dict[str, tuple[bytes, str]] = {
    "a doubled tuple": (DOUBLED, SHARED),
    "a doubled tuple as a key": (b"}" + DOUBLED + b"K\x01s", "a key (((("),
    "a doubled tuple in attributes": (b"cargparse\nNamespace\n)R](" + DOUBLED + b"K\x01\x86eb", "a state for Fields"),
    "a doubled tuple as a name": (b"\x8c\x01a" + DOUBLED + b"\x93", "the name (((("),
    "a doubled tuple as a module": (DOUBLED + b"\x8c\x01a\x93", "the name 'a'"),
    "a doubled tuple as a dtype": (DTYPE + DOUBLED + b"\x85R", "a dtype (((("),
    "a doubled tuple as the state of a dtype": (F8 + DOUBLED + b"b", "a dtype in state (((("),
    "a doubled tuple in the state of a dtype": (F8 + b"(K\x03" + DOUBLED + b"NNNtb", "a dtype in state (3, (("),
    "a doubled tuple as an encoding": (b"c_codecs\nencode\nU\x01a" + DOUBLED + b"\x86R", "an encoding (((("),
    "a doubled tuple as an array": (NUMPY + b"_reconstruct\n" + DOUBLED + b"K\x00\x85U\x01b\x87R", "an array (((("),
    "a doubled tuple as a device": (b"ctorch\ndevice\n" + DOUBLED + b"\x85R", "a device (((("),
    "a doubled tuple as a path": (b"cpathlib\nPosixPath\n" + DOUBLED + b"\x85R", "a path (((("),
    "a doubled tuple as a storage": (b"(" + STORAGE + DOUBLED + b"U\x03cpuK\x01tQ", "that is no tensor's"),
    "a doubled tuple as a count": (b"(" + STORAGE + b"U\x010U\x03cpu" + DOUBLED + b"tQ", "a storage of (((("),
    "a doubled tuple as bits of a tensor": (OF_ALL + DOUBLED + b"tR", "a tensor that stands for others: (((("),
    "a deep tuple": (DEEP, "more than 64 deep"),
    "a deep tuple as a key": (b"}" + DEEP + b"K\x01s", "a key (((("),
    "a deep list": (b"]" + 200_000 * b"]" + 200_000 * b"a", "more than 64 deep"),
    "a deep tuple as a dtype": (DTYPE + DEEP + b"\x85R", "a dtype (((("),
    "a list that holds itself": (b"]q\x00h\x00a", "holds itself"),
    "a list named 5,000 times": (b"]q\x00(" + 2000 * b"K\x01" + b"e0](" + 5000 * b"h\x00" + b"e", SHARED),
    "a text named 5,000 times": (MEGABYTE + b"q\x000](" + 5000 * b"h\x00" + b"e", SHARED),
    "a text copied 5,000 times": (
        MEGABYTE + b"q\x000](" + 5000 * b"c_codecs\nencode\nh\x00U\x06latin1\x86R" + b"e", "copies of more than"
    ),
    "a size of everything": (b"(" + 99_999 * b"K\x01" + b"tq\x000](" + 9999 * b"ctorch\nSize\nh\x00\x85R" + b"e", "a size ("),
    "a dict copied 2,000 times": (
        b"}q\x00(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(50_000)) + b"u0]("
        + 2000 * b"cargparse\nNamespace\n)Rh\x00b" + b"e", "copies of more than"
    ),
    "one storage named 2,000 times": (b"](" + 2000 * (OF_ALL + b"NtR") + b"e", SHARED),
    "one tensor named 2,000 times": (b"](" + OF_ALL + b"NtRq\x00" + 2000 * b"h\x00" + b"e", SHARED),
    "more opcodes than are read": (8_000_000 * b"]", "opcode 0x5d"),
}  # fmt: skip


def in_a_small_process(action: Callable[[], object]) -> str:
    """What an action in a forked process raised; a process that takes too long or too much, or ends by itself, is an error."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + SPARE, now + SPARE))
            signal.alarm(SECONDS)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            try:
                action()
                found = "nothing"
            except ReinforceError as error:
                found = str(error)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the test tells it
                found = f"raw {type(error).__name__}"
            os.write(write, found.encode()[:4096])
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        found = pipe.read().decode(errors="replace")
    status = os.waitpid(child, 0)[1]
    assert status == 0, f"ended by {status}: {found}"
    return found


def zipped(data: bytes, numbers: int = 1 << 20) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a/data.pkl", data)
        archive.writestr("a/data/0", bytes(numbers))
    return sink.getvalue()


def before_zips(data: bytes, keys: bytes = b"]U\x010a.") -> bytes:
    return OLD_HEAD + data + START + keys + struct.pack("<q", 1 << 18) + bytes(1 << 20)


@pytest.mark.parametrize("form", [zipped, before_zips], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_that_unfolds_is_refused(name: str, form: Callable[[bytes], bytes]) -> None:
    bomb, found = BOMBS[name]
    content = form(START + bomb + b".")
    text = in_a_small_process(lambda: read_torch(content))
    assert text.startswith("A pickle is refused.")
    assert found in text


def test_keys_of_storages_that_unfold_are_refused() -> None:
    content = before_zips(START + OF_ALL + b"NtR.", b"](" + DOUBLED + b"e.")
    assert SHARED in in_a_small_process(lambda: read_torch(content))
    content = before_zips(START + OF_ALL + b"NtR.", b"](K\x01\x85e.")
    assert "keys of storages [(1,)]" in in_a_small_process(lambda: read_torch(content))


def test_tied_weights_and_a_memo_are_read() -> None:
    weight = torch.rand(1000, 1000)
    state = {"model": {"a": weight, "b": weight}, "ema": {"a": weight, "b": weight.T}}
    assert read_torch(saved(state))["ema"]["b"].equal(weight.T)


def test_a_zip_of_countless_names_is_refused() -> None:
    sink = io.BytesIO()
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count = 2_000_000
    sink.write(count * entry + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, len(entry) * count, 0, 0))
    assert "a directory or a pickle of 94000000 bytes" in in_a_small_process(lambda: read_torch(sink.getvalue()))


def test_a_header_of_safetensors_that_is_huge_is_refused(tmp_path: Path) -> None:
    one = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(one % i for i in range(330_000)) + "}").encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "header of" in in_a_small_process(lambda: read_state_dict(tmp_path / "w.safetensors"))


def test_a_class_map_that_is_deep_or_huge_is_refused(tmp_path: Path) -> None:
    digits = b"[" + 9999 * b"9" + b"]"
    for content, found in ((200_000 * b"[", "deep"), (b"[" + b"1," * (20 << 20) + b"1]", "bytes"), (digits, "")):
        (tmp_path / "map.json").write_bytes(content)
        text = in_a_small_process(lambda: read_class_map(str(tmp_path / "map.json"), ["a"]))
        assert "cannot be read" in text
        assert found in text


def test_what_an_error_shows_is_short_and_soon_there() -> None:
    doubled: object = ()
    for _ in range(60):
        doubled = (doubled, doubled)
    cases = (doubled, {"a": doubled}, 1 << 1_000_000, "a" * 1_000_000, b"\xff" * 1_000_000, list(range(1_000_000)))
    for value in cases:
        assert len(shown(value)) <= 100
    assert shown([1, "a", None, 1.5, (True,)]) == "[1, 'a', None, 1.5, (True,)]"
    assert shown(b"\xff\xfe") == r"b'\xff\xfe'"


@pytest.mark.parametrize("member", [0, 1], ids=["pickle", "numbers"])
def test_a_zip_with_offsets_that_no_file_has_is_refused(member: int, tmp_path: Path) -> None:
    content = zipped(b"\x80\x02](" + OF_ALL + b"NtRe.")
    at = content.index(b"PK\x01\x02")
    for _ in range(member):
        at = content.index(b"PK\x01\x02", at + 1)
    names, extra = struct.unpack_from("<HH", content, at + 28)
    assert not extra
    entry = bytearray(content[at : at + 46 + names])
    entry[30:32], entry[42:46] = struct.pack("<H", 12), b"\xff" * 4
    far = bytes(entry) + struct.pack("<HHQ", 1, 8, (1 << 64) - 1)
    end = bytearray(content[at + 46 + names :])
    place = end.index(b"PK\x05\x06") + 12
    end[place : place + 4] = struct.pack("<I", struct.unpack_from("<I", end, place)[0] + 12)
    (tmp_path / "far.pt").write_bytes(content[:at] + far + bytes(end))
    for given in ((tmp_path / "far.pt").read_bytes(), tmp_path / "far.pt"):
        with pytest.raises(StoreError, match="A pickle is refused"):
            read_torch(given)


@pytest.mark.parametrize("read", [read_torch, check_header])
def test_a_pipe_in_place_of_weights_is_not_opened(read: Callable[[Path], object], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w")
    assert in_a_small_process(lambda: read(tmp_path / "w")) == "raw OSError"
