"""Teacher spec: what a user says of a teacher, before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from reinforce.settings import Scalar


@dataclass(frozen=True)
class TeacherSpec:
    """What a user says of one teacher; `kwargs` go to `timm.create_model`, except `mean` and `std`, which override its own."""

    name: str
    weights: Path | None = None
    kwargs: dict[str, Scalar] = field(default_factory=dict)
