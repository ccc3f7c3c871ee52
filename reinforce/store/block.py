"""Block: a fixed run of samples as one zarr group; the unit of work, commit, resume and checksum.

A block is written into a directory whose name has a leading dot, every file is synced, and one rename makes it visible: a
reader sees a whole block or none (invariant 3). Source: FORMAT.md, "Blocks".
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from reinforce.errors import StoreError
from reinforce.files import remove, replacing
from reinforce.store.stripe import Stripe, damaged, open_array, read_array, read_metadata
from reinforce.store.zarr_layout import ARRAYS, MAX_PARAMS_BYTES, stripe_array

_PLAIN: dict[str, Any] = {"compressors": None, "filters": None, "config": {"write_empty_chunks": True}}
_BLOSC = {"cname": "zstd", "clevel": 9, "shuffle": "shuffle"}


@dataclass
class BlockData:
    """The content of one block in memory, for S samples, V views, P params columns.

    Samples whose status is not ok have empty records, and zeros in the arrays.
    """

    params: np.ndarray  # int32 [S, V, P]
    probes: np.ndarray  # uint32 [S]: CRC-32 of the pixels of view (row % V'), V' being the views of the first record
    sha256: np.ndarray  # uint8 [S, 32], of the encoded bytes
    crc32c: np.ndarray  # uint32 [S], of the encoded bytes
    width_height: np.ndarray  # uint32 [S, 2], of the decoded image
    status: np.ndarray  # uint8 [S]
    label_error: np.ndarray  # float32 [S, 3]: mean KL, mean top-1 bias, image bias of the codec; NaN: not measured
    stripe_views: int = 1 << 16  # views of a record; the last one of a sample may have fewer
    witness: np.ndarray | None = None  # uint32 [S, stripes]: CRC-32C of the pixels of all views of each stripe; None: not known
    records: list[bytes] = field(default_factory=list)  # S for the first stripe of views, S for the next, ...
    reasons: dict[int, str] = field(default_factory=dict)  # row -> why the sample is not ok

    @classmethod
    def empty(cls, samples: int, views: int, columns: int, stripe_views: int | None = None) -> BlockData:
        """A block in which nothing has been filled in yet."""
        stripe_views = stripe_views or views
        return cls(
            params=np.zeros((samples, views, columns), np.int32),
            probes=np.zeros(samples, np.uint32),
            sha256=np.zeros((samples, 32), np.uint8),
            crc32c=np.zeros(samples, np.uint32),
            width_height=np.zeros((samples, 2), np.uint32),
            status=np.zeros(samples, np.uint8),
            label_error=np.full((samples, 3), np.nan, np.float32),
            stripe_views=stripe_views,
            records=[b""] * (samples * -(-views // stripe_views)),
        )

    def set_records(self, row: int, records: list[bytes]) -> None:
        """Store the records of one sample, one per stripe."""
        self.records[row :: len(self.status)] = records


def block_path(root: Path, block: int) -> Path:
    """The path of a block."""
    return root / "blocks" / f"{block:06d}.zarr"


def committed_blocks(root: Path) -> set[int]:
    """Numbers of the blocks that are committed."""
    folder = root / "blocks"
    names = os.listdir(folder) if folder.is_dir() else []
    return {int(n[:6]) for n in names if len(n) == 11 and n[:6].isdecimal() and n.endswith(".zarr")}


def remove_staging(root: Path) -> None:
    """Remove unfinished blocks and files of writers that were killed. Only the holder of the lock may call this."""
    for folder, ending in ((root, ".partial"), (root / "blocks", "")):
        for name in os.listdir(folder) if folder.is_dir() else []:
            if name.startswith(".") and name.endswith(ending):
                remove(folder / name)


def write_block(root: Path, block: int, data: BlockData) -> None:
    """Write and commit a block. If another process commits it at the same time, that one is kept: its bytes are the same.

    Raises:
        OSError: the disk is full or failing. Readers then see nothing of the block: only the rename makes it visible.
    """
    path = block_path(root, block)
    try:
        with replacing(path, shared=True, synced=True) as staging:
            write_group(staging, data)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not path.is_dir():
            raise


def write_group(path: Path, data: BlockData) -> None:
    """Write the files of a block into a new folder, without syncing them.

    Raises:
        OSError: the disk is full or failing.
    """
    samples, views, _ = data.params.shape
    reasons = {str(row): reason for row, reason in sorted(data.reasons.items())}
    group = zarr.create_group(path, zarr_format=3, attributes={"reinforce": {"reasons": reasons}})
    for stripe, first in enumerate(range(0, views, data.stripe_views)):
        own = None if data.witness is None else data.witness[:, stripe]
        _write_stripe(
            group, stripe, data.params[:, first : first + data.stripe_views], data.records[samples * stripe :][:samples], own
        )
    for name in ("probes", "sha256", "crc32c", "width_height", "status"):
        values = getattr(data, name)
        group.create_array(name, data=values, chunks=values.shape, **_PLAIN)
    group.create_array("label_error", data=data.label_error, chunks=data.label_error.shape, config={"write_empty_chunks": True})


def _write_stripe(group: zarr.Group, stripe: int, params: np.ndarray, records: list[bytes], witness: np.ndarray | None) -> None:
    """Write params, int32 `[S, v, P]`, records and witness, uint32 `[S]`, of a run of views."""
    samples, views, columns = params.shape
    offsets = np.zeros(samples + 1, np.uint64)
    offsets[1:] = np.cumsum([len(r) for r in records])
    raw = np.frombuffer(b"".join(records) or b"\0", np.uint8)
    # One chunk without compression: the file has the records and nothing else, and a record is a slice of its memory map.
    arrays = {"records": raw, "offsets": offsets} | ({} if witness is None else {"witness": np.ascontiguousarray(witness)})
    for name, values in arrays.items():
        group.create_array(stripe_array(name, stripe), data=values, chunks=values.shape, **_PLAIN)
    # One file, from which the params of a single view can be read. Values of one column are adjacent: they compress better.
    group.create_array(
        stripe_array("params", stripe),
        data=params,
        chunks=(samples, 1, columns),
        shards=(samples, views, columns),
        filters=[zarr.codecs.TransposeCodec(order=(1, 2, 0))],
        compressors=[BloscCodec(typesize=4, **_BLOSC)],  # type: ignore[arg-type]
        config={"write_empty_chunks": True},
    )


class Block:
    """Read access to a committed block.

    Records and params, which training reads, are in stripes of `stripe_views` views each.

    Args:
        path: The block's directory.
        samples: S, as the manifest says; a block of another shape is refused.
        views: V, likewise.
        columns: P, likewise.
        stripe_views: Views of a record; default: all.

    Raises:
        StoreError: missing, damaged, or of another shape or dtype.
    """

    def __init__(self, path: Path, samples: int, views: int, columns: int, stripe_views: int | None = None) -> None:
        self.path = path
        self.shape = (samples, views, columns)
        self.stripe_views = stripe_views or views
        self._stripes: dict[int, Stripe] = {}
        if not path.is_dir():
            raise StoreError(
                f"Block {path.name} is missing.", expected=str(path), cause="an incomplete copy", fix="copy it again"
            )
        try:
            group = json.loads(read_metadata(path, "zarr.json"))
            about = group["attributes"].get("reinforce")
            reasons = about.get("reasons") if isinstance(about, dict) else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise damaged(path, f"{type(error).__name__}: {error}") from None
        if 4 * samples * views * columns > MAX_PARAMS_BYTES:
            raise damaged(path, f"{samples} x {views} x {columns} params; at most {MAX_PARAMS_BYTES} bytes are read")
        self._has_crc = (path / "crc32c").is_dir()
        for name, ndim in ARRAYS.items():
            if name != "crc32c" or self._has_crc:
                open_array(path, name, name, ndim, samples, views, columns)
        self.stripe(0)
        if not isinstance(reasons, dict) or not all(r.isdecimal() and int(r) < samples for r in reasons):
            raise damaged(path, "the reasons of missing and corrupt samples cannot be read")
        self.reasons = {int(row): str(reason) for row, reason in reasons.items()}

    def stripe(self, number: int) -> Stripe:
        """The stripe that begins with view `number * stripe_views`, opened at first use."""
        if number not in self._stripes:
            samples, views, columns = self.shape
            own = min(self.stripe_views, views - number * self.stripe_views)
            self._stripes[number] = Stripe(self.path, number, samples, own, columns)
        return self._stripes[number]

    @property
    def stripes(self) -> list[Stripe]:
        """All stripes."""
        return [self.stripe(number) for number in range(-(-self.shape[1] // self.stripe_views))]

    def _read(self, name: str) -> np.ndarray:
        return read_array(self.path, name, name, *self.shape)

    def params_of_view(self, view: int) -> np.ndarray:
        """Params of one view of all samples: int32 `[S, P]`."""
        if not 0 <= view < self.shape[1]:
            raise damaged(self.path, f"no view {view} of {self.shape[1]}")
        number, own = divmod(view, self.stripe_views)
        return self.stripe(number).params_of_view(own)

    def params(self) -> np.ndarray:
        """Params of all views of all samples: int32 `[S, V, P]`."""
        return np.concatenate([stripe.params() for stripe in self.stripes], axis=1)

    def record(self, row: int, stripe: int = 0) -> memoryview:
        """The record of one sample; empty where the sample is not ok."""
        return self.stripe(stripe).record(row)

    def probes(self) -> np.ndarray:
        """CRC-32 of the probed view of each sample: uint32 `[S]`."""
        return self._read("probes")

    def witness(self) -> np.ndarray | None:
        """CRC-32C of the pixels of all views of each stripe of each sample: uint32 `[S, stripes]`; None: none was written."""
        found = [stripe.witness for stripe in self.stripes]
        return None if any(each is None for each in found) else np.stack([each for each in found if each is not None], axis=1)

    def label_error(self) -> np.ndarray:
        """Mean KL, mean top-1 bias and image bias of the codec on each sample: float32 `[S, 3]`, NaN where not measured."""
        return self._read("label_error")

    def sample_columns(self) -> dict[str, np.ndarray]:
        """What is known of the samples: `sha256 [S, 32]`, `crc32c [S]` (-1: none), `width_height [S, 2]`, `status [S]`."""
        found = {name: self._read(name) for name in ("sha256", "width_height", "status")}
        found["crc32c"] = np.full(len(found["status"]), -1)
        if self._has_crc:  # older writers made none
            read = found["sha256"].any(axis=1)
            found["crc32c"][read] = self._read("crc32c")[read]
        return found
