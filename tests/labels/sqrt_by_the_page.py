"""A second reader of `sqrt` records, written from the text of FORMAT.md alone: slow, and none of the product's code."""

from __future__ import annotations

import base64
import math
import re
from importlib.resources import files

import zstandard

PAGE = files("reinforce").joinpath("FORMAT.md").read_text()


def content_of(record: bytes) -> bytes:
    """The content of a record: one zstd frame without its magic number, with the dictionary of the page."""
    text = re.search(r"zstd dictionary of 256 bytes.*?```\n(.*?)\n```", PAGE, re.DOTALL)
    assert text is not None
    dictionary = zstandard.ZstdCompressionDict(base64.b64decode(text[1]))
    return zstandard.ZstdDecompressor(dict_data=dictionary, format=zstandard.FORMAT_ZSTD1_MAGICLESS).decompress(record)


def read(content: bytes, delta: float, num_views: int, num_classes: int) -> list[list[float]]:
    """All probabilities of all views."""
    floor, one, width = content[0], content[1] / 128, 2 if num_classes <= 65536 else 4
    n = int.from_bytes(content[2 : 2 + width], "little")
    rest = content[2 + width :]
    ids, last, added = [], -1, 0
    for byte in rest[:n]:
        if byte == 0:
            added += 255
        else:
            last, added = last + byte + added, 0
            ids.append(last)
    rest = rest[n:]
    levels, steps, tokens = rest[: len(ids)], rest[len(ids) :][:num_views], rest[len(ids) + num_views :]
    places = sorted(range(len(ids)), key=lambda i: (levels[i], ids[i]))
    weights = [2.0 ** (-floor / 4)] * num_classes
    for i, level in zip(ids, levels, strict=True):
        weights[i] = 2.0 ** -min(level, 63)
    views, view = [], bytearray()
    for token in tokens:
        if token == 255:
            views.append(bytes(view))
            view.clear()
        else:
            view.append(token)
    assert len(views) == num_views
    assert not view
    return [_view(v, t, [ids[i] for i in places], one, weights, delta / 3) for v, t in zip(views, steps, strict=True)]


def _view(tokens: bytes, t: int, places: list[int], one: float, weights: list[float], e: float) -> list[float]:
    place = -1
    symbol_of: dict[int, int] = {}
    highest_of: dict[int, int] = {}
    for token in tokens:
        if token < 128:
            place += token + 1
            symbol_of[place] = 1
        elif token == 128:
            place += 128
        else:
            symbol_of[place] = token - 127
            highest_of[place] = max(highest_of.get(place, 0), token)
    values = {p: one if s == 1 else s * s - 3 / 8 for p, s in symbol_of.items()}
    if highest_of:
        highest = max(highest_of.values())
        values[min(p for p, token in highest_of.items() if token == highest)] += 1 / 2
    r = 1 / 2 - 1 / 2 * math.cos(2 * e * t) * math.sin(e) / e
    r = 1.0 if not values else 0.0 if len(values) == len(weights) else r
    kept = {places[p]: value / sum(values.values()) * (1 - r) for p, value in values.items()}
    tail = sum(w for c, w in enumerate(weights) if c not in kept)
    return [kept[c] if c in kept else r * w / tail for c, w in enumerate(weights)]
