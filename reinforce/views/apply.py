"""Apply: from a decoded image and params to the pixels of one view. No generator can be reached from here.

Enters: uint8 `[H, W, 3]` and int32 params. Leaves: uint8 `[3, size, size]`, the same bytes on every machine (the pixel
contract of FORMAT.md). Order: crop, resize, window, flip, ops, erase; mixing, which takes two views, is `reinforce.views.mix`.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from reinforce.errors import StoreError
from reinforce.views.erase import noise
from reinforce.views.operations import operation_of
from reinforce.views.params import Field, Interpolation, PixelSpec

_RESIZE_MODES = {Interpolation.BILINEAR: "bilinear", Interpolation.BICUBIC: "bicubic"}
_MAX_RESIZED_PIXELS = 1 << 26


def apply(image: np.ndarray, params: np.ndarray, spec: PixelSpec) -> torch.Tensor:
    """Make the pixels of one view.

    Args:
        image: Decoded image, uint8 `[H, W, 3]`.
        params: int32 `[P]`, columns as in `spec.fields`.
        spec: Size, layout and fill of the reinforced dataset.

    Returns:
        uint8 `[3, size, size]`, contiguous, on the CPU.

    Raises:
        StoreError: params that lie outside of the image, an op this version does not know, or arguments it does not take.
    """
    view = _resized(image, params, spec)
    if spec.read(params, Field.HFLIP, 0):
        view = np.ascontiguousarray(view[:, :, ::-1])
    for op, interpolation, a, b in spec.ops(params):
        view = operation_of(op, interpolation, a, b).kernel(view, interpolation, a, b, spec.fill)
    view = _erased(view, params, spec)
    return torch.from_numpy(np.ascontiguousarray(view))


def _erased(view: np.ndarray, params: np.ndarray, spec: PixelSpec) -> np.ndarray:
    height, width = spec.read(params, Field.ERASE_HEIGHT, 0), spec.read(params, Field.ERASE_WIDTH, 0)
    if not height or not width:
        return view
    top, left = spec.read(params, Field.ERASE_TOP, 0), spec.read(params, Field.ERASE_LEFT, 0)
    seed = None if spec.column(Field.ERASE_SEED) is None else spec.read(params, Field.ERASE_SEED, 0)
    inside = min(top, left, height, width) >= 0 and top + height <= spec.size and left + width <= spec.size
    if not inside or (seed is not None and seed < 0):
        raise StoreError(
            "Params erase what is no part of the view.",
            found=f"{height} rows from {top}, {width} columns from {left}, seed {seed}",
            expected=f"a rectangle within {spec.size}x{spec.size}, and a seed that is not negative",
            cause="the params are damaged",
            fix="reinforce verify DIR",
        )
    view = view.copy()
    value = np.array(spec.erase_fill, np.uint8)[None, None] if seed is None else noise(seed, height, width)
    view[:, top : top + height, left : left + width] = value.transpose(2, 0, 1)
    return view


def _resized(image: np.ndarray, params: np.ndarray, spec: PixelSpec) -> np.ndarray:
    # Crop, resize and cut the window: uint8 [H, W, 3] -> uint8 [3, size, size]
    size = spec.size
    top, left = spec.read(params, Field.CROP_TOP, 0), spec.read(params, Field.CROP_LEFT, 0)
    height, width = spec.read(params, Field.CROP_HEIGHT, 0), spec.read(params, Field.CROP_WIDTH, 0)
    out_height, out_width = spec.read(params, Field.RESIZE_HEIGHT, size), spec.read(params, Field.RESIZE_WIDTH, size)
    window_top, window_left = spec.read(params, Field.WINDOW_TOP, 0), spec.read(params, Field.WINDOW_LEFT, 0)
    mode = _RESIZE_MODES.get(spec.read(params, Field.INTERPOLATION, Interpolation.BILINEAR))  # type: ignore[call-overload]
    inside = top >= 0 and left >= 0 and height > 0 and width > 0
    inside = inside and top + height <= image.shape[0] and left + width <= image.shape[1]
    cut = 0 <= window_top <= out_height - size and 0 <= window_left <= out_width - size
    if not inside or not cut or mode is None or out_height * out_width > _MAX_RESIZED_PIXELS:
        raise StoreError(
            "Params describe a view that this image cannot give.",
            found=f"params {params.tolist()} for an image of {image.shape[1]}x{image.shape[0]}",
            expected="a crop box inside of the image and a window inside of the resized crop",
            cause="the image is not the one the params were drawn for, or the params are damaged",
            fix="reinforce verify DIR --data SOURCE",
        )
    crop = torch.from_numpy(image)[top : top + height, left : left + width].permute(2, 0, 1)[None]
    resized = F.interpolate(crop, size=(out_height, out_width), mode=mode, antialias=True, align_corners=False)[0]
    window = resized[:, window_top : window_top + size, window_left : window_left + size]
    return window.contiguous().numpy()
