"""The files of FKD, read for `import`. A torch file per image, `WNID/STEM.tar`: `[coords, flip, label]`.

`coords` are top / H, left / W, h / H, w / W; `label` is `(M,)` class ids, `(M, 2)` an id and its probability, `(M, 2, K)` ids
and probabilities, or `(M, C)` all probabilities. Source: Shen and Xing 2022, arXiv 2112.01528, its published code and files.
What its teacher saw is not what its students see: the writer resizes by Pillow's bicubic to its own `--input_size`, the loader
by Pillow's bilinear to 224 pixels. Views replay the loader's. `fkd_writer.py` writes such files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from reinforce.errors import StoreError, first_line
from reinforce.labels.codec import Codec
from reinforce.labels.codecs import NAMED_CODECS
from reinforce.labels.topk import TopK
from reinforce.peers.archive import archive_files
from reinforce.peers.peer_pixels import cropped, pillow, pixels_of
from reinforce.peers.reader import PeerEntry, PeerViews, Reader, ReadOptions, bad_labels, check_boxes, check_top, check_views
from reinforce.settings import Origin
from reinforce.teachers.torch_file import read_torch
from reinforce.views.layout import pixel_spec
from reinforce.views.params import Field, Interpolation
from reinforce.views.policy_text import parse_policy

_OF_NUMPY = (torch.float16, torch.float32, torch.float64)
BOX = (Field.CROP_TOP, Field.CROP_LEFT, Field.CROP_HEIGHT, Field.CROP_WIDTH)


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
        self.arithmetic = f"{pillow()} as FKD's loader crops, resizes and flips"
        self.origin = Origin(
            format=self.format,
            pixels="Pillow, bicubic, at the writer's --input_size (475 unless given); its students' by Pillow, bilinear",
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
        boxes = cut_boxes(coords, width, height)
        check_boxes(boxes, width, height)
        params = np.zeros((self.views, len(self.spec.fields)), np.int32)
        params[:, [self.spec.fields.index(f) for f in BOX]] = boxes
        params[:, self.spec.fields.index(Field.HFLIP)] = flip
        params[:, self.spec.fields.index(Field.INTERPOLATION)] = Interpolation.BILINEAR
        return PeerViews(params, self._record(label))

    def peer_view(self, content: bytes, view: int, image: Image.Image) -> np.ndarray:
        coords, flip, _ = _arrays(content)
        sides = (image.height, image.width, image.height, image.width)
        box = [part.item() * side for part, side in zip(coords[view], sides, strict=True)]
        return pixels_of(cropped(image, box, bool(flip[view]), self.size))

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


def cut_boxes(coords: np.ndarray, width: int, height: int) -> np.ndarray:
    """The pixels that the loader's crop cuts out of an image: int64 `[M, 4]`, top, left, height, width.

    Pillow rounds the edges, half to even, and not the sizes. An edge that passes the end of the image by no more than the
    rounding of the file's own numbers is put there; half floats do so in large images, where the loader adds black pixels.

    Args:
        coords: As in a file, `[M, 4]`; the edges are computed in float64, as the loader does.
        width: Width of the image in pixels.
        height: Height of the image in pixels.
    """
    sides = np.array([height, width])
    exact = np.clip(coords.astype(np.float64), -1, 2)
    first = exact[:, :2] * sides
    end = np.rint(first + exact[:, 2:] * sides)
    width_of_float = np.finfo(coords.dtype).eps if coords.dtype.kind == "f" else 0.0
    end = np.where((end > sides) & (end <= np.rint(sides * (1 + width_of_float))), sides, end)
    begin = np.rint(first)
    return np.concatenate([begin, end - begin], axis=1).astype(np.int64)


def _arrays(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = read_torch(content)
    arrays = [_array(a) for a in found] if isinstance(found, (list, tuple)) and len(found) == 3 else []
    if len(arrays) != 3 or any(a.dtype.kind not in "fiub" or not a.ndim for a in arrays):
        raise bad_labels("a file that is not [coords, flip, label]")
    coords, flip, label = arrays
    if coords.ndim != 2 or coords.shape[1] != 4 or flip.shape != (len(coords),) or not len(coords) == len(label) > 0:
        raise bad_labels(f"coords {list(coords.shape)}, flip {list(flip.shape)}, label {list(label.shape)}")
    if label.ndim > 3 or (label.ndim == 3 and label.shape[1] != 2):
        raise bad_labels(f"label {list(label.shape)}")
    check_views(len(label))
    return coords, flip.astype(bool), label


def _array(value: object) -> np.ndarray:
    try:
        if not isinstance(value, torch.Tensor):
            return np.asarray(value)
        return (value.float() if value.is_floating_point() and value.dtype not in _OF_NUMPY else value).numpy()
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # lists of several lengths, kinds that numpy lacks
        raise bad_labels(first_line(error)) from None
