"""Rein file: the member `KEY.rein` of a shard, which holds the params and records of all views of one sample.

Bytes in, params and records out; opens no files. Source: FORMAT.md, "Packs".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

import numpy as np

from reinforce.errors import StoreError
from reinforce.packs.columns import compress_columns, decompress_columns

MAGIC = b"REIN"
_HEADER = struct.Struct("<4sBBHHHIIII")  # magic, version, 0, V, R, P, block, row, probe, bytes
_STRIPES = {1: struct.Struct("<II"), 2: struct.Struct("<III")}  # by version: bytes of params, bytes of record, witness


class ReinFile(NamedTuple):
    """The decoded header of a `.rein`; params are decoded only when a method asks for them.

    Attributes:
        views: V, number of views.
        stripe_views: R, views per stripe.
        columns: P, number of params of a view.
        block: Number of the sample's block.
        row: Position of the sample in its block.
        probe: CRC-32 of the pixels of view `row mod min(V, R)`.
        parts: Compressed params and record of each stripe.
        witness: CRC-32C of the pixels of all views of each stripe; None: a member of version 1, which has none.
    """

    views: int
    stripe_views: int
    columns: int
    block: int
    row: int
    probe: int
    parts: list[tuple[memoryview, memoryview]]
    witness: list[int] | None

    @classmethod
    def parse(cls, content: bytes) -> ReinFile:
        """Read the header of a `.rein` and find its parts.

        Raises:
            StoreError: the bytes are not a `.rein`, or damaged.
        """
        if len(content) < _HEADER.size:
            raise _damaged(f"{len(content)} bytes")
        magic, version, zero, views, stripe_views, columns, block, row, probe, size = _HEADER.unpack_from(content)
        if magic != MAGIC or version not in _STRIPES or zero or not views or not stripe_views or not columns:
            raise _damaged(f"a header {bytes(content[:12]).hex()}")
        stripes, start = -(-views // stripe_views), _HEADER.size
        stripe = _STRIPES[version]
        at = start + stripes * stripe.size
        if size != len(content) or at > len(content):
            raise _damaged(f"{len(content)} bytes, {size} by its header")
        table = list(stripe.iter_unpack(content[start:at]))
        whole, parts = memoryview(content), []
        for params, record, *_ in table:
            parts.append((whole[at : at + params], whole[at + params : at + params + record]))
            at += params + record
        if at != len(content):
            raise _damaged(f"parts of {at} bytes in {len(content)}")
        witness = None if version == 1 else [each[2] for each in table]
        return cls(views, stripe_views, columns, block, row, probe, parts, witness)

    def views_of_stripe(self, stripe: int) -> int:
        """Number of views of a stripe."""
        return min(self.stripe_views, self.views - stripe * self.stripe_views)

    def params_of_stripe(self, stripe: int) -> np.ndarray:
        """Params of all views of a stripe: int32 `[v, P]`.

        Raises:
            StoreError: the params are damaged.
        """
        try:
            return decompress_columns(bytes(self.parts[stripe][0]), self.views_of_stripe(stripe), self.columns)
        except ValueError as error:
            raise _damaged(f"params: {error}") from None

    def params(self, view: int) -> np.ndarray:
        """Params of one view: int32 `[P]`.

        Raises:
            StoreError: there is no such view, or the params are damaged.
        """
        if not 0 <= view < self.views:
            raise _damaged(f"no view {view} of {self.views}")
        stripe, own = divmod(view, self.stripe_views)
        params: np.ndarray = self.params_of_stripe(stripe)[own]
        return params

    def all_params(self) -> np.ndarray:
        """Params of all views: int32 `[V, P]`.

        Raises:
            StoreError: the params are damaged.
        """
        return np.concatenate([self.params_of_stripe(stripe) for stripe in range(len(self.parts))])

    def record(self, stripe: int) -> memoryview:
        """The record of a stripe's views."""
        return self.parts[stripe][1]


def make_rein(
    params: np.ndarray,
    records: list[bytes],
    stripe_views: int,
    block: int,
    row: int,
    probe: int,
    witness: list[int] | None = None,
) -> bytes:
    """Make the `.rein` of a sample.

    Args:
        params: Params of all views, int32 `[V, P]`.
        records: One record per stripe.
        stripe_views: R, views per stripe.
        block: Number of the sample's block.
        row: Position of the sample in its block.
        probe: CRC-32 of the pixels of the sample's probe view.
        witness: CRC-32C of the pixels of all views of each stripe; None: not known.
    """
    views, columns = params.shape
    stripes = [params[first : first + stripe_views] for first in range(0, views, stripe_views)]
    chunks = [compress_columns(stripe) for stripe in stripes]
    version, seen = (1, [[]] * len(chunks)) if witness is None else (2, [[crc] for crc in witness])
    rows = zip(chunks, records, seen, strict=True)
    table = b"".join(_STRIPES[version].pack(len(c), len(r), *crc) for c, r, crc in rows)
    body = b"".join(part for pair in zip(chunks, records, strict=True) for part in pair)
    size = _HEADER.size + len(table) + len(body)
    return _HEADER.pack(MAGIC, version, 0, views, stripe_views, columns, block, row, probe, size) + table + body


def _damaged(found: str) -> StoreError:
    return StoreError(
        "A .rein member of a shard is damaged.",
        found=found,
        expected="params and labels of the views of one sample, as in FORMAT.md",
        cause="a broken copy, or another kind of file",
        fix="reinforce verify on the folder of the shards, or pack them again",
    )
