"""Block notes: what is known of a block when it is committed, so that the end of stage one need not read all blocks again.

They lie in `notes/` beside the blocks until the manifest is written, are not synced, and are no part of the data set: where one
is missing or damaged, the block itself is read.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from reinforce.files import file_sha256, read_small, remove, replacing
from reinforce.settings import Model, Settings, Sha256, to_json
from reinforce.store.block import Block
from reinforce.store.label_means import LabelSums, sums_of

NOTES = "notes"


class BlockNotes(Model):
    """What is known of one block.

    Attributes:
        sums: Over its labels.
        files: sha256 of each of its files, by the path in the block.
    """

    sums: LabelSums
    files: dict[str, Sha256]


def take_notes(root: Path, number: int, block: Block, hard_labels: list[int | None], settings: Settings) -> BlockNotes:
    """Read a block that was just committed, and keep what is known of it.

    Args:
        root: The folder of the data set.
        number: Number of the block.
        block: The block.
        hard_labels: Of its samples, row by row.
        settings: Settings of the data set.
    """
    files = {p.relative_to(block.path).as_posix(): file_sha256(p) for p in sorted(block.path.rglob("*")) if p.is_file()}
    notes = BlockNotes(sums=sums_of(block, hard_labels, settings), files=files)
    path = _path(root, number)
    path.parent.mkdir(exist_ok=True)
    with replacing(path, shared=True) as temporary:
        temporary.write_bytes(to_json(notes).encode())
    return notes


def read_notes(root: Path, number: int) -> BlockNotes | None:
    """What was kept of a block; None: nothing that can be read."""
    try:
        return BlockNotes.model_validate_json(read_small(_path(root, number), 1 << 26))
    except (OSError, ValidationError):
        return None


def remove_notes(root: Path) -> None:
    """Remove all notes: the manifest has them."""
    remove(root / NOTES)


def _path(root: Path, number: int) -> Path:
    return root / NOTES / f"{number:06d}.json"
