"""Damage done to a store by hand, and what is in a store and fails in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reinforce.verification.verify import verify_store


def flip(path: Path, position: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(position * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def edit_manifest(root: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((root / "manifest.json").read_bytes())
    change(manifest)
    (root / "manifest.json").write_text(json.dumps(manifest))


def failed(root: Path) -> dict[str, int]:
    """Failures by check, of the checks that a store is put to by itself."""
    return {check.name: check.failed for check in verify_store(root)}
