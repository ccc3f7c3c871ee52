"""The laws of an engine: it makes the same blocks as the local engine, and does not change blocks that already exist."""

from __future__ import annotations

import shutil
from pathlib import Path

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.store.block import block_path, committed_blocks
from reinforce.teachers.teacher import Teacher
from reinforce.testing.law import require


def check_engine(name: str, source: Source, teacher: Teacher, settings: Settings, scratch: Path, batch_size: int = 16) -> None:
    """Check that an engine keeps its laws.

    Its output equals that of the local engine byte for byte; it makes only missing blocks and does not touch existing ones;
    progress begins with the samples that are done already, never falls, and ends with all samples.

    Args:
        name: Its name, as registered in `ENGINES`.
        source: Images for at least three blocks.
        teacher: The teacher.
        settings: Settings of the data set to make.
        scratch: An empty folder.
        batch_size: Views per teacher batch.

    Raises:
        AssertionError: names the broken law.
    """
    require(settings.num_blocks >= 3, f"{settings.num_blocks} blocks are too few to tell; a smaller block_size makes more")
    local, out = scratch / "local", scratch / "out"
    generate(source, teacher, settings, local, Execution(batch_size, 0))
    expected = _content(local)
    told = _run(name, source, teacher, settings, out, batch_size)
    _same(_content(out), expected, f"{name}: makes other bytes than the local engine")
    _check_progress(name, told, 0, len(source))

    last = settings.num_blocks - 1
    shutil.rmtree(block_path(out, 1))
    kept = {block: _times(block_path(out, block)) for block in committed_blocks(out)}
    told = _run(name, source, teacher, settings, out, batch_size)
    _same(_content(out), expected, f"{name}: a block that was missing is not made as the local engine makes it")
    touched = [block for block in kept if _times(block_path(out, block)) != kept[block]]
    require(not touched, f"{name}: makes block {touched[:1]} of {last} again, which was there")
    _check_progress(name, told, len(source) - settings.block_size, len(source))


def _run(name: str, source: Source, teacher: Teacher, settings: Settings, out: Path, batch_size: int) -> list[tuple[int, int]]:
    told: list[tuple[int, int]] = []
    generate(source, teacher, settings, out, Execution(batch_size, 0, name), lambda done, total: told.append((done, total)))
    return told


def _check_progress(name: str, told: list[tuple[int, int]], first: int, total: int) -> None:
    done = [each for each, _ in told]
    require(bool(done) and done[0] == first, f"{name}: progress begins with {done[:1]}, not with the {first} that are there")
    require(done == sorted(done), f"{name}: progress falls")
    require(told[-1] == (total, total), f"{name}: progress ends with {told[-1]}, not with all {total} samples")


def _content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def _times(block: Path) -> list[int]:
    return [p.stat().st_mtime_ns for p in sorted(block.rglob("*"))]


def _same(found: dict[str, bytes], expected: dict[str, bytes], said: str) -> None:
    differing = sorted(name for name in {**found, **expected} if found.get(name) != expected.get(name))
    require(not differing, f"{said}: {', '.join(differing[:3])}")
