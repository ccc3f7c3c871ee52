"""Presets: the named policies, each a set of options of `reinforce.policy.Policy` and a line that says what it is.

A reinforced dataset stores every option beside the name, so a preset that changes later changes no stored data set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A named policy.

    Attributes:
        description: What it is and whose, in a line.
        options: Values of the options that are not at their defaults.
    """

    description: str
    options: dict[str, Any] = field(default_factory=dict)


_RA_TIMM = {"aa": "rand", "m": 7, "mstd": 0.5, "n": 2, "p": 0.5, "inc": 1}
_RA_TORCHVISION = {"aa": "ra", "m": 9, "n": 2, "fill": (0, 0, 0), "interpolation": "bilinear"}
_ERASE_BLACK = {"reprob": 0.25, "remode": "const", "re_scale": (0.02, 0.33), "re_ratio": (0.3, 3.3), "re_fill": (0, 0, 0)}
_MIX_BOTH = {"mixup": 1.0, "cutmix": 1.0, "mixup_prob": 0.5, "mix_both": True}

PRESETS = {
    "none": Preset("shorter side resized, centre cut out: what timm does to evaluate", {"crop": "centre"}),
    "whole": Preset("the whole image resized to a square, as ReLabel's teacher sees it", {"crop": "whole"}),
    "rrc": Preset("RandomResizedCrop and horizontal flip"),
    "rrc-ra": Preset("RRC, flip, RandAugment as timm's rand-m7-mstd0.5-inc1", _RA_TIMM),
    "usi": Preset(
        "Solving ImageNet: RRC, flip, rand-m7-mstd0.5-inc1, MixUp .8 or CutMix 1.0",
        {**_RA_TIMM, "mixup": 0.8, "cutmix": 1.0},
    ),
    "imagenet-plus-rrc": Preset("ImageNet+: RRC (bilinear) and flip", {"interpolation": "bilinear"}),
    "imagenet-plus-ra-re": Preset(
        "ImageNet+ RA/RE: torchvision's RandAugment (2 ops, magnitude 9) and erasing to black",
        {**_RA_TORCHVISION, **_ERASE_BLACK},
    ),
    "imagenet-plus-m": Preset(
        "ImageNet+ M*: MixUp and CutMix, each on half of the views, also both", {"interpolation": "bilinear", **_MIX_BOTH}
    ),
    "imagenet-plus-m-r": Preset("ImageNet+ M*+R*: RA/RE and M*", {**_RA_TORCHVISION, **_ERASE_BLACK, **_MIX_BOTH}),
    "fkd": Preset("FKD: RRC of .08 to .936 of the area, flip", {"scale": (0.08, 0.936), "interpolation": "bilinear"}),
    "relabel": Preset(
        "ReLabel's students: RRC, flip, colour jitter .4, CutMix",
        {"interpolation": "bilinear", "color_jitter": 0.4, "cutmix": 1.0},
    ),
    "meal-v2": Preset("MEAL V2: RRC and flip", {"interpolation": "bilinear"}),
    "tinyvit": Preset(
        "TinyViT: RRC, flip, rand-m9-mstd0.5-inc1, a quarter of the views erased with noise per pixel",
        {**_RA_TIMM, "m": 9, "reprob": 0.25, "remode": "pixel"},
    ),
    "three-augment": Preset(
        "DeiT III: RRC, flip, one of grey, solarize and blur, then colour jitter .3", {"aa": "three", "color_jitter": 0.3}
    ),
    "trivial": Preset(
        "RRC, flip, TrivialAugment (wide, torchvision's)", {"aa": "trivial", "fill": (0, 0, 0), "interpolation": "bilinear"}
    ),
    "autoaugment": Preset("RRC, flip, AutoAugment's policy for ImageNet, as timm's `original`", {"aa": "auto"}),
}
