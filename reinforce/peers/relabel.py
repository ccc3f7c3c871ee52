"""The files of ReLabel: `WNID/STEM.pt`, a tensor `(2, 5, 15, 15)` of scores and class ids, read for `import` as label maps.

Source: Yun et al. 2021, arXiv 2101.05022, and its published code and files. Its loader takes a crop's top for a place on the
last axis, so students of these maps learnt from them as if they were `[width, height]`. Whether the maps were written so, or as
`[height, width]` and read crosswise, no file says; `axes` chooses how they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from reinforce.errors import StoreError
from reinforce.labels.label_map import MapCodec
from reinforce.peers.archive import archive_files
from reinforce.peers.reader import LARGEST_ID, PeerEntry, PeerViews, Reader, ReadOptions, bad_labels
from reinforce.settings import Origin
from reinforce.teachers.torch_file import read_torch
from reinforce.views.draw import draw
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import view_rng


class RelabelReader(Reader):
    """See `reinforce.peers.reader.Reader`."""

    format = "relabel"
    views = 1
    codec: MapCodec

    def __init__(self, path: Path, num_classes: int, teachers: list[str], size: int = 224, axes: str = "wh") -> None:
        self.path, self.axes = path, axes
        self.num_classes, self.size, self.teachers = num_classes, size, teachers
        first = next((e for e in self.entries()), None)
        if first is None:
            raise StoreError(f"There are no label maps in {path}.", expected="files WNID/STEM.pt", fix="check the path")
        self.codec, self.policy = MapCodec(_map(first.content).shape[1]), parse_policy("whole")
        self.origin = Origin(
            format=self.format, pixels="the authors' teacher on whole images", replay="approximate", options={"axes": axes}
        )

    @classmethod
    def open(cls, path: Path, given: ReadOptions) -> RelabelReader:
        return cls(path, given.num_classes, given.names, given.size, given.axes)

    def entries(self) -> Iterator[PeerEntry]:
        for name, content in archive_files(self.path):
            if name.endswith(".pt"):
                yield PeerEntry("/".join(name.removesuffix(".pt").split("/")[-2:]), content)

    def parse(self, content: bytes, width: int, height: int) -> PeerViews:
        found = _map(content)
        if found.shape[1] != self.codec.k:
            raise bad_labels(f"maps of {found.shape[1]} classes, and {self.codec.k} of the sample before")
        scores, ids = found.transpose(0, 3, 2, 1) if self.axes == "wh" else found.transpose(0, 2, 3, 1)  # [h, w, K] each
        whole = ids.astype(np.int64)
        if not np.array_equal(whole, ids) or whole.min() < 0 or whole.max() >= self.num_classes:
            raise bad_labels(f"class ids {ids.min()} to {ids.max()}")
        if not np.diff(np.sort(whole, axis=-1), axis=-1).all() or np.abs(scores).max() > 60_000:
            raise bad_labels("a class twice at a position, or scores that no half float holds")
        params = draw(view_rng(0, 0, 0), self.policy, self.size, width, height)
        return PeerViews(params[None], self.codec.pack(whole, scores, self.num_classes))


def _map(content: bytes) -> np.ndarray:
    found = read_torch(content)
    if not isinstance(found, torch.Tensor) or found.ndim != 4 or len(found) != 2 or not found.is_floating_point():
        raise bad_labels("a file that is not a tensor of scores and class ids")
    if not 1 <= min(found.shape[1:]) <= max(found.shape[1:]) <= 255:  # before there are copies of it
        raise bad_labels(f"a map {list(found.shape)}")
    values = found.double().numpy()
    if not np.isfinite(values).all() or np.abs(values[1]).max() > LARGEST_ID:
        raise bad_labels("a map with NaN, infinity, or class ids that are none")
    return values
