"""Codec names: the codecs by the names that users type, and as the manifest has them."""

from __future__ import annotations

from typing import Any

from reinforce.errors import StoreError, UsageError
from reinforce.labels.codec import Codec
from reinforce.labels.label_map import MapCodec
from reinforce.labels.sqrt import Sqrt
from reinforce.labels.topk import MAX_K, TopK

NAMED_CODECS = {"sqrt-tiny": Sqrt(0.18), "sqrt": Sqrt(0.1), "sqrt-high": Sqrt(0.07), "sqrt-near": Sqrt(0.04)}
"""Tiers of `sqrt`, smallest first."""
MIN_DELTA, MAX_DELTA = 1 / 50, 1 / 2

_WITH_K: dict[str, type[TopK] | type[MapCodec]] = {TopK.name: TopK, MapCodec.name: MapCodec}
_NAMES = f"{', '.join(NAMED_CODECS)}, sqrt:DELTA, topk:K, or map:K for label maps"


def parse_codec(text: str) -> Codec:
    """Read a codec's text form: a tier of `sqrt`, `sqrt:DELTA`, `topk`, `topk:K`, `map` or `map:K`.

    Raises:
        UsageError: unknown codec, or an option out of range.
    """
    if text in NAMED_CODECS:
        return NAMED_CODECS[text]
    name, _, option = text.partition(":")
    if name in _WITH_K:
        if not option:
            return _WITH_K[name]()
        if option.isdecimal() and len(option) <= 4 and 1 <= int(option) <= MAX_K:
            return _WITH_K[name](int(option))
        raise UsageError(f"Codec {text!r} is not valid.", found=f"K = {option!r}", expected=f"a whole number from 1 to {MAX_K}")
    if name == Sqrt.name:
        delta = _number(option)
        if MIN_DELTA <= delta <= MAX_DELTA:
            return Sqrt(delta)
        raise UsageError(
            f"Codec {text!r} is not valid.", found=f"DELTA = {option!r}", expected=f"a number from {MIN_DELTA} to {MAX_DELTA}"
        )
    raise UsageError(f"There is no codec {text!r}.", expected=_NAMES, fix="--codec sqrt")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


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
    if config.keys() == {"name", "k"} and config["name"] in _WITH_K:
        k = config["k"]
        if type(k) is int and 1 <= k <= MAX_K:
            return _WITH_K[config["name"]](k)
    if config.keys() == {"name", "delta"} and config["name"] == Sqrt.name:
        delta = config["delta"]
        if type(delta) is float and MIN_DELTA <= delta <= MAX_DELTA:
            return Sqrt(delta)
    raise StoreError(
        "The manifest's codec is not one this version can read.",
        found=config,
        expected='{"name": "sqrt", "delta": 0.1} or {"name": "topk", "k": 10}, or "map" for "topk"',
        cause="the data set was made by a newer version, or the manifest was edited",
        fix="pip install --upgrade reinforce",
    )
