"""The files of ImageNet+ (ml-dr), read for `import`. A torch file per image, `INDEX.pth.tar`.

Each holds `(index, [{"params": list, "prob": (probabilities, class ids)}, ...])`. Source: Faghri et al. 2023, arXiv 2303.08983,
and its published files: ImageNet+ in all variants, CIFAR-100, Food-101, Flowers-102. The M* variants mix a view with one of any
other image, and not in pairs (`reinforce.views.one_way`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from reinforce.errors import StoreError, shown
from reinforce.labels.topk import TopK
from reinforce.peers.archive import archive_files
from reinforce.peers.ml_dr_views import BOX, Layout, read
from reinforce.peers.peer_pixels import ml_dr_view, pillow
from reinforce.peers.reader import PeerEntry, PeerViews, Reader, ReadOptions, bad_labels, check_boxes, check_top, check_views
from reinforce.policy import Policy
from reinforce.settings import Origin
from reinforce.teachers.torch_file import read_torch
from reinforce.views.layout import pixel_spec

TEACHERS = ["ig_resnext101_32x8d", "ig_resnext101_32x16d", "ig_resnext101_32x32d", "ig_resnext101_32x48d"]
"""Of ImageNet+; those of the smaller data sets have no names."""
IMAGENET = 1000
_NAME = re.compile(r"(?:.*/)?(\d{1,9})\.pth\.tar")


class MlDrReader(Reader):
    """See `reinforce.peers.reader.Reader`."""

    format = "imagenet-plus"
    counted = True
    codec: TopK

    def __init__(self, path: Path, given: ReadOptions) -> None:
        self.path = path
        self.num_classes, self.size = given.num_classes, given.size
        self.teachers = TEACHERS if given.teachers is None and given.num_classes == IMAGENET else given.names
        first = next((e for e in self.entries()), None)
        if first is None:
            raise StoreError(f"There are no labels in {path}.", expected="files INDEX.pth.tar", fix="check the path")
        _, views = _sample(first.content)
        self.views = len(views)
        self.layout, k = _layout(views[0]), len(_labels(views)[0][0])
        self.policy: Policy = self.layout.policy
        self.codec = TopK(k)
        self.spec = pixel_spec(self.policy, self.size)
        self.arithmetic = f"{pillow()} and torchvision as ml-dr's loader makes them"
        self.origin = Origin(
            format=self.format, pixels="torchvision, bilinear, on uint8 tensors", replay="approximate", options={"k": k}
        )

    @classmethod
    def open(cls, path: Path, given: ReadOptions) -> MlDrReader:
        return cls(path, given)

    def entries(self) -> Iterator[PeerEntry]:
        for name, content in archive_files(self.path):
            match = _NAME.fullmatch(name)
            if match:
                yield PeerEntry(int(match[1]), content)

    def parse(self, content: bytes, width: int, height: int) -> PeerViews:
        _, views = _sample(content)
        if len(views) != self.views:
            raise bad_labels(f"{len(views)} views, and {self.views} of the sample before")
        params = np.zeros((self.views, len(self.spec.fields)), np.int32)
        column = {field: c for c, field in enumerate(self.spec.fields)}
        for row, view in zip(params, views, strict=True):
            try:
                for field, value in read(view["params"], self.layout, self.size, width, height).items():
                    row[column[field]] = value
            except (TypeError, ValueError, LookupError, OverflowError, RuntimeError) as error:
                raise bad_labels(f"params {shown(view.get('params'))}: {type(error).__name__}") from None
        check_boxes(params[:, [column[f] for f in BOX]], width, height)
        pairs = _labels(views)
        ids, probs = check_top(np.array([p[1] for p in pairs]), np.array([p[0] for p in pairs], np.float64), self.num_classes)
        return PeerViews(params, self.codec.pack(ids, probs, self.num_classes))

    def peer_view(self, content: bytes, view: int, image: Image.Image) -> np.ndarray | None:
        return ml_dr_view(_sample(content)[1][view]["params"], image, self.size)


def _sample(content: bytes) -> tuple[int, list[dict[str, Any]]]:
    found = read_torch(content)
    if not (isinstance(found, (tuple, list)) and len(found) == 2 and isinstance(found[1], (list, tuple)) and found[1]):
        raise bad_labels(f"{type(found).__name__}, not (index, views)")
    if not all(isinstance(v, dict) and isinstance(v.get("params"), (list, tuple)) for v in found[1]):
        raise bad_labels("views without params")
    if type(found[0]) is not int:
        raise bad_labels(f"an index {shown(found[0])}")
    check_views(len(found[1]))
    return found[0], list(found[1])


def _layout(view: dict[str, Any]) -> Layout:
    try:
        return Layout.of(view["params"])
    except ValueError:
        raise bad_labels(f"params of {len(view['params'])} parts") from None


def _labels(views: list[dict[str, Any]]) -> list[tuple[list[float], list[int]]]:
    pairs = [view.get("prob") for view in views]
    first = pairs[0]
    k = len(first[0]) if isinstance(first, (tuple, list)) and len(first) == 2 and isinstance(first[0], (tuple, list)) else 0
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not k or not all(map(_is_row, pair)):
            raise bad_labels(f"probabilities and class ids {shown(pair)}")
        if not len(pair[0]) == len(pair[1]) == k:
            raise bad_labels("probabilities and class ids of other lengths")
    return pairs  # type: ignore[return-value]


def _is_row(given: object) -> bool:
    return isinstance(given, (tuple, list)) and all(type(number) in (int, float) for number in given)
