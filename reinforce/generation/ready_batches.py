"""Ready batches: real views in memory, for timing a teacher by itself."""

from __future__ import annotations

import torch

from reinforce.errors import SourceError
from reinforce.settings import Settings
from reinforce.sources.source import Source
from reinforce.views.pixels import ViewMaker

_READY = 4
"""Number of batches that a timing loop goes through in turn."""


def ready_batches(source: Source, settings: Settings, batch_size: int) -> list[torch.Tensor]:
    """A few batches of real views, uint8 `[batch_size, 3, size, size]`; images that cannot be used are passed over.

    Raises:
        SourceError: no image can be used.
        TooManyFilesError, OutOfMemoryError: file descriptors or memory are too few to read an image.
    """
    maker, views, reason = ViewMaker(source, settings), list[torch.Tensor](), None
    wanted = min(_READY * batch_size, len(source) * settings.views)
    for index in range(len(source)):
        if sum(map(len, views)) >= wanted:
            break
        made = maker[index]
        views.append(made.pixels)
        reason = reason or made.reason
    if not sum(map(len, views)):
        raise SourceError(f"No image of {source.location} can be used.", found=reason, fix="check --data")
    return list(torch.cat(views)[:wanted].split(batch_size))
