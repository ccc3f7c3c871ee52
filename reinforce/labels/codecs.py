"""Codecs: the list of all codecs, found by what a user typed or by an entry of a manifest. A new one is a line in `CODECS`."""

from __future__ import annotations

from typing import Any

from reinforce.errors import StoreError, UsageError
from reinforce.labels.codec import Codec
from reinforce.labels.label_map import MapCodec
from reinforce.labels.sqrt import Sqrt
from reinforce.labels.topk import TopK

CODECS: dict[str, type[Codec]] = {kind.name: kind for kind in (Sqrt, TopK, MapCodec)}
NAMED_CODECS = {name: codec for kind in CODECS.values() for name, codec in kind.named().items()}
"""Codecs with certain options that have a name of their own, the one with the smallest records first."""


def parse_codec(text: str) -> Codec:
    """Read a codec's text form: a name of `NAMED_CODECS`, or a codec's name and its option, such as `topk:10`.

    Raises:
        UsageError: unknown codec, or an option out of range.
    """
    if text in NAMED_CODECS:
        return NAMED_CODECS[text]
    name, _, option = text.partition(":")
    if name not in CODECS:
        forms = ", ".join([*NAMED_CODECS, *(kind.form for kind in CODECS.values())])
        raise UsageError(f"There is no codec {text!r}.", expected=forms, fix="--codec sqrt")
    return CODECS[name].parse(option)


def codec_name(config: dict[str, Any]) -> str:
    """The text form of a codec in a manifest; `parse_codec` reads it."""
    for name, codec in NAMED_CODECS.items():
        if codec.to_dict() == config:
            return name
    return ":".join(str(value) for value in config.values())


def codec_from_dict(config: dict[str, Any]) -> Codec:
    """The codec that a manifest names.

    Raises:
        StoreError: a codec or option this version does not know.
    """
    name = config.get("name")
    try:
        if isinstance(name, str) and name in CODECS:
            return CODECS[name].from_dict({key: value for key, value in config.items() if key != "name"})
    except ValueError:
        pass
    raise StoreError(
        "The manifest's codec is not one this version can read.",
        found=config,
        expected=f"one of {', '.join(CODECS)}, with its option",
        cause="the data set was made by a newer version, or the manifest was edited",
        fix="pip install --upgrade reinforce",
    )
