"""Law: raise the error for a broken law; not by an assert statement, as `python -O` removes these."""

from __future__ import annotations


def require(holds: bool, said: str) -> None:
    """Raise an AssertionError with the text `said`, unless the law holds."""
    if not holds:
        raise AssertionError(said)
