"""Sources that fail in an actor, or on one node, and not in the process that started the run."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any

import torch

from reinforce.errors import SourceError
from reinforce.sources.folder import ImageFolder
from reinforce.views import pixels
from reinforce.views.apply import apply

NODE = "REINFORCE_TEST_NODE"
"""An environment variable: what a node of a test is like."""


@dataclass(frozen=True)
class Biting(ImageFolder):
    """Some samples cannot be read, each in its own way."""

    home: int = 0

    def read(self, index: int) -> bytes:
        if os.getpid() != self.home:
            if index == 4:
                raise SourceError("This image bites.")
            if index == 10:
                raise RuntimeError("nobody expects this")
            if index == 16:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().read(index)


@dataclass(frozen=True)
class Local(ImageFolder):
    """What the node is like that reads it is said by its environment."""

    def read(self, index: int) -> bytes:
        odd = os.environ.get(NODE)
        if odd == "other images":
            return super().read(index) + b" "
        if odd == "no images":
            raise FileNotFoundError(2, "No such file or directory")
        if odd == "other pixels":
            setattr(pixels, "apply", _darker)  # noqa: B010 - the module does not offer the name
        return super().read(index)


def _darker(*arguments: Any, original: Any = apply) -> torch.Tensor:
    made: torch.Tensor = original(*arguments)
    return made // 2
