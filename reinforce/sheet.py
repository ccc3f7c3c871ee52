"""Contact sheet: the stored views of one sample as the teacher saw them, each with its top classes."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from reinforce.errors import UsageError
from reinforce.replay import ReinforcedDataset
from reinforce.sparse import SparseLabels

_GAP, _LINE, _FONT_SIZE, _MIN_WIDTH = 8, 15, 12, 112


def contact_sheet(dataset: ReinforcedDataset, key: str, max_views: int, top: int) -> Image.Image:
    """Draw up to `max_views` views of the sample `key`, with the `top` classes of each.

    Raises:
        UsageError: no such sample, or one without labels.
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
    views = min(max_views, settings.views)
    scale = max(1, math.ceil(_MIN_WIDTH / settings.size))
    side = settings.size * scale
    columns = math.ceil(math.sqrt(views))
    cell_height = side + _LINE * (top + 1) + _GAP
    sheet = Image.new("RGB", (columns * (side + _GAP) + _GAP, math.ceil(views / columns) * cell_height + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    names = settings.source.class_names or [str(c) for c in range(settings.num_classes)]
    for view in range(views):
        x, y = _GAP + view % columns * (side + _GAP), _GAP + view // columns * cell_height
        pixels = dataset.replay(keys[key], view).permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST), (x, y))
        probs = SparseLabels.stack(
            [dataset.store.label_of(int(dataset.samples[keys[key]]), view)], settings.num_classes
        ).dense()[0]
        pen.text((x, y + side), f"view {view}", "gray", font)
        for line, c in enumerate(np.argsort(-probs.numpy(), kind="stable")[:top], start=1):
            pen.text((x, y + side + line * _LINE), f"{names[c]}  {probs[c]:.3f}", "black", font)
    return sheet
