"""Law: how a broken law is told; also under `python -O`, which takes assert statements away."""

from __future__ import annotations


def require(holds: bool, said: str) -> None:
    """Raise AssertionError with what is said, unless the law holds."""
    if not holds:
        raise AssertionError(said)
