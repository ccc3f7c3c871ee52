"""Ready batches: real views in memory, for timing a teacher by itself."""

from __future__ import annotations

import torch

from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.views.decode import decode
from reinforce.views.pixels import make_views

_READY = 4
"""Number of batches that a timing loop goes through in turn."""


def ready_batches(source: Source, settings: Settings, batch_size: int) -> list[torch.Tensor]:
    """A few batches of real views, uint8 `[batch_size, 3, size, size]`."""
    views: list[torch.Tensor] = []
    wanted = min(_READY * batch_size, len(source) * settings.views)
    for index in range(len(source)):
        if sum(map(len, views)) >= wanted:
            break
        views.append(make_views(decode(source.read(index)), index, settings)[1])
    return list(torch.cat(views)[:wanted].split(batch_size))
