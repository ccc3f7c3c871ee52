"""Probes: the check that replay is exact (invariant 1). A probe is the CRC-32 of one view of a sample, stored at generation.

A probe needs only one view; so many samples can be looked at quickly, before training and before a resumed generation.
`reinforce verify --data` replays all of them. All views are covered by the witness of each stripe (`witness.py`). The error for
a mismatch names the versions that differ.
"""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version

import google_crc32c
import numpy as np

from reinforce.errors import ReplayError
from reinforce.memory import shortage
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.store.block import Block
from reinforce.store.manifest import Environment
from reinforce.views.decode import decode
from reinforce.views.layout import pixel_spec
from reinforce.views.pixels import pixel_crc, stored_view
from reinforce.views.status import Status


def environment() -> Environment:
    """Versions of the software that makes pixels and labels, as installed here."""
    names = ("reinforce", "torch", "timm", "numpy", "pillow", "simplejpeg")
    return Environment(**{n: version(n) for n in names}, machine=platform.machine())


def read_checked(source: Source, index: int, sha256: np.ndarray, crc32c: int = -1) -> bytes:
    """Read the encoded bytes of a sample and check that the teacher's views were made from these bytes.

    Args:
        source: The images.
        index: Position of the sample in it.
        sha256: Of its bytes, uint8 `[32]`.
        crc32c: CRC-32C of its bytes, which is compared instead, in a tenth of the time; -1: it is not known. It misses one in
            four billion damages. Who means harm can make an image that has it: training compares the SHA-256 of some images
            when it starts, and `verify` that of all.

    Raises:
        ReplayError: the image is gone, or has changed.
    """
    key = source.keys[index]
    try:
        encoded = source.read(index)
    except OSError as error:
        if (short := shortage(error)) is not None:
            raise short from None
        raise ReplayError(
            f"Image {key} cannot be read.",
            found=f"{error.strerror or error}: {source.where(index)}",
            expected="every image that has labels",
            fix="bring the image back, or generate again without it",
        ) from None
    if crc32c >= 0 and google_crc32c.value(encoded) == crc32c:
        return encoded
    found = hashlib.sha256(encoded).digest()
    if found != sha256.tobytes():
        raise ReplayError(
            f"Image {key} is not the one that the teacher saw.",
            found=f"sha256 {found.hex()[:16]}... ({len(encoded)} bytes)",
            expected=f"sha256 {sha256.tobytes().hex()[:16]}...",
            cause="the image was edited, re-encoded or damaged after the labels were generated",
            fix="bring the original back, or generate again into another --out",
        )
    return encoded


def check_block_probes(
    block: Block, rows: np.ndarray, source: Source, settings: Settings, made_with: Environment, limit: int
) -> int:
    """Replay up to `limit` probes of a block, evenly spread; `rows` are the indices of its samples in `source`, `[S]`.

    Returns:
        Number of probes replayed.

    Raises:
        ReplayError: an image or its pixels differ.
    """
    columns = block.sample_columns()
    ok = np.flatnonzero(columns["status"] == Status.OK)
    chosen = ok[np.linspace(0, len(ok) - 1, min(limit, len(ok))).astype(int)] if len(ok) else ok
    spec = pixel_spec(settings.policy, settings.size)

    def image_of(row: int) -> np.ndarray:
        return decode(read_checked(source, int(rows[row]), columns["sha256"][row]))

    for row in chosen.tolist():
        view = row % settings.probe_views
        params = block.params_of_view(view)
        found = pixel_crc(stored_view(params.__getitem__, len(rows), row, spec, image_of))
        check_probe(found, int(block.probes()[row]), f"{source.keys[rows[row]]}, view {view}", made_with)
    return len(chosen)


def check_probe(found: int, expected: int, what: str, made_with: Environment) -> None:
    """Compare the CRC-32 of replayed pixels with the stored one.

    Raises:
        ReplayError: they differ; `what` names the view, `made_with` is compared with this machine.
    """
    if found != expected:
        raise pixels_differ(what, f"CRC-32 {found:08x}", f"CRC-32 {expected:08x}", made_with)


def pixels_differ(what: str, found: str, expected: str, made_with: Environment) -> ReplayError:
    """The error for replayed pixels that differ from those of generation; it names every version that differs."""
    here, there = environment().model_dump(), made_with.model_dump()
    differing = [f"{name} {there[name]} then, {here[name]} now" for name in there if there[name] != here[name]]
    return ReplayError(
        f"Replayed pixels differ from those the teacher saw ({what}).",
        found=found,
        expected=expected,
        cause="the image is unchanged, so the code that makes pixels is not: "
        + ("; ".join(differing) if differing else "the same versions are installed, so an op was edited or a library patched"),
        fix="install the versions above, or generate again; `reinforce verify DIR --data SOURCE --views all` counts stripes",
    )
