"""Contact sheet: one picture of the stored views of a sample, each with the teacher's top classes; for label maps, of crops."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from reinforce.errors import UsageError
from reinforce.labels.box import WHOLE, box_of
from reinforce.labels.codec import Label
from reinforce.labels.label_kind import kind_of
from reinforce.labels.sparse import SparseLabels
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.views.apply import apply
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import fresh_view_rng

Tile = tuple[str, torch.Tensor, Label]
"""Title, pixels uint8 `[3, size, size]`, label."""

_GAP, _LINE, _FONT_SIZE, _MIN_WIDTH = 8, 15, 12, 112


def contact_sheet(dataset: ReinforcedDataset, key: str, max_views: int, top: int) -> Image.Image:
    """Draw up to `max_views` views of the sample `key`, with the `top` classes of each; if its label is a map, draw crops.

    Raises:
        UsageError: there is no such sample, or it has no labels.
    """
    keys = {dataset.store.samples.keys[s]: i for i, s in enumerate(dataset.samples)}
    if key not in keys:
        near = next((k for k in keys if key in k), next(iter(keys)))
        raise UsageError(
            f"There is no sample {key!r} with labels.",
            expected="a path below the source, without suffix",
            fix=f"--sample {near}",
        )
    settings = dataset.store.settings
    kind = kind_of(settings.codec)
    views = max_views if kind.of_any_crop else min(max_views, settings.views)
    scale = max(1, math.ceil(_MIN_WIDTH / settings.size))
    side = settings.size * scale
    columns = math.ceil(math.sqrt(views))
    cell_height = side + _LINE * (top + 1) + _GAP
    sheet = Image.new("RGB", (columns * (side + _GAP) + _GAP, math.ceil(views / columns) * cell_height + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    names = settings.source.class_names or [str(c) for c in range(settings.num_classes)]
    tiles = _crops(dataset, keys[key], views) if kind.of_any_crop else _views(dataset, keys[key], views)
    for view, (title, pixels, label) in enumerate(tiles):
        x, y = _GAP + view % columns * (side + _GAP), _GAP + view // columns * cell_height
        picture = Image.fromarray(pixels.permute(1, 2, 0).numpy())
        sheet.paste(picture.resize((side, side), Image.Resampling.NEAREST), (x, y))
        pen.text((x, y + side), title, "gray", font)
        if (distribution := kind.distribution(label)) is None:
            continue
        probs = SparseLabels.stack([distribution], settings.num_classes).dense()[0]
        for line, c in enumerate(np.argsort(-probs.numpy(), kind="stable")[:top], start=1):
            pen.text((x, y + side + line * _LINE), f"{names[c]}  {probs[c]:.3f}", "black", font)
    return sheet


def _views(dataset: ReinforcedDataset, index: int, count: int) -> Iterator[Tile]:
    for view in range(count):
        yield f"view {view}", dataset.replay(index, view), dataset.store.label_of(int(dataset.samples[index]), view)


def _crops(dataset: ReinforcedDataset, index: int, count: int) -> Iterator[Tile]:
    """The whole image, as the teacher saw it for the label map, and crops drawn by the policy `rrc`."""
    store, sample, policy = dataset.store, int(dataset.samples[index]), parse_policy("rrc")
    image, spec = dataset.decoded(index), pixel_spec(policy, store.settings.size)
    height, width = image.shape[:2]
    crops = [draw(fresh_view_rng(dataset.seed, sample, crop), policy, spec.size, width, height) for crop in range(count - 1)]
    whole, *labels = store.crop_labels_of(sample, [WHOLE, *(box_of(params, spec, width, height) for params in crops)])
    yield "whole image", dataset.replay(index, 0), whole
    for crop, (params, label) in enumerate(zip(crops, labels, strict=True)):
        yield f"crop {crop}", apply(image, params, spec), label
