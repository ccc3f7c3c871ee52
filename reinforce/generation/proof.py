"""Proof: that another machine sees what this one sees: the source, its pixels, the teacher, the folder that is written."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple
from uuid import uuid4

from reinforce.errors import ReinforceError, ReplayError, SourceError, StoreError, TeacherError, first_line
from reinforce.generation.engine import Work
from reinforce.store.manifest import Environment
from reinforce.store.place import Place
from reinforce.store.probes import environment, pixels_differ
from reinforce.views.pixels import ViewMaker, ViewRange, pixel_crc
from reinforce.views.status import Status

_LOOKS, _PAUSE_S = 4, 0.5
"""How often a file is looked for that another machine has written, and the seconds between: file servers are late."""


class Probe(NamedTuple):
    """What a machine makes of one sample.

    Attributes:
        sample: Its index.
        status: Of the sample.
        reason: Why it is not ok.
        sha256: Of its encoded bytes.
        crc: CRC-32 of the pixels of its first view, before any mixing; 0 where it is not ok.
    """

    sample: int
    status: Status
    reason: str | None
    sha256: str
    crc: int


@dataclass(frozen=True)
class Expected:
    """What every machine must see.

    Attributes:
        probes: Of the first, the middle and the last sample.
        environment: Versions of the machine that made them.
        token: Name of a file in the folder that is written, and what is in it.
    """

    probes: list[Probe]
    environment: Environment
    token: str


def probes_of(work: Work) -> list[Probe]:
    """What this machine makes of a few samples."""
    found, last = [], len(work.source) - 1
    for sample in sorted({0, last // 2, last}):
        made = ViewMaker(work.source, work.settings)[ViewRange(sample, 0, 1)]
        crc = pixel_crc(made.pixels[0]) if made.status == Status.OK else 0
        found.append(Probe(sample, made.status, made.reason, made.sha256.tobytes().hex(), crc))
    return found


@contextmanager
def expected(work: Work) -> Iterator[Expected]:
    """What all machines must see, as this one sees it; a file lies in the folder while the context lasts."""
    token = f".seen-{uuid4().hex}"
    try:
        work.place.write(_token(token), token.encode())
        yield Expected(probes_of(work), environment(), token)
    finally:
        work.place.remove(token)


def prove(work: Work, wanted: Expected, node: str) -> str:
    """Check what this machine sees, before its teacher leaves the CPU.

    Args:
        work: As this machine has it.
        wanted: From the machine that started the run.
        node: Name of this machine; for messages.

    Returns:
        The name of a file that was written in answer to the token, for `check_answer`.

    Raises:
        SourceError, ReplayError: other samples, images or pixels.
        TeacherError: other weights.
        StoreError: another folder, or one that cannot be written.
    """
    _check_source(work, node)
    _check_teacher(work, node)
    for mine, theirs in zip(probes_of(work), wanted.probes, strict=True):
        _check_probe(mine, theirs, wanted.environment, work, node)
    if _content(work.place, wanted.token) != wanted.token:
        raise _other_place(node, work.place, "a place without the file that this run wrote there")
    answer = f"{wanted.token}-{uuid4().hex}"
    try:
        work.place.write(_token(answer), answer.encode())
    except (OSError, StoreError) as error:
        why = getattr(error, "strerror", None) or first_line(error)
        raise _other_place(node, work.place, f"a place that it cannot write: {why}") from None
    return answer


def check_answer(place: Place, answer: str, node: str) -> None:
    """Check, where the run was started, that the answer of a machine has come to the same place.

    Raises:
        StoreError: it has not.
    """
    if _content(place, answer) != answer:
        raise _other_place(node, place, "a place from which nothing comes here, such as a copy")


def _token(name: str) -> str:
    return f"{name}.partial"  # an ending that leftovers of killed writers have


def _content(place: Place, name: str) -> str | None:
    for look in range(_LOOKS):
        time.sleep(_PAUSE_S if look else 0)
        with suppress(OSError, ReinforceError):
            if (content := place.read(_token(name))) is not None:
                return content.decode(errors="replace")
    return None


def _other_place(node: str, place: Place, found: str) -> StoreError:
    return StoreError(
        f"Node {node} does not see --out.",
        found=found,
        expected=f"{place.name}, one place for all nodes",
        fix="a file server that is mounted at the same path on all nodes, or s3://BUCKET/PATH, with credentials on all of them",
    )


def _check_source(work: Work, node: str) -> None:
    found, wanted = work.source.index_sha256(), work.settings.source.index_sha256
    if found != wanted:
        raise SourceError(
            f"Node {node} sees another source.",
            found=f"an index with sha256 {found[:16]}... of {len(work.source)} samples",
            expected=f"sha256 {wanted[:16]}... of {work.settings.source.num_samples}",
            fix="the same --data on all nodes",
        )


def _check_teacher(work: Work, node: str) -> None:
    for info, found in zip(work.settings.teachers, work.teacher.weights_sha256(), strict=True):
        if None not in (found, info.weights_sha256) and found != info.weights_sha256:
            raise TeacherError(
                f"Node {node} has another teacher.",
                found=f"weights of {info.name} with sha256 {str(found)[:16]}...",
                expected=f"sha256 {str(info.weights_sha256)[:16]}...",
                fix="the same versions of reinforce, torch and timm on all nodes",
            )


def _check_probe(mine: Probe, theirs: Probe, made_with: Environment, work: Work, node: str) -> None:
    key = work.source.keys[mine.sample]
    if (mine.status, mine.sha256) != (theirs.status, theirs.sha256):
        raise ReplayError(
            f"Node {node} sees another image {key}.",
            found=mine.reason or f"sha256 {mine.sha256[:16]}...",
            expected=theirs.reason or f"sha256 {theirs.sha256[:16]}...",
            cause=f"{work.source.where(mine.sample)} is not the same file there",
            fix="the same --data on all nodes",
        )
    if mine.crc != theirs.crc:
        raise pixels_differ(f"{key} on node {node}", f"CRC-32 {mine.crc:08x}", f"CRC-32 {theirs.crc:08x}", made_with)
