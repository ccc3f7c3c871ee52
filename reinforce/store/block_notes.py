"""Block notes: what is known of a block when it is committed, so that the end of stage one need not read all blocks again.

They lie in `notes/` beside the blocks until the manifest is written, are not synced, and are no part of the data set: where one
is missing or damaged, the block itself is read.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError, model_validator

from reinforce.files import file_sha256, read_small, remove, replacing
from reinforce.settings import Model, Settings, Sha256, to_json
from reinforce.store.block import Block
from reinforce.store.label_means import LabelSums, sums_of

NOTES = "notes"
_COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "sha256": ("u1", (32,)),
    "crc32c": ("<i8", ()),
    "width_height": ("<u4", (2,)),
    "status": ("u1", ()),
}


class BundleNote(Model):
    """A bundle in which a stripe of the block was put, where a place keeps blocks so."""

    stripe: int = Field(ge=0)
    sha256: Sha256
    bytes: int = Field(ge=1)


class BlockNotes(Model):
    """What is known of one block.

    Attributes:
        rows: How many samples it has.
        sums: Over its labels.
        files: sha256 of each of its files, by the path in the block.
        columns: Its `sample_columns`, as base64 of their little-endian bytes.
        reasons: Why a sample is not ok, by its row.
        bundles: Its bundles, where a place keeps blocks so.
    """

    rows: int = Field(ge=1)
    sums: LabelSums
    files: dict[str, Sha256]
    columns: dict[str, str]
    reasons: dict[int, str]
    bundles: list[BundleNote] = Field(default=[])

    @model_validator(mode="after")
    def _whole(self) -> BlockNotes:
        try:
            self.sample_columns()
        except (KeyError, binascii.Error) as error:
            raise ValueError(f"columns that are none: {error}") from None
        if any(not 0 <= row < self.rows for row in self.reasons):
            raise ValueError("a reason for a row that is not there")
        return self

    def sample_columns(self) -> dict[str, np.ndarray]:
        """See `Block.sample_columns`."""
        return {
            name: np.frombuffer(base64.b64decode(self.columns[name], validate=True), dtype).reshape(self.rows, *shape)
            for name, (dtype, shape) in _COLUMNS.items()
        }


def take_notes(block: Block, hard_labels: list[int | None], settings: Settings) -> BlockNotes:
    """Read a block that was just written.

    Args:
        block: The block.
        hard_labels: Of its samples, row by row.
        settings: Settings of the data set.
    """
    files = {p.relative_to(block.path).as_posix(): file_sha256(p) for p in sorted(block.path.rglob("*")) if p.is_file()}
    found = block.sample_columns()
    columns = {name: found[name].astype(dtype).tobytes() for name, (dtype, _) in _COLUMNS.items()}
    return BlockNotes(
        rows=len(hard_labels),
        sums=sums_of(block, hard_labels, settings),
        files=files,
        columns={name: base64.b64encode(content).decode() for name, content in columns.items()},
        reasons=block.reasons,
    )


def keep_notes(root: Path, number: int, notes: BlockNotes) -> None:
    """Write down what is known of a block."""
    path = root / note_name(number)
    path.parent.mkdir(exist_ok=True)
    with replacing(path, shared=True) as temporary:
        temporary.write_bytes(to_json(notes).encode())


def read_notes(root: Path, number: int, rows: int) -> BlockNotes | None:
    """What was kept of a block of so many samples; None: nothing that can be read."""
    try:
        notes = BlockNotes.model_validate_json(read_small(root / note_name(number), 1 << 26))
    except (OSError, ValidationError):
        return None
    return notes if notes.rows == rows else None


def remove_notes(root: Path) -> None:
    """Remove all notes: the manifest has them."""
    remove(root / NOTES)


def note_name(number: int) -> str:
    """Where the notes of a block are, below the folder of the data set."""
    return f"{NOTES}/{number:06d}.json"
