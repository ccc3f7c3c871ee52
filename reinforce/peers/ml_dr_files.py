"""The files of ImageNet+ (ml-dr) for `export`: one torch file per image, `INDEX.pth.tar`, and `config.pth.tar`.

Their loader makes its transforms from the config alone, so everything that it needs stands there. It reads the files by
`torch.load`, which takes nothing but plain values, in the pickle protocol that `torch.save` writes by itself.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from reinforce.errors import StoreError, UsageError, first_line
from reinforce.peers.ml_dr_views import Layout, written
from reinforce.peers.places import folder_numbers
from reinforce.peers.reader import top_of
from reinforce.policy import Policy
from reinforce.store.label_store import LabelStore
from reinforce.views.mix import MIX_FIELDS, WHOLE
from reinforce.views.one_way import ALONE, ONE_WAY_FIELDS
from reinforce.views.params import OTHER_BASE, Q16, Field

_BLACK = (0, 0, 0)
_BICUBIC = 3  # Pillow's number, which torchvision takes too
_NORMALIZE = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def ml_dr_files(store: LabelStore, k: int) -> Iterator[tuple[str, bytes]]:
    """Name and content of ml-dr's files for the views of a store; samples without labels get no file.

    Raises:
        UsageError: ml-dr's loader could not make these views.
    """
    layout, settings = _layout(store.settings.policy), store.settings
    config = {
        "image_augmentation": _augmentation(layout, settings.policy, settings.size),
        "num_samples": settings.views,
        "topk": k,
    }
    yield "config.pth.tar", _saved({"reinforce": config})
    numbers = folder_numbers(settings.source.kind, store.samples.keys)
    for sample in store.ok_samples.tolist():
        views = []
        for view, label in enumerate(store.labels_of(sample)):
            ids, probs = top_of(label, k, settings.num_classes)
            try:
                values = _values(store, sample, view)
                if (other := values.get(Field.OTHER, ALONE)) != ALONE:
                    values[Field.OTHER] = _number(numbers, other)
                params = written(values, layout, settings.size)
            except (ValueError, LookupError, ArithmeticError) as error:
                raise _not_drawn(store.samples.key(sample), view, error) from None
            views.append({"params": params, "prob": (probs.tolist(), ids.tolist())})
        number = int(numbers[sample])
        yield f"{number}.pth.tar", _saved((number, views))


def _number(numbers: np.ndarray, other: int) -> int:
    if not 0 <= other < len(numbers):
        raise ValueError(f"mixed with sample {other} of {len(numbers)}")
    return int(numbers[other])


def _not_drawn(key: str, view: int, error: Exception) -> StoreError:
    return StoreError(
        f"The params of view {view} of {key} cannot be written for ml-dr.",
        found=first_line(error),
        expected="samples of this data set, and ops of torchvision with arguments that they take",
        cause="damaged params",
        fix="reinforce verify DIR",
    )


def _values(store: LabelStore, sample: int, view: int) -> dict[int, int]:
    """Field ids and values of a view; one that is mixed in a pair as it would be with one-way mixing."""
    spec, table = store.spec, store.samples
    values: dict[int, int] = dict(zip(spec.fields, store.params_of(sample, view).tolist(), strict=True))
    if Field.PARTNER not in values:
        return values
    if values[Field.PARTNER] == table.row[sample]:
        return values | {Field.OTHER: ALONE}
    other = int(store.samples_of(int(table.block[sample]))[values[Field.PARTNER]])
    theirs = zip(spec.fields, store.params_of(other, view).tolist(), strict=True)
    values |= {OTHER_BASE + field: value for field, value in theirs if field not in MIX_FIELDS}
    values |= {one: values[pair] for one, pair in zip(ONE_WAY_FIELDS[2:], MIX_FIELDS[2:], strict=True)}
    return values | {Field.OTHER: other, Field.OTHER_LAM: round(values[Field.LAM] * Q16 / WHOLE)}


def _layout(policy: Policy) -> Layout:
    plain = policy.aa == "none" and not policy.reprob
    augmented = policy.aa == "ra" and policy.n == 2 and policy.fill == _BLACK
    erased = not policy.reprob or (policy.remode == "const" and policy.re_fill == _BLACK)
    crops = policy.crop == "rrc" and policy.interpolation != "random"
    if not crops or policy.color_jitter or not (plain or (augmented and erased)):
        raise UsageError(
            f"Views of policy {policy.name} cannot be written for ml-dr.",
            expected="random resized crops and flips, mixed or not, with torchvision's ops and erasing to black or without",
            fix="--format fkd, or labels of another policy",
        )
    return Layout(augmented=augmented, mixed=policy.one_way or policy.mix is not None)


def _augmentation(layout: Layout, policy: Policy, size: int) -> dict[str, Any]:
    """`image_augmentation` of their config: whatever their writer's config has, with our values."""
    crop = {"enable": True, "size": size} | ({"interpolation": _BICUBIC} if policy.interpolation == "bicubic" else {})
    steps: dict[str, Any] = {
        "uint8": {"enable": True},
        "random_resized_crop": crop,
        "random_horizontal_flip": {"enable": True, "p": policy.hflip},
        "to_tensor": {"enable": True},
        "normalize": _NORMALIZE,
    }
    if layout.augmented:
        steps |= {"rand_augment": {"enable": True, "p": 1.0}, "random_erase": {"enable": True, "p": policy.reprob}}
    if layout.mixed:
        halves = 2.0 if policy.one_way else 1.0
        each = {"enable": True, "p": policy.mixup_prob}
        steps |= {"mixup": {**each, "alpha": policy.mixup, "div_by": halves}, "cutmix": {**each, "alpha": policy.cutmix}}
    return steps


def _saved(value: object) -> bytes:
    sink = io.BytesIO()
    torch.save(value, sink)
    return sink.getvalue()
