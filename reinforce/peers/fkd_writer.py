"""The files of FKD, written for `export`: `train/WNID/STEM.tar`, where FKD's loader looks below its `--softlabel_path`.

What is in a file: see `fkd.py`. The numbers are float32 tensors: its decoder cannot use half floats, and torch's default
reader, which the loader calls, refuses numpy's arrays.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from reinforce.errors import StoreError, UsageError
from reinforce.peers.fkd import BOX
from reinforce.peers.reader import top_of
from reinforce.store.label_store import LabelStore
from reinforce.views.params import Field


def fkd_files(store: LabelStore, k: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of FKD's files for the views of a store; samples without labels get no file.

    Raises:
        UsageError: FKD's loader could not make these views, or would not find the file of a sample.
    """
    extra = set(store.spec.fields) - {*BOX, Field.HFLIP, Field.INTERPOLATION}
    if extra:
        raise UsageError(
            f"Views of policy {store.settings.policy.name} cannot be written for FKD.",
            found="more than crops and flips",
            expected="a policy such as fkd or rrc",
            fix="generate labels with --policy fkd",
        )
    samples = store.ok_samples.tolist()
    for sample in samples:
        _check_key(store.samples.key(sample))
    for sample in samples:
        yield f"train/{store.samples.key(sample)}.tar", _file(store, sample, k)


def fkd_usage(out: Path, k: int) -> str:
    """The options of FKD's trainer that read these files."""
    kinds = {1: "smoothing", 5: "marginal_smoothing_k5", 10: "marginal_smoothing_k10"}
    return f"--softlabel_path {out} --soft_label_type {kinds.get(k, 'marginal_renorm')}, with the images in a folder train"


def _check_key(key: str) -> None:
    parts = key.split("/")
    if len(parts) != 2 or "." in key or not all(parts):
        raise UsageError(
            "FKD's loader would not find the labels of a sample.",
            found=repr(key),
            expected="CLASS/NAME without a dot: it takes the last three parts of an image's path, up to their first dot",
            fix="rename the images, or give the folder of the class folders as --data, and generate again",
        )


def _file(store: LabelStore, sample: int, k: int) -> bytes:
    width, height = store.samples.width_height[sample].tolist()
    if not (width and height):
        raise StoreError(
            f"{store.samples.key(sample)} has no size.",
            found=f"{width}x{height} pixels",
            expected="width and height of an image with labels",
            fix="reinforce verify DIR",
        )
    params = np.stack([store.params_of(sample, view) for view in range(store.settings.views)])
    boxes = params[:, [store.spec.fields.index(f) for f in BOX]] / np.array([height, width, height, width])
    flips = [bool(store.spec.read(row, Field.HFLIP, 0)) for row in params]
    tops = [top_of(label, k, store.settings.num_classes) for label in store.labels_of(sample)]
    label = torch.tensor(np.stack([np.stack([ids, probs]) for ids, probs in tops]), dtype=torch.float32)
    sink = io.BytesIO()
    torch.save([torch.tensor(boxes, dtype=torch.float32), torch.tensor(flips), label[..., 0] if k == 1 else label], sink)
    return sink.getvalue()
