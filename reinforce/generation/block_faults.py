"""Block faults: which blocks failed, where and why; and when one is given up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import NamedTuple

from reinforce.errors import WorkerError
from reinforce.generation.ray_nodes import Node

TRIES = 3
"""How often a block is tried."""
HOPELESS = 8
"""After so many blocks in a row that were given up, none is tried any more: what fails is not the block."""


class Fault(NamedTuple):
    """What went wrong with a block, and where."""

    node: Node
    said: str


class BlockFaults:
    """All faults of a run."""

    def __init__(self) -> None:
        self.of: dict[int, list[Fault]] = defaultdict(list)
        self.given_up: dict[int, Fault] = {}
        self.in_a_row = 0

    def __contains__(self, block: int) -> bool:
        return block in self.of

    @property
    def hopeless(self) -> bool:
        """Whether to stop."""
        return self.in_a_row >= HOPELESS

    def suits(self, block: int, node: str, usable: Collection[str]) -> bool:
        """Whether to try a block on a node, by its id, while there are these: not where it failed, if there are others."""
        failed = {fault.node.id for fault in self.of.get(block, ())}
        return node not in failed or set(usable) <= failed

    def add(self, block: int, fault: Fault) -> bool:
        """Note a fault. Returns whether the block is tried again."""
        self.of[block].append(fault)
        if len(self.of[block]) < TRIES:
            return True
        self.given_up[block] = fault
        self.in_a_row += 1
        return False

    def error(self, untried: int) -> WorkerError:
        """The error at the end of a run; `untried` blocks were left."""
        each = [f"block {block} on node {fault.node.name}: {fault.said}" for block, fault in sorted(self.given_up.items())]
        return WorkerError(
            f"{len(each)} blocks could not be made." if len(each) > 1 else "A block could not be made.",
            found="; ".join(each) + (f"; {untried} blocks were not tried any more" if untried else ""),
            expected=f"a block that is made in {TRIES} tries",
            fix="the same command tries them again; what is committed is kept",
        )
