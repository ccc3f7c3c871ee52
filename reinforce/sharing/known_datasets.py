"""Known datasets: the reinforced datasets that `manifests/` lists, by name."""

from __future__ import annotations

from importlib.resources import files

from reinforce.errors import UsageError
from reinforce.settings import read_model
from reinforce.sharing.publication import Known


def known_datasets() -> dict[str, Known]:
    """All known datasets, by name."""
    found = {}
    for entry in sorted((files("reinforce") / "manifests").iterdir(), key=lambda e: e.name):
        if entry.name.endswith(".json") and entry.name != "schema.json":
            known = read_model(Known, entry.read_bytes(), entry.name)
            found[known.name] = known
    return found


def find(what: str) -> tuple[list[str], str | None]:
    """Locations of the data set that `pull` was asked for, and the sha256 of its `publication.json`, if known.

    Raises:
        UsageError: the name is not known, or another command than `pull` brings this data set.
    """
    if "/" in what or what.startswith("."):
        return [what], None
    known = known_datasets().get(what)
    if known is None:
        raise UsageError(
            f"There is no data set {what!r}.",
            expected="a name, a folder with a slash in it (./NAME), or a URL",
            fix="reinforce list datasets",
        )
    if known.get == "demo":
        raise UsageError(f"{what} is made, not pulled.", fix="reinforce demo")
    if known.get == "import":
        raise UsageError(
            f"{what} was published in a format of its own.",
            found=", ".join(known.locations),
            fix=f"download it there, then reinforce import {known.import_format} FILES --out DIR",
        )
    return known.locations, known.publication_sha256
