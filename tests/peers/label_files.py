"""Files of labels as others publish them, and what a store has of them."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reinforce.labels.sparse import SparseLabels
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store

VIEWS = 3
GOOD = {"params": [(0, 0, 9, 9), False], "prob": ([0.5, 0.2], [1, 0])}


def saved(value: object, **options: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(value, sink, **options)
    return sink.getvalue()


def torch_reads(content: bytes) -> Any:
    """What torch's own reader gives, by its default, which refuses all but data. The witness; only of files made by tests."""
    return torch.load(io.BytesIO(content))  # noqa: TID251


def dense(store: Store, sample: int) -> np.ndarray:
    return SparseLabels.stack(store.labels_of(sample), store.settings.num_classes).dense().numpy()


def cut_by_pillow(coords: np.ndarray | torch.Tensor, width: int, height: int) -> list[int]:
    """The box that Pillow cuts when it is given edges in fractions of pixels: every pixel of the picture is its own number."""
    top, left, tall, wide = (c.item() * side for c, side in zip(coords, (height, width, height, width), strict=True))
    numbers = Image.fromarray(np.arange(width * height, dtype=np.int32).reshape(height, width))
    cut = np.asarray(numbers.crop((left, top, left + wide, top + tall)))
    return [*divmod(int(cut[0, 0]), width), *cut.shape]


def top(rng: np.random.Generator, k: int = 2) -> tuple[list[float], list[int]]:
    """Unsorted, as ml-dr has them."""
    ids = rng.permutation(3)[:k]
    probs = rng.dirichlet(np.ones(k)) * 0.9
    return probs.tolist(), ids.tolist()


def write_ml_dr(path: Path, source: ImageFolder, erased: bool, skip: tuple[int, ...] = ()) -> dict[int, list[Any]]:
    """What the published archives look like, in no particular order."""
    rng, made = np.random.default_rng(0), {}
    with tarfile.open(path, "w:gz") as tar:
        for index in rng.permutation(len(source)).tolist():
            if index in skip:
                continue
            width, height = Image.open(io.BytesIO(source.read(index))).size
            views = []
            for _ in range(VIEWS):
                h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
                box = (int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
                params: list[object] = [box, bool(rng.integers(2))]
                if erased:
                    ops = [(int(rng.integers(14)), 0.27 * float(rng.choice([-1, 1]))) for _ in range(2)]
                    params += [ops, (10, 20, 30, 40) if rng.integers(2) else None]
                views.append({"params": params, "prob": top(rng)})
            made[index] = views
            add(tar, f"labels/{index}.pth.tar", saved((index, views), pickle_protocol=4))
        config = {"reinforce": {"image_augmentation": {}, "num_samples": VIEWS, "topk": 2}}
        add(tar, "labels/config.pth.tar", saved(config, pickle_protocol=4))
    return made


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


Top = tuple[list[float], list[int]]


def write_tinyvit(
    root: Path, keys: list[str], epochs: int = 2, k: int = 2, suffix: str = ".JPEG"
) -> dict[tuple[int, str], Top]:
    rng, made = np.random.default_rng(2), {}
    for epoch in range(epochs):
        folder = root / f"logits_top{k}_epoch{epoch}"
        folder.mkdir(parents=True)
        for rank, part in enumerate(np.array_split(rng.permutation(keys), 2)):
            with open(folder / f"rank{rank}-values.bin", "wb") as values:
                for key in part:
                    probs, ids = top(rng, k)
                    made[epoch, str(key)] = (probs, ids)
                    values.write(struct.pack(f"<i{k}h{k}e", int(rng.integers(2**31)), *ids, *probs))
            (folder / f"rank{rank}-keys.txt").write_text("".join(f"{key}{suffix}\n" for key in part))
    return made
