"""The files of ImageNet+ (ml-dr): read for `import`, written for `export`. A torch file per image, `INDEX.pth.tar`.

Each holds `(index, [{"params": list, "prob": (probabilities, class ids)}, ...])`. Source: Faghri et al. 2023, arXiv 2303.08983,
and its published files. Its M* variants cannot be imported: they mix a view with any other image, and not in pairs, so both
images of a mixture could not be put into the same batch.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reinforce.errors import StoreError, UsageError
from reinforce.labels.topk import TopK
from reinforce.peers.archive import archive_files
from reinforce.peers.peer_pixels import ml_dr_view, pillow
from reinforce.peers.reader import PeerEntry, PeerViews, Reader, ReadOptions, bad_labels, check_boxes, check_top, top_of
from reinforce.policy import Policy
from reinforce.settings import Origin
from reinforce.store.label_store import LabelStore
from reinforce.teachers.torch_file import read_torch
from reinforce.views.layout import pixel_spec
from reinforce.views.operations import OPERATIONS
from reinforce.views.params import OP_SLOT_BASE, Field, Interpolation, Op
from reinforce.views.policy_text import parse_policy
from reinforce.views.torchvision_ops import TORCHVISION_OPS, torchvision_magnitude, torchvision_slot

SIZE = 224
TEACHERS = ["ig_resnext101_32x8d", "ig_resnext101_32x16d", "ig_resnext101_32x32d", "ig_resnext101_32x48d"]
BOX = (Field.CROP_TOP, Field.CROP_LEFT, Field.CROP_HEIGHT, Field.CROP_WIDTH)
_NAME = re.compile(r"(?:.*/)?(\d{1,9})\.pth\.tar")


class MlDrReader(Reader):
    """See `reinforce.peers.reader.Reader`."""

    format = "imagenet-plus"
    codec: TopK

    def __init__(self, path: Path, num_classes: int, teachers: list[str] | None = None) -> None:
        self.path = path
        self.num_classes, self.size, self.teachers = num_classes, SIZE, teachers or TEACHERS
        first = next((e for e in self.entries()), None)
        if first is None:
            raise StoreError(f"There are no labels in {path}.", expected="files INDEX.pth.tar", fix="check the path")
        _, views = _sample(first.content)
        self.views = len(views)
        kind, k = _layout(views[0]), len(_labels(views)[0][0])
        self.policy: Policy = parse_policy("imagenet-plus-rrc" if kind == 2 else "imagenet-plus-ra-re")
        self.codec = TopK(k)
        self.spec = pixel_spec(self.policy, SIZE)
        self.arithmetic = f"{pillow()} and torchvision as ml-dr's loader makes them"
        self.origin = Origin(
            format=self.format, pixels="torchvision, bilinear, on uint8 tensors", replay="approximate", options={"k": k}
        )

    @classmethod
    def open(cls, path: Path, given: ReadOptions) -> MlDrReader:
        return cls(path, given.num_classes, given.teachers)

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
        slots = self.spec.fields.index(OP_SLOT_BASE) if OP_SLOT_BASE in self.spec.fields else None
        for row, view in zip(params, views, strict=True):
            try:
                self._fill(row, view["params"], slots)
            except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
                raise bad_labels(f"params {view.get('params')!r}"[:100] + f": {type(error).__name__}") from None
        check_boxes(params[:, [self.spec.fields.index(f) for f in BOX]], width, height)
        pairs = _labels(views)
        ids, probs = check_top(np.array([p[1] for p in pairs]), np.array([p[0] for p in pairs], np.float64), self.num_classes)
        return PeerViews(params, self.codec.pack(ids, probs, self.num_classes))

    def peer_view(self, content: bytes, view: int, image: Image.Image) -> np.ndarray | None:
        return ml_dr_view(_sample(content)[1][view]["params"], image, self.size)

    def _fill(self, row: np.ndarray, given: list[Any], slots: int | None) -> None:
        if len(given) != (2 if slots is None else 4):
            raise ValueError
        values = dict(zip(BOX, map(int, given[0]), strict=True))
        values |= {Field.HFLIP: int(bool(given[1])), Field.INTERPOLATION: int(Interpolation.BILINEAR)}
        if slots is not None:
            if len(given[2]) != 2:
                raise ValueError
            row[slots : slots + 8] = [v for op, magnitude in given[2] for v in slot_of(int(op), float(magnitude))]
            if given[3] is not None:
                top, left, height, width = map(int, given[3])
                top, left = max(0, min(top, SIZE)), max(0, min(left, SIZE))
                values |= {Field.ERASE_TOP: top, Field.ERASE_LEFT: left}
                values |= {Field.ERASE_HEIGHT: min(height, SIZE - top), Field.ERASE_WIDTH: min(width, SIZE - left)}
        for field, value in values.items():
            row[self.spec.fields.index(field)] = value


def _sample(content: bytes) -> tuple[int, list[dict[str, Any]]]:
    found = read_torch(content)
    if not (isinstance(found, (tuple, list)) and len(found) == 2 and isinstance(found[1], (list, tuple)) and found[1]):
        raise bad_labels(f"{type(found).__name__}, not (index, views)")
    if not all(isinstance(v, dict) and isinstance(v.get("params"), (list, tuple)) for v in found[1]):
        raise bad_labels("views without params")
    return int(found[0]), list(found[1])


def _layout(view: dict[str, Any]) -> int:
    given = view["params"]
    if given and (given[0] is None or isinstance(given[0], int)):
        raise UsageError(
            "These views were mixed with any other image.",
            found="an M* variant of ImageNet+",
            expected="views of single images: RRC, or RRC with RA/RE",
            cause="its partners are no pairs: training would have to decode a second image for each view",
            fix="import the variant without mixing; or generate labels with --policy imagenet-plus-m",
        )
    if len(given) not in (2, 4):
        raise bad_labels(f"params of {len(given)} parts")
    return len(given)


def _labels(views: list[dict[str, Any]]) -> list[tuple[list[float], list[int]]]:
    pairs = [view.get("prob") for view in views]
    k = len(pairs[0][0]) if isinstance(pairs[0], (tuple, list)) and len(pairs[0]) == 2 else 0
    if not k or not all(isinstance(p, (tuple, list)) and len(p) == 2 and len(p[0]) == len(p[1]) == k for p in pairs):
        raise bad_labels("probabilities and class ids of other lengths")
    return pairs  # type: ignore[return-value]


def slot_of(number: int, magnitude: float) -> list[int]:
    """Op, interpolation, a and b for one op of the files, given by its number there and its signed magnitude.

    Raises:
        ValueError: the files' format has no such op, or the op does not take this magnitude.
    """
    if not 0 <= number < len(TORCHVISION_OPS) or not math.isfinite(magnitude) or abs(magnitude) > 1e4:
        raise ValueError(number)
    op, *arguments = torchvision_slot(TORCHVISION_OPS[number], magnitude, SIZE)
    if fault := OPERATIONS[op].fault(*arguments):
        raise ValueError(fault)
    return [op, *arguments]


def op_of(slot: list[int]) -> tuple[int, float]:
    """Number and magnitude of a slot, the reverse of `slot_of`.

    Raises:
        ValueError: the files' format has no such op.
    """
    op, _, a, b = slot
    return TORCHVISION_OPS.index(Op(op)), torchvision_magnitude(Op(op), a, b, SIZE)


def ml_dr_files(store: LabelStore, k: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of ml-dr's files for the views of a store; samples without labels get no file.

    Raises:
        UsageError: ml-dr's loader could not make these views.
    """
    spec, policy = store.spec, store.settings.policy
    fields = {*BOX, Field.HFLIP, Field.INTERPOLATION}
    extra = set(spec.fields) - fields
    augmented = policy.aa == "ra" and policy.n == 2 and spec.size == SIZE
    if extra and not (
        augmented and extra <= {*range(Field.ERASE_TOP, Field.ERASE_SEED), *range(OP_SLOT_BASE, OP_SLOT_BASE + 8)}
    ):
        raise UsageError(
            f"Views of policy {policy.name} cannot be written for ml-dr.",
            expected="random resized crops and flips; or imagenet-plus-ra-re at 224 pixels",
            fix="--format fkd, or labels of another policy",
        )
    augmentation: dict[str, Any] = {"random_resized_crop": {"enable": True}, "random_horizontal_flip": {"enable": True}}
    if extra:
        augmentation |= {"rand_augment": {"enable": True}, "random_erase": {"enable": True}}
    reinforce = {"image_augmentation": augmentation, "num_samples": store.settings.views, "topk": k}
    yield "config.pth.tar", _saved({"reinforce": reinforce})
    for sample in store.ok_samples.tolist():
        labels = store.labels_of(sample)
        views = []
        for view, label in enumerate(labels):
            params = store.params_of(sample, view)
            read = {f: spec.read(params, f, 0) for f in (*fields, *range(Field.ERASE_TOP, Field.ERASE_SEED))}
            given: list[Any] = [
                tuple(read[f] for f in BOX),
                bool(read[Field.HFLIP]),
            ]
            if extra:
                erased = tuple(read[f] for f in range(Field.ERASE_TOP, Field.ERASE_SEED))
                given += [[op_of(list(slot)) for slot in spec.ops(params)], erased if erased[2] else None]
            ids, probs = top_of(label, k, store.settings.num_classes)
            views.append({"params": given, "prob": (probs.tolist(), ids.tolist())})
        yield f"{sample}.pth.tar", _saved((sample, views))


def _saved(value: object) -> bytes:
    sink = io.BytesIO()
    torch.save(value, sink, pickle_protocol=4)
    return sink.getvalue()
