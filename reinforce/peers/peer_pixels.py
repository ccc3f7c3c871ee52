"""Peer pixels: a view as the loaders of others make it, with Pillow and torchvision. It is compared with ours, never shown.

Sources: torchvision's `resized_crop`, `hflip` and RandAugment, which the loaders of FKD and ml-dr call on Pillow images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL
from PIL import Image

_PADDING = 16
"""Black border around CIFAR-100's images in pixels of the view, by ml-dr's config; the files do not have it."""
_PARTS = {2: slice(0, 2), 4: slice(0, 4), 5: slice(1, 3), 7: slice(1, 5)}
"""Of ml-dr's params by their number, those of the view itself: behind its partner, before what is mixed."""


def cropped(image: Image.Image, box: Sequence[float], flip: bool, size: int) -> Image.Image:
    """A crop by edges that need not be whole, resized bilinearly, and mirrored.

    Args:
        image: RGB.
        box: Top, left, height, width in pixels; Pillow rounds the edges.
        flip: Whether left and right change places.
        size: Height and width of the result in pixels.
    """
    top, left, height, width = box
    view = image.crop((left, top, left + width, top + height))  # Pillow rounds them
    view = view.resize((size, size), Image.Resampling.BILINEAR)
    return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else view


def ml_dr_view(given: Sequence[Any], image: Image.Image, size: int) -> np.ndarray | None:
    """A view as the loader of ml-dr makes it: crop, flip, two ops of torchvision, erasing to black.

    Of CIFAR-100 there is no crop of the image: it is resized, gets a border, and a window of the result is the view.

    Args:
        given: Params of the view as the file has them.
        image: RGB.
        size: Height and width of the view in pixels.

    Returns:
        uint8 `[3, size, size]`; None: params of a kind that is not known here, such as those of a view that was mixed.
    """
    padded = len(given) == 5 and isinstance(given[1], (tuple, list)) and [type(v) for v in given[1]] == [int, int]
    mixed = len(given) in (5, 7) and not padded
    if len(given) not in _PARTS or (mixed and given[0] is not None):
        return None
    if padded:
        _, first, flip, *rest = given
        view = _window(image, given[0], first, flip, size)
    else:
        box, flip, *rest = given[_PARTS[len(given)]]
        view = cropped(image, box, flip, size)
    for number, magnitude in (rest[0] or ()) if rest else ():
        view = _op(view, number, magnitude)
    pixels = pixels_of(view)
    if len(rest) > 1 and rest[1] is not None and rest[1][0] >= 0:
        top, left, height, width = rest[1]
        pixels[:, top : top + height, left : left + width] = 0
    return pixels


def pixels_of(view: Image.Image) -> np.ndarray:
    """uint8 `[3, H, W]`, which may be written to."""
    return np.array(view).transpose(2, 0, 1)


def pillow() -> str:
    """Its name and version, for what is said about a comparison."""
    return f"Pillow {PIL.__version__}"


def _window(image: Image.Image, resized: Any, first: Sequence[int], flip: bool, size: int) -> Image.Image:
    import torchvision.transforms.functional as F  # here, because the import takes seconds

    whole = F.pad(F.resize(image, resized), _PADDING)
    view: Image.Image = F.crop(whole, *first, size, size)
    return F.hflip(view) if flip else view


def _op(view: Image.Image, number: int, magnitude: float) -> Image.Image:
    """One of torchvision's ops of RandAugment by its number, with its signed magnitude."""
    import torchvision.transforms.functional as F  # here, because the import takes seconds

    def moved(translate: Sequence[int] = (0, 0), shear: Sequence[float] = (0.0, 0.0)) -> Image.Image:
        centre = [0, 0] if any(shear) else None
        found: Image.Image = F.affine(view, 0.0, list(translate), 1.0, list(shear), center=centre)
        return found

    ops: list[Any] = [
        lambda: view,
        lambda: moved(shear=(math.degrees(math.atan(magnitude)), 0.0)),
        lambda: moved(shear=(0.0, math.degrees(math.atan(magnitude)))),
        lambda: moved(translate=(int(magnitude), 0)),
        lambda: moved(translate=(0, int(magnitude))),
        lambda: F.rotate(view, magnitude),
        lambda: F.adjust_brightness(view, 1.0 + magnitude),
        lambda: F.adjust_saturation(view, 1.0 + magnitude),
        lambda: F.adjust_contrast(view, 1.0 + magnitude),
        lambda: F.adjust_sharpness(view, 1.0 + magnitude),
        lambda: F.posterize(view, int(magnitude)),
        lambda: F.solarize(view, magnitude),
        lambda: F.autocontrast(view),
        lambda: F.equalize(view),
    ]
    found: Image.Image = ops[number]()
    return found
