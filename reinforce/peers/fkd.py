"""The files of FKD: read for `import`, written for `export`. A torch file per image, `WNID/STEM.tar`: `[coords, flip, label]`.

`coords` are top / H, left / W, h / H, w / W; `label` is `(M,)` class ids, `(M, 2)` an id and its probability, `(M, 2, K)` ids
and probabilities, or `(M, C)` all probabilities. Source: Shen and Xing 2022, arXiv 2112.01528, and its published files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from reinforce.errors import StoreError, UsageError
from reinforce.labels.codec import Codec
from reinforce.labels.codecs import NAMED_CODECS
from reinforce.labels.topk import TopK
from reinforce.peers.archive import archive_files
from reinforce.peers.reader import PeerEntry, PeerViews, Reader, ReadOptions, bad_labels, check_boxes, check_top, top_of
from reinforce.settings import Origin
from reinforce.store.label_store import LabelStore
from reinforce.teachers.torch_file import read_torch
from reinforce.views.layout import pixel_spec
from reinforce.views.params import Field, Interpolation
from reinforce.views.policy_text import parse_policy

_BOX = (Field.CROP_TOP, Field.CROP_LEFT, Field.CROP_HEIGHT, Field.CROP_WIDTH)


class FkdReader(Reader):
    """See `reinforce.peers.reader.Reader`, and `ReadOptions` for `tail`."""

    format = "fkd"

    def __init__(self, path: Path, num_classes: int, teachers: list[str], size: int = 224, tail: str = "uniform") -> None:
        self.path, self.tail = path, tail
        self.num_classes, self.size, self.teachers = num_classes, size, teachers
        first = next((e for e in self.entries()), None)
        if first is None:
            raise StoreError(f"There are no labels in {path}.", expected="files WNID/STEM.tar", fix="check the path")
        _, _, label = _arrays(first.content)
        self.views, self.shape = len(label), label.shape[1:]
        self.full = label.ndim == 2 and label.shape[1] == num_classes > 2
        self.codec: Codec = NAMED_CODECS["sqrt"] if self.full else TopK(label.shape[2] if label.ndim == 3 else 1)
        self.policy = parse_policy("fkd")
        self.spec = pixel_spec(self.policy, size)
        self.origin = Origin(
            format=self.format,
            pixels="Pillow and torchvision, bilinear",
            replay="approximate",
            options={"tail": tail, "size": size},
        )

    @classmethod
    def open(cls, path: Path, given: ReadOptions) -> FkdReader:
        return cls(path, given.num_classes, given.names, given.size, given.tail)

    def entries(self) -> Iterator[PeerEntry]:
        for name, content in archive_files(self.path):
            if name.endswith(".tar"):
                yield PeerEntry("/".join(name.removesuffix(".tar").split("/")[-2:]), content)

    def parse(self, content: bytes, width: int, height: int) -> PeerViews:
        coords, flip, label = _arrays(content)
        if label.shape != (self.views, *self.shape):
            raise bad_labels(f"labels {list(label.shape)}, and {[self.views, *self.shape]} of the sample before")
        if not np.isfinite(coords).all():
            raise bad_labels("coordinates that are not finite")
        sides = np.array([height, width, height, width])
        boxes = np.rint(np.clip(coords.astype(np.float64), -1, 2) * sides).astype(np.int64)
        check_boxes(boxes, width, height)
        params = np.zeros((self.views, len(self.spec.fields)), np.int32)
        params[:, [self.spec.fields.index(f) for f in _BOX]] = boxes
        params[:, self.spec.fields.index(Field.HFLIP)] = flip
        params[:, self.spec.fields.index(Field.INTERPOLATION)] = Interpolation.BILINEAR
        return PeerViews(params, self._record(label))

    def _record(self, label: np.ndarray) -> bytes:
        if self.full:
            whole = label.astype(np.float32)
            if not np.isfinite(whole).all() or whole.min() < 0 or np.abs(whole.sum(axis=1) - 1).max() > 0.02:
                raise bad_labels("rows that are not distributions")
            return self.codec.encode(whole / whole.sum(axis=1, keepdims=True))
        assert isinstance(self.codec, TopK)
        if label.ndim == 1:
            ids, probs = label[:, None], np.ones((len(label), 1))
        elif label.ndim == 2:
            ids, probs = label[:, :1], label[:, 1:]
        else:
            ids, probs = label[:, 0], label[:, 1]
        ids, probs = check_top(ids, probs, self.num_classes)
        if self.tail == "renorm":
            probs = probs / np.maximum(probs.sum(axis=1, keepdims=True), 1e-12)
        return self.codec.pack(ids, probs.astype(np.float32), self.num_classes)


def _arrays(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = read_torch(content)
    arrays = [_array(a) for a in found] if isinstance(found, (list, tuple)) and len(found) == 3 else []
    if len(arrays) != 3 or any(a.dtype.kind not in "fiub" for a in arrays):
        raise bad_labels("a file that is not [coords, flip, label]")
    coords, flip, label = arrays
    if coords.ndim != 2 or coords.shape[1] != 4 or flip.shape != (len(coords),) or not len(coords) == len(label) > 0:
        raise bad_labels(f"coords {list(coords.shape)}, flip {list(flip.shape)}, label {list(label.shape)}")
    if label.ndim > 3 or (label.ndim == 3 and label.shape[1] != 2):
        raise bad_labels(f"label {list(label.shape)}")
    return coords, flip.astype(bool), label


def _array(value: object) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()


def fkd_files(store: LabelStore, k: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of FKD's files for the views of a store; samples without labels get no file.

    Raises:
        UsageError: FKD's loader could not make these views, or a key cannot be a path.
    """
    extra = set(store.spec.fields) - {*_BOX, Field.HFLIP, Field.INTERPOLATION}
    if extra:
        raise UsageError(
            f"Views of policy {store.settings.policy.name} cannot be written for FKD.",
            found="more than crops and flips",
            expected="a policy such as fkd or rrc",
            fix="generate labels with --policy fkd",
        )
    for sample in store.ok_samples.tolist():
        key = store.samples.key(sample)
        if key.startswith("/") or not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise UsageError("A key is no name for a file.", found=repr(key), expected="a path below a folder", fix="rename it")
        width, height = store.samples.width_height[sample].tolist()
        params = np.stack([store.params_of(sample, view) for view in range(store.settings.views)])
        boxes = params[:, [store.spec.fields.index(f) for f in _BOX]] / np.array([height, width, height, width])
        flips = [bool(store.spec.read(row, Field.HFLIP, 0)) for row in params]
        tops = [top_of(label, k, store.settings.num_classes) for label in store.labels_of(sample)]
        label = torch.tensor(np.stack([np.stack([ids, probs]) for ids, probs in tops]), dtype=torch.float32)
        sink = io.BytesIO()
        torch.save([torch.tensor(boxes, dtype=torch.float32), torch.tensor(flips), label], sink)
        yield f"{key}.tar", sink.getvalue()
