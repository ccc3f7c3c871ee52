"""Status: what became of a sample when its views were made. Source: FORMAT.md, "Blocks"."""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """What became of a sample at generation."""

    OK = 0
    MISSING = 1
    CORRUPT = 2
