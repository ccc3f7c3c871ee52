"""Engines: which there are, by the names that users type. A new one is one line in `ENGINES`."""

from __future__ import annotations

from reinforce.errors import UsageError
from reinforce.generation.engine import Engine
from reinforce.generation.local_engine import LocalEngine
from reinforce.generation.ray_engine import RayEngine

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (LocalEngine(), RayEngine())}


def engine_of(name: str) -> Engine:
    """The engine of a name.

    Raises:
        UsageError: there is none, or it needs what is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"There is no engine {name!r}.", expected=", ".join(ENGINES), fix="--engine local")
    ENGINES[name].require()
    return ENGINES[name]
