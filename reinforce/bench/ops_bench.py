"""Ops bench: what each op costs on one view, in numpy and compiled, beside Pillow's as timm calls it and torchvision's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms.v2 import functional as tv

from reinforce.views import kernels
from reinforce.views.operations import OPERATIONS
from reinforce.views.params import Q16, Interpolation, Op
from reinforce.views.seeds import choice_rng

FILL = (124, 116, 104)
_CUBIC, _CALLS = Interpolation.BICUBIC, 5
_BICUBIC = Image.Resampling.BICUBIC
_Other = tuple[Callable[[Image.Image], object], Callable[[torch.Tensor], object]]


def _affine(*matrix: float) -> Callable[[Image.Image], object]:
    return lambda image: image.transform(image.size, Image.Transform.AFFINE, matrix, _BICUBIC, fillcolor=FILL)


def _tv_affine(**given: Any) -> Callable[[torch.Tensor], object]:
    """Torchvision has no bicubic affine transform for tensors of bytes: bilinear."""
    whole = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | given
    return lambda view: tv.affine(view, interpolation=tv.InterpolationMode.BILINEAR, fill=list(FILL), **whole)


def _blend(pillow: Any, torchvision: Any) -> tuple[tuple[int, int], _Other]:
    """An op that blends the image with another one, by a factor."""
    return (90000, 0), (lambda image: pillow(image).enhance(1.37), lambda view: torchvision(view, 1.37))


CASES: dict[Op, tuple[tuple[int, int], _Other]] = {
    Op.AUTO_CONTRAST: ((0, 0), (ImageOps.autocontrast, tv.autocontrast)),
    Op.EQUALIZE: ((0, 0), (ImageOps.equalize, tv.equalize)),
    Op.INVERT: ((0, 0), (ImageOps.invert, tv.invert)),
    Op.ROTATE: (
        (64000, 14000),
        (lambda image: image.rotate(12.4, _BICUBIC, fillcolor=FILL), lambda view: tv.rotate(view, 12.4, fill=list(FILL))),
    ),
    Op.POSTERIZE: ((4, 0), (lambda image: ImageOps.posterize(image, 4), lambda view: tv.posterize(view, 4))),
    Op.SOLARIZE: ((128, 0), (lambda image: ImageOps.solarize(image, 128), lambda view: tv.solarize(view, 128))),
    Op.COLOR: _blend(ImageEnhance.Color, tv.adjust_saturation),
    Op.CONTRAST: _blend(ImageEnhance.Contrast, tv.adjust_contrast),
    Op.BRIGHTNESS: _blend(ImageEnhance.Brightness, tv.adjust_brightness),
    Op.SHARPNESS: _blend(ImageEnhance.Sharpness, tv.adjust_sharpness),
    Op.SHEAR_X: ((17000, 0), (_affine(1, 0.26, 0, 0, 1, 0), _tv_affine(shear=[14.5, 0.0]))),
    Op.SHEAR_Y: ((17000, 0), (_affine(1, 0, 0, 0.26, 1, 0), _tv_affine(shear=[0.0, 14.5]))),
    Op.TRANSLATE_X: ((9000, 0), (_affine(1, 0, 30.8, 0, 1, 0), _tv_affine(translate=[31, 0]))),
    Op.TRANSLATE_Y: ((9000, 0), (_affine(1, 0, 0, 0, 1, 30.8), _tv_affine(translate=[0, 31]))),
    Op.GAUSSIAN_BLUR: (
        (Q16 * 3 // 2, 0),
        (
            lambda image: image.filter(ImageFilter.GaussianBlur(1.9)),
            lambda view: tv.gaussian_blur(view, [13, 13], [1.9, 1.9]),
        ),
    ),
}
"""Arguments of each op, and the same op of Pillow and torchvision."""


def bench(size: int = 224, rounds: int = 7) -> Iterator[dict[str, Any]]:
    """Measure each op; the contenders take turns, one thread.

    Args:
        size: Height and width of the view.
        rounds: How often each contender is called five times; the median counts.

    Yields:
        `op`, and milliseconds of `numpy`, `compiled` (None: nothing is compiled here), `pillow` and `torchvision`.
    """
    noise = choice_rng(0).integers(0, 256, (3, size // 8 + 1, size // 8 + 1), np.uint8)
    view = np.ascontiguousarray(noise.repeat(8, 1).repeat(8, 2)[:, :size, :size])
    image, tensor, compiled = Image.fromarray(view.transpose(1, 2, 0)), torch.from_numpy(view), kernels.compiled
    for op, ((a, b), (pillow, torchvision)) in CASES.items():
        contenders: dict[str, Callable[[], object]] = {
            "numpy": partial(OPERATIONS[op].kernel, view, _CUBIC, a, b, FILL),
            "pillow": partial(pillow, image),
            "torchvision": partial(torchvision, tensor),
        }
        if compiled is not None:
            contenders["compiled"] = contenders["numpy"]
        times: dict[str, list[float]] = {name: [] for name in contenders}
        try:
            for _ in range(rounds):
                for name, call in contenders.items():
                    kernels.compiled = compiled if name == "compiled" else None
                    begun = time.perf_counter()
                    for _ in range(_CALLS):
                        call()
                    times[name].append(1000 * (time.perf_counter() - begun) / _CALLS)
        finally:
            kernels.compiled = compiled
        yield {"op": op.name.lower(), "compiled": None} | {name: float(np.median(each)) for name, each in times.items()}
