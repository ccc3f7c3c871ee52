"""Fitting: asks a teacher in smaller batches once a batch did not fit in the memory of its device."""

from __future__ import annotations

import warnings

import torch

from reinforce.errors import TeacherError
from reinforce.labels.label_kind import Labeller


class Fitting:
    """A labeller that halves its batches when the device runs out of memory, and says so once.

    Args:
        labeller: What a teacher says of uint8 `[B, 3, H, W]`.
        most: Views that it is asked for at once.
    """

    def __init__(self, labeller: Labeller, most: int) -> None:
        self.labeller, self.most = labeller, most
        self.told = False

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """The labels of a batch.

        Raises:
            TeacherError: not one view fits.
        """
        while True:
            try:
                parts = [self.labeller(part) for part in images.split(self.most)]
                return parts[0] if len(parts) == 1 else torch.cat(parts)
            except torch.OutOfMemoryError:
                if self.most == 1:
                    raise no_view_fits(str(images.device) if images.is_cuda else "the device") from None
            # Outside of the except clause: the exception would keep what did not fit.
            self.most = max(1, min(self.most, len(images)) // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._tell()

    def _tell(self) -> None:
        if not self.told:
            self.told = True
            warnings.warn(
                f"The device ran out of memory: batches of {self.most} from now on. Labels may differ in their last bits from "
                "those of larger batches.",
                UserWarning,
                stacklevel=1,
            )


def no_view_fits(device: str) -> TeacherError:
    """The error for a device on which a teacher cannot run at all."""
    return TeacherError(
        f"Not one view fits in the memory of {device}.",
        cause="a teacher too large, or other processes on the device",
        fix="--precision bf16, --device cpu, or a smaller teacher",
    )
