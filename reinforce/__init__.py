"""Reinforce: knowledge distillation at the price of plain training.

Stage one (`reinforce generate`) runs a teacher once over V augmented views of every image and stores sparse soft labels with
the integers that define each view. Stage two (`reinforce train`) replays those very views for any timm student.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own takes milliseconds to import, in which Ctrl-C would be a traceback
if TYPE_CHECKING:
    from reinforce.replay.dataset import ReinforcedDataset

    __version__: str

__all__ = ["ReinforcedDataset", "__version__"]


def __getattr__(name: str) -> object:
    # Imported at first use, so that `reinforce --help` does not wait for torch.
    if name == "ReinforcedDataset":
        from reinforce.replay.dataset import ReinforcedDataset

        return ReinforcedDataset
    if name == "__version__":
        from importlib.metadata import version

        return version("reinforce")
    raise AttributeError(f"module 'reinforce' has no attribute {name!r}")
