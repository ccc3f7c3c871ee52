"""Teacher spec: what a user says of each teacher, before it is loaded, from options that are typed once per teacher.

`TEXT` belongs to all teachers, or, for weights, to the teachers in turn; `N:TEXT` belongs to the Nth teacher alone, counted
from 1 in the order of `--teacher`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reinforce.errors import UsageError
from reinforce.settings import Scalar

WEIGHTS, KWARGS = "--teacher-weights", "--teacher-kwargs"
_NUMBERED = re.compile(r"(\d{1,4}):(.+)", re.DOTALL)


@dataclass(frozen=True)
class TeacherSpec:
    """What a user says of one teacher; `kwargs` go to `timm.create_model`, except `mean` and `std`, which override its own."""

    name: str
    weights: Path | None = None
    kwargs: dict[str, Scalar] = field(default_factory=dict)


def weights_of_each(items: Sequence[str | Path], names: Sequence[str]) -> list[Path | None]:
    """The weights file of each teacher: one per teacher in their order, or `N:FILE` for some of them; None: timm's own.

    Raises:
        UsageError: another number of files than teachers, a number that no teacher has, two files for one, or both forms.
    """
    files: list[Path | None] = [None] * len(names)
    given = [_numbered(str(item), names, WEIGHTS) for item in items]
    plain = [Path(text) for number, text in given if number is None]
    if plain and len(given) != len(names):
        raise UsageError(
            f"{_count(names)} and {len(given)} weights file{'s' * (len(given) != 1)}.",
            expected="one file per teacher"
            + (f", in the order of {_listed(names)}; or N:FILE for the Nth teacher" if len(names) > 1 else ""),
            fix=f"{WEIGHTS} {len(names)}:{plain[0]}" if len(names) > 1 else None,
        )
    if plain and len(plain) < len(given):
        raise UsageError(
            "Some weights files have a teacher's number and others have none.",
            found=", ".join(map(str, items)),
            expected=f"N:FILE each, or one file per teacher, in the order of {_listed(names)}",
        )
    if plain:
        return list(plain)
    for number, text in given:
        if number is not None:
            if files[number] is not None:
                raise UsageError(
                    f"Teacher {number + 1} has two weights files.", found=f"{files[number]}, {text}", expected="one"
                )
            files[number] = Path(text)
    return files


def kwargs_of_each(items: Sequence[str], names: Sequence[str]) -> list[list[str]]:
    """The `key=value` items of each teacher: those of all teachers, then its own, which therefore count.

    Raises:
        UsageError: a number that no teacher has.
    """
    given = [_numbered(item, names, KWARGS) for item in items]
    common = [text for number, text in given if number is None]
    return [common + [text for number, text in given if number == i] for i in range(len(names))]


def _numbered(item: str, names: Sequence[str], option: str) -> tuple[int | None, str]:
    """The index of the teacher that an item is for (None: it has no number), and the rest of the item."""
    found = _NUMBERED.fullmatch(item)
    if found is None:
        return None, item
    number = int(found[1])
    if not 1 <= number <= len(names):
        raise UsageError(
            f"{option} {item!r} is for a teacher that is not there.",
            found=f"number {number}, {_count(names)}: {_listed(names)}",
            expected=f"a number from 1 to {len(names)}",
            cause="teachers are counted from 1, in their order on the command line or in the manifest",
            fix=f"a file of this name: ./{item}" if option == WEIGHTS else None,
        )
    return number - 1, found[2]


def _count(names: Sequence[str]) -> str:
    return f"{len(names)} teacher{'s' * (len(names) != 1)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
