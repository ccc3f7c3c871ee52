"""Policy text: a policy as it is typed, `NAME` or `NAME:key=value,key=value`, or as a TOML file with the same options as keys.

Ranges and tuples are written with dashes: `rrc-ra:scale=0.25-1,m=9`. A file may name a `preset` to start from. `str(policy)`
names every option that applies, so two texts of one policy compare equal.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reinforce.errors import UsageError, first_line, shown
from reinforce.files import read_small
from reinforce.policy import CUSTOM, DEFAULT, PRESETS, Policy


def read_policy(text: str) -> Policy:
    """Read what `--policy` takes: a name with options, or the path of a TOML file, which is not needed afterwards.

    Raises:
        UsageError: no TOML, an unknown preset or option, or a value out of range.
    """
    if not text.endswith(".toml"):
        return parse_policy(text)
    try:
        content = tomllib.loads(read_small(Path(text)).decode())
    except OSError as error:
        raise UsageError(f"There is no policy file {text}.", found=error.strerror or str(error), fix="check --policy") from None
    except (ValueError, RecursionError) as error:  # also of a number of thousands of digits, and of lists too deep
        raise UsageError(f"Policy file {text} is no TOML.", found=first_line(error)) from None
    preset = content.pop("preset", "rrc")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UsageError(f"Policy file {text} starts from no known preset.", found=shown(preset), expected=", ".join(PRESETS))
    unknown = [key for key in content if key == "name" or key not in Policy.model_fields]
    if unknown:
        options = ", ".join(k for k in Policy.model_fields if k != "name")
        raise UsageError(f"Policy file {text} has no option {shown(unknown[0])}.", expected=f"preset, {options}")
    return make_policy({**_applying(preset, content), "name": CUSTOM}, text)


def parse_policy(text: str) -> Policy:
    """Read a policy's text form.

    Raises:
        UsageError: unknown policy or option, or a value out of range.
    """
    name, _, rest = text.partition(":")
    if name not in PRESETS and name != CUSTOM:
        known = ", ".join(PRESETS)
        raise UsageError(f"There is no policy {name!r}.", expected=f"{known}, or a TOML file", fix=f"--policy {_closest(name)}")
    known_options = [k for k in Policy.model_fields if k != "name"]
    options: dict[str, Any] = {"name": name}
    for item in filter(None, rest.split(",")):
        key, separator, value = item.partition("=")
        if not separator or key not in known_options:
            raise UsageError(f"Policy {name!r} has no option {item!r}.", expected=", ".join(f"{k}=" for k in known_options))
        # A dash separates values, except where it is a sign or an exponent's sign.
        parts = re.split(r"(?<=[0-9.])-", value)
        options[key] = tuple(parts) if len(parts) > 1 else value
    return make_policy(options, text)


def make_policy(options: dict[str, Any], what: str) -> Policy:
    """A policy from its name and options.

    Args:
        options: `name`, and any options.
        what: What an error calls it.

    Raises:
        UsageError: an unknown option, a value out of range, or a policy that cannot be drawn.
    """
    try:
        policy = Policy.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise UsageError(f"Policy {what!r} is not valid.", found=f"{where} {first['msg']}".strip()) from None
    if policy.one_way:
        raise UsageError(
            f"Views of policy {what!r} cannot be drawn.",
            found="partners=any, which says how imported views were mixed",
            expected="partners=pairs, the default: two samples are mixed with each other, and none needs a second decode",
        )
    return policy


def _closest(name: str) -> str:
    plain = name.replace("-", "").lower()
    return max((p for p in PRESETS if p != "none" and p.replace("-", "") in plain), key=len, default=DEFAULT)


def _applying(preset: str, content: dict[str, object]) -> dict[str, object]:
    """The options of the preset, replaced by those of the file; without options of the preset that no longer apply."""
    merged = {**PRESETS[preset].options, **content}
    valid = make_policy({**merged, "name": preset}, preset)
    return {k: v for k, v in merged.items() if k in content or k in valid.options}
