"""Policy file: a policy of one's own as TOML, the same options as keys, and `preset` to start from one of the named ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

from reinforce.errors import UsageError
from reinforce.policy import CUSTOM, Policy, make_policy, parse_policy
from reinforce.presets import PRESETS


def read_policy(text: str) -> Policy:
    """What `--policy` takes: a name with options, or the path of a TOML file; the result needs no file any more.

    Raises:
        UsageError: no TOML, an unknown preset or option, or a value out of range.
    """
    if not text.endswith(".toml"):
        return parse_policy(text)
    try:
        content = tomllib.loads(Path(text).read_bytes().decode())
    except OSError as error:
        raise UsageError(f"There is no policy file {text}.", found=error.strerror, fix="check --policy") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"Policy file {text} is no TOML.", found=str(error)) from None
    preset = content.pop("preset", "rrc")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise UsageError(f"Policy file {text} starts from no known preset.", found=preset, expected=", ".join(PRESETS))
    unknown = [key for key in content if key == "name" or key not in Policy.model_fields]
    if unknown:
        options = ", ".join(k for k in Policy.model_fields if k != "name")
        raise UsageError(f"Policy file {text} has no option {unknown[0]!r}.", expected=f"preset, {options}")
    return make_policy({**_applying(preset, content), "name": CUSTOM}, text)


def _applying(preset: str, content: dict[str, object]) -> dict[str, object]:
    """The preset's options with the file's over them, without those of the preset that the file puts out of use."""
    merged = {**PRESETS[preset].options, **content}
    valid = make_policy({**merged, "name": preset}, preset)
    return {k: v for k, v in merged.items() if k in content or k in valid.options}
