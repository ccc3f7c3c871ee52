"""Share: a fixed part of the blocks of a data set, for a job that is one of many.

Block b belongs to share `b % n + 1` of n. Each share has a lock of its own, so jobs of different shares write beside each
other; the plain command has the lock of the whole folder. Whoever holds one of the two sees whether the other is held.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from reinforce.errors import UsageError

_MOST = 1_000_000


class Share(NamedTuple):
    """The `number`th of `of` shares, counted from 1."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """`3/64`.

        Raises:
            UsageError: it is not of this form.
        """
        found = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text)
        share = cls(int(found[1]), int(found[2])) if found else cls(0, 0)
        if not 1 <= share.number <= share.of <= _MOST:
            raise UsageError(
                f"--share {text} is no share.",
                expected="I/N, the Ith of N shares, counted from 1",
                fix="--share 3/64; where jobs are counted from 0, --share $((INDEX + 1))/64",
            )
        return share

    def blocks_of(self, blocks: list[int]) -> list[int]:
        """The blocks that belong to it."""
        return [block for block in blocks if block % self.of == self.number - 1]

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
