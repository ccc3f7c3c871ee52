"""Archives: damage to headers, members and contents of tars and zips; checksums are right where that leads a reader further."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

from tests.fuzz.damage import Rng, files_of, name_of, pick, rewrite

_FIELDS = ((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155))
_IN_TAR = (
    b"../../x", b"/x", b"", b"\xff" * 12, b"77777777777", b"-1", b"\x80" + b"\0" * 8 + b"\x7f\xff\xff", b"\x80" + b"\xff" * 11,
    b"0", b"1", b"2", b"3", b"5", b"6", b"x", b"g", b"L", b"K", b"S", b"00000000000\0", b"00000002000\0", b"x" * 100,
)  # fmt: skip


def change_tar(rng: Rng, root: Path) -> str | None:
    path = pick(rng, [p for p in files_of(root, ".tar", ".gz") if p.stat().st_size])
    if path is None:
        return None
    content = path.read_bytes()
    zipped = content[:2] == b"\x1f\x8b"
    try:
        tar = bytearray(gzip.decompress(content) if zipped else content)
    except Exception:  # noqa: BLE001 - it was damaged before, in any way
        return None
    headers = [at for at in range(0, len(tar) - 511, 512) if tar[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return change_zip(rng, root)
    at = headers[int(rng.integers(len(headers)))]
    what = int(rng.integers(6))
    if what == 0:
        end = next((h for h in headers if h > at), len(tar))
        tar[at:at] = tar[at:end]
    elif what == 1:
        other = headers[int(rng.integers(len(headers)))]
        tar[at : at + 512] = tar[other : other + 512]
    elif what == 2:
        place = at + 512 + int(rng.integers(1 + min(4096, max(0, len(tar) - at - 513))))
        if place < len(tar):
            tar[place] ^= 1 << int(rng.integers(8))
    else:
        first, length = _FIELDS[int(rng.integers(len(_FIELDS)))]
        value = _IN_TAR[int(rng.integers(len(_IN_TAR)))][:length]
        tar[at + first : at + first + length] = value.ljust(length, b"\0")
        if rng.integers(4):
            tar[at + 148 : at + 156] = b" " * 8
            tar[at + 148 : at + 156] = b"%06o\0 " % sum(tar[at : at + 512])
    rewrite(path, gzip.compress(bytes(tar), 1, mtime=0) if zipped else bytes(tar))
    return f"the tar {name_of(root, path)}, in the way {what}"


def change_zip(rng: Rng, root: Path) -> str | None:
    """Bundles, and torch's files, which are zips: content with the right checksum, other names, members twice or gone."""
    path = pick(rng, [p for p in files_of(root) if p.read_bytes()[:4] == b"PK\3\4"])
    if path is None:
        return None
    try:
        with zipfile.ZipFile(path) as old:
            members = [(info.filename, old.read(info), info.compress_type) for info in old.infolist()]
    except Exception:  # noqa: BLE001 - it was damaged before, in any way
        return None
    if not members:
        return None
    number, what = int(rng.integers(len(members))), int(rng.integers(7))
    name, content, method = members[number]
    if what <= 2:
        spoilt = bytearray(content or b"\0")
        for _ in range(int(rng.integers(1, 4))):
            spoilt[int(rng.integers(len(spoilt)))] = int(rng.integers(256))
        members[number] = (name, bytes(spoilt), method)
    elif what == 3:
        members[number] = (name, content[: int(rng.integers(len(content) + 1))], method)
    elif what == 4:
        members[number] = (("../../x", "/x", name + "x", "zarr.json", "")[int(rng.integers(5))], content, method)
    elif what == 5:
        del members[number]
    else:
        members[number] = (name, content * int(rng.choice([1, 2, 1000])), zipfile.ZIP_DEFLATED)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as new:
        for name, content, method in members:
            new.writestr(zipfile.ZipInfo(name), content, method)
    rewrite(path, sink.getvalue())
    return f"member {number} of {name_of(root, path)}, in the way {what}"
