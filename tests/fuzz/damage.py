"""Damage: ways to spoil the files of a folder, all chosen by a generator, so that a case can be made again from its number.

The files of a mutant are hard links to those of its base: a changed file is written anew, never in place.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

Rng = np.random.Generator
Damage = Callable[[Rng, Path], str | None]
"""A function `(rng, root)`: spoils something below `root` and says what; None if there is nothing of its kind."""


def files_of(root: Path, *endings: str) -> list[Path]:
    """The plain files below a folder, sorted; with one of the endings, if any are given."""
    found = [p for p in root.rglob("*") if p.is_file() and not p.is_symlink()]
    return sorted(p for p in found if not endings or p.name.endswith(endings))


def pick(rng: Rng, choices: list[Path]) -> Path | None:
    """One of the files. Blocks have many files of few kinds: first a kind is chosen, so that rare ones get their share."""
    kinds: dict[str, list[Path]] = {}
    for path in choices:
        kind = path.name if path.suffix == ".json" else path.suffix
        kinds.setdefault(kind, []).append(path)
    if not kinds:
        return None
    of_kind = sorted(kinds)[int(rng.integers(len(kinds)))]
    return kinds[of_kind][int(rng.integers(len(kinds[of_kind])))]


def rewrite(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def name_of(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def flip_bytes(rng: Rng, root: Path) -> str | None:
    path = pick(rng, [p for p in files_of(root) if p.stat().st_size])
    if path is None:
        return None
    content = bytearray(path.read_bytes())
    edges = [0, 0, len(content) - min(64, len(content))]  # headers and footers say how the rest is read
    span = [len(content), min(64, len(content)), min(64, len(content))]
    where = int(rng.integers(3))
    for _ in range(int(rng.integers(1, 6))):
        place = edges[where] + int(rng.integers(span[where]))
        content[place] = (content[place] ^ (1 << int(rng.integers(8))), int(rng.integers(256)), 0, 255)[int(rng.integers(4))]
    rewrite(path, bytes(content))
    return f"bytes of {name_of(root, path)}"


def cut_bytes(rng: Rng, root: Path) -> str | None:
    path = pick(rng, [p for p in files_of(root) if p.stat().st_size > 1])
    if path is None:
        return None
    content = path.read_bytes()
    first, last = sorted(int(n) for n in rng.integers(0, len(content) + 1, 2))
    junk = rng.integers(0, 256, int(rng.integers(1, 4000)), dtype=np.uint8).tobytes()
    what = int(rng.integers(6))
    made = (
        content[:first],
        content[:first] + content[last:],
        content[:last] + content[first:],
        content + junk,
        b"",
        content[:first] + bytes(last - first) + content[last:],
    )[what]
    rewrite(path, made)
    return f"{('end', 'piece', 'piece twice', 'junk', 'nothing', 'zeros')[what]} in {name_of(root, path)}"


def swap_files(rng: Rng, root: Path) -> str | None:
    paths = files_of(root)
    first = pick(rng, paths)
    alike = [p for p in paths if first is not None and p != first and p.suffix == first.suffix]
    if first is None or not alike:
        return None
    second = alike[int(rng.integers(len(alike)))]
    one, other = first.read_bytes(), second.read_bytes()
    rewrite(first, other)
    if rng.integers(2):
        rewrite(second, one)
    return f"{name_of(root, first)} has what was in {name_of(root, second)}"


def lose_files(rng: Rng, root: Path) -> str | None:
    path = pick(rng, files_of(root))
    if path is None:
        return None
    while path.parent != root and rng.integers(3) == 0:
        path = path.parent
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    return f"{name_of(root, path)} is gone"


def put_other_things(rng: Rng, root: Path) -> str | None:
    """A link, a FIFO or a folder where a file was; or a file that was not there."""
    path = pick(rng, files_of(root))
    if path is None:
        return None
    kinds = ("loop", "dangling", "outside", "folder", "copy", "hidden", "fifo")
    what = kinds[min(int(rng.integers(60)) // 9, 6)]
    beside = path.with_name(("." if what == "hidden" else "x") + path.name)
    if what in ("copy", "hidden"):
        shutil.copy(path, beside)
        return f"{name_of(root, beside)} beside it"
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to({"loop": path.name, "dangling": "nowhere", "outside": "/proc/self/status"}[what])
    return f"{name_of(root, path)} is a {what}"


def rename_things(rng: Rng, root: Path) -> str | None:
    path = pick(rng, files_of(root))
    if path is None:
        return None
    while path.parent != root and rng.integers(2):
        path = path.parent
    names = (
        "é" + path.name,
        path.name.upper(),
        path.stem,
        "000009" + path.suffix,
        path.name + ".partial",
        "\udcff" + path.suffix,
    )
    new = path.with_name(names[int(rng.integers(len(names)))])
    if new.exists() or new == path:
        return None
    path.rename(new)
    return f"{name_of(root, path)} is called {new.name!r}"


FILES: tuple[Damage, ...] = (
    flip_bytes,
    flip_bytes,
    flip_bytes,
    cut_bytes,
    cut_bytes,
    swap_files,
    lose_files,
    put_other_things,
    rename_things,
)
