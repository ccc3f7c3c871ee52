"""Batch size: how many views a teacher takes at once, if the user does not say.

It is the largest that fits in memory, not the fastest by a clock: labels differ in their last bits between batch sizes, and two
runs must give the same labels.
"""

from __future__ import annotations

import torch

from reinforce.labels.label_kind import Labeller
from reinforce.teachers.fitting import no_view_fits

ON_CPU = 64
LARGEST = 512


def find_batch_size(labeller: Labeller, size: int, device: torch.device) -> int:
    """64 on a CPU; elsewhere the largest power of two up to 512 whose views fit in the device's memory.

    Args:
        labeller: What the teacher says of uint8 `[B, 3, size, size]`.
        size: Height and width of a view in pixels.
        device: Where the teacher is.

    Raises:
        TeacherError: not one view fits.
    """
    if device.type == "cpu":
        return ON_CPU
    batch = LARGEST
    while batch:
        try:
            labeller(torch.zeros(batch, 3, size, size, dtype=torch.uint8))
            return batch
        except torch.OutOfMemoryError:
            batch //= 2
        if device.type == "cuda":
            torch.cuda.empty_cache()
    raise no_view_fits(f"{device}, at {size} pixels")
