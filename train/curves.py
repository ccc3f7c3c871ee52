"""Curves: writes the metrics of a run also as TensorBoard events; needs the extra `tensorboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reinforce.errors import UsageError


class Curves:
    """Writes a line of metrics per epoch below `folder`.

    Raises:
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError("--tensorboard needs TensorBoard.", fix="pip install 'reinforce[tensorboard]'") from None
        writer: Any = SummaryWriter  # untyped
        self._writer = writer(folder)

    def add(self, line: dict[str, Any]) -> None:
        """Write the numbers of an epoch."""
        for name, value in line.items():
            if name != "epoch":
                self._writer.add_scalar(name, value, line["epoch"])
        self._writer.flush()
