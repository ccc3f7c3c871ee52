"""Plot: a new figure of matplotlib, which is no dependency."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reinforce.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("--plot needs matplotlib.", fix="pip install matplotlib") from None
    return Figure(figsize=(width, height), layout="constrained")
