"""Policy: the distribution that views are drawn from, as one validated set of options; a preset is a set with a name. Pure.

`reinforce.views` implements the options (`layout.py`, `draw.py`, `augment.py`, `mix.py`) and reads and writes policies as text
(`policy_text.py`). A reinforced dataset stores the name and every option that applies, so stored data sets stay the same when
a later version changes a preset.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from reinforce.errors import shown

CUSTOM = "custom"
DEFAULT = "rrc-ra"
MAX_OPS = 13
"""Largest number of ops drawn per view: the 16 op slots of FORMAT.md less three for colour jitter."""
RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Augmentation:
    """An augmentation that may follow crop and flip, `aa=NAME`; `reinforce.views.augment` draws it.

    Attributes:
        options: The options that it takes.
        slots: Op slots of a view; None: as many as the option `n` says.
        max_m: Largest magnitude.
        whole_m: Whether the magnitude must be a whole number.
    """

    options: tuple[str, ...] = ()
    slots: int | None = None
    max_m: float = 30.0
    whole_m: bool = False


AUGMENTATIONS = {
    "none": Augmentation(slots=0),
    "rand": Augmentation(("m", "mstd", "n", "p", "inc", "fill"), max_m=10),
    "ra": Augmentation(("m", "n", "fill"), whole_m=True),
    "trivial": Augmentation(("fill",), slots=1),
    "auto": Augmentation(("fill",), slots=2),
    "three": Augmentation(slots=1),
}


@dataclass(frozen=True)
class Preset:
    """A named policy.

    Attributes:
        description: What it does and who published it, in one line.
        options: Values of the options that are not at their defaults.
    """

    description: str
    options: dict[str, Any] = field(default_factory=dict)


_RA_TIMM = {"aa": "rand", "m": 7, "mstd": 0.5, "n": 2, "p": 0.5, "inc": 1}
_RA_TORCHVISION = {"aa": "ra", "m": 9, "n": 2, "fill": (0, 0, 0), "interpolation": "bilinear"}
_ERASE_BLACK = {"reprob": 0.25, "remode": "const", "re_scale": (0.02, 0.33), "re_ratio": (0.3, 3.3), "re_fill": (0, 0, 0)}
_NOISE = {"reprob": 0.25, "remode": "pixel"}
_MIX_ONE = {"mixup": 0.8, "cutmix": 1.0}
_MIX_BOTH = {"mixup": 1.0, "cutmix": 1.0, "mixup_prob": 0.5, "mix_both": True}

_RA_RE = {**_RA_TORCHVISION, **_ERASE_BLACK}
_DEIT = {**_RA_TIMM, "m": 9, **_NOISE, **_MIX_ONE, "repeats": 3}
_RELABEL = {"interpolation": "bilinear", "color_jitter": 0.4}

# A recipe of `reinforce.train` has the preset of its name: labels of this policy fit the recipe, also its repeats.
PRESETS = {
    "none": Preset("shorter side resized, centre cut out: what timm does to evaluate", {"crop": "centre"}),
    "whole": Preset("the whole image resized to a square, as ReLabel's teacher sees it", {"crop": "whole"}),
    "rrc": Preset("RandomResizedCrop and horizontal flip"),
    "rrc-ra": Preset("RRC, flip, RandAugment as timm's rand-m7-mstd0.5-inc1", _RA_TIMM),
    "usi": Preset(
        "Solving ImageNet: RRC, flip, rand-m7-mstd0.5-inc1, MixUp .8 or CutMix 1.0, three views with the same partner",
        {**_RA_TIMM, **_MIX_ONE, "repeats": 3},
    ),
    "imagenet-plus": Preset("ImageNet+ of the recipe: the same as imagenet-plus-ra-re", _RA_RE),
    "imagenet-plus-rrc": Preset("ImageNet+: RRC (bilinear) and flip", {"interpolation": "bilinear"}),
    "imagenet-plus-ra-re": Preset(
        "ImageNet+ RA/RE: torchvision's RandAugment (2 ops, magnitude 9) and erasing to black", _RA_RE
    ),
    "imagenet-plus-m": Preset(
        "ImageNet+ M*: MixUp and CutMix, each on half of the views, also both", {"interpolation": "bilinear", **_MIX_BOTH}
    ),
    "imagenet-plus-m-r": Preset("ImageNet+ M*+R*: RA/RE and M*", {**_RA_RE, **_MIX_BOTH}),
    "fkd": Preset("FKD: RRC of .08 to .936 of the area, flip", {"scale": (0.08, 0.936), "interpolation": "bilinear"}),
    "relabel": Preset("ReLabel's students: RRC, flip, colour jitter .4", _RELABEL),
    "relabel-cutmix": Preset("ReLabel's students with CutMix", {**_RELABEL, "cutmix": 1.0}),
    "meal-v2": Preset("MEAL V2: RRC and flip", {"interpolation": "bilinear"}),
    "tinyvit": Preset(
        "TinyViT: RRC, flip, rand-m9-mstd0.5-inc1, a quarter of the views erased with noise per pixel",
        {**_RA_TIMM, "m": 9, **_NOISE},
    ),
    "tinyvit-1k": Preset("TinyViT's fine-tuning on ImageNet-1k: the same as tinyvit", {**_RA_TIMM, "m": 9, **_NOISE}),
    "deit": Preset(
        "DeiT: RRC, flip, rand-m9-mstd0.5-inc1, erasing with noise, MixUp .8 or CutMix 1.0, three views with the same partner",
        _DEIT,
    ),
    "deit-soft": Preset("DeiT with soft distillation: the same as deit", _DEIT),
    "three-augment": Preset(
        "DeiT III: RRC, flip, one of grey, solarize and blur, then colour jitter .3", {"aa": "three", "color_jitter": 0.3}
    ),
    "cosub": Preset(
        "cosub: three-augment with MixUp .8 or CutMix 1.0, three views with the same partner",
        {"aa": "three", "color_jitter": 0.3, **_MIX_ONE, "repeats": 3},
    ),
    "kd": Preset("for recipe kd: the same as rrc-ra", _RA_TIMM),
    "self": Preset("for recipe self: the same as rrc-ra", _RA_TIMM),
    "trivial": Preset(
        "RRC, flip, TrivialAugment (wide, torchvision's)", {"aa": "trivial", "fill": (0, 0, 0), "interpolation": "bilinear"}
    ),
    "autoaugment": Preset("RRC, flip, AutoAugment's policy for ImageNet, as timm's `original`", {"aa": "auto"}),
}


@dataclass(frozen=True)
class MixOptions:
    """How the pairs of a view are mixed; options keep timm's names.

    Attributes:
        mixup: alpha of MixUp's Beta distribution; 0: no MixUp.
        cutmix: alpha of CutMix's Beta distribution; 0: no CutMix.
        mixup_prob: Probability that a pair is mixed at all.
        mixup_switch_prob: Probability of CutMix instead of MixUp where both are on.
        both: MixUp and CutMix are decided independently, each with `mixup_prob`, and may both happen (ImageNet+).
        repeats: Number of consecutive views with the same pairs; each view has its own `lam` and box (repeated augmentation).
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    both: bool = False
    repeats: int = 1


class Policy(BaseModel):
    """Options of a policy, with timm's names where timm has them; `crop`, `aa`, `reprob` and mixing decide which apply."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    crop: Literal["rrc", "centre", "whole", "pad"] = "rrc"
    scale: tuple[float, float] = Field((0.08, 1.0), description="area of the crop")
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="width / height of the crop")
    hflip: float = Field(0.5, ge=0.0, le=1.0)
    interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"
    crop_pct: float = Field(0.875, gt=0.1, le=1.0, description="size over the resized shorter side, of the centre crop")
    crop_pad: int = Field(16, ge=0, le=512, description="border of `pad` around the resized image, in pixels of the view")
    aa: str = Field("none", description="which augmentation follows")
    m: float = Field(7.0, ge=0.0, le=30.0, description="magnitude: of 10 for rand (timm), of 30 for ra (torchvision)")
    mstd: float = Field(0.5, ge=0.0, le=100.0, description="standard deviation of the magnitude")
    n: int = Field(2, ge=1, le=MAX_OPS, description="ops drawn per view")
    p: float = Field(0.5, ge=0.0, le=1.0, description="probability of applying a drawn op")
    inc: int = Field(1, ge=0, le=1, description="1: ops grow more severe with magnitude")
    fill: RGB = Field((124, 116, 104), description="of uncovered pixels; default 255 x ImageNet mean")
    color_jitter: float = Field(0.0, ge=0.0, le=0.9, description="range of brightness, contrast and saturation")
    reprob: float = Field(0.0, ge=0.0, le=1.0, description="probability of random erasing")
    remode: Literal["const", "pixel"] = Field("const", description="erase to re_fill, or to noise per pixel")
    re_scale: tuple[float, float] = Field((0.02, 1 / 3), description="area that is erased")
    re_ratio: tuple[float, float] = Field((0.3, 1 / 0.3), description="height / width of it")
    re_fill: RGB = (124, 116, 104)
    mixup: float = Field(0.0, ge=0.0, le=100.0, description="alpha of MixUp")
    cutmix: float = Field(0.0, ge=0.0, le=100.0, description="alpha of CutMix")
    mixup_prob: float = Field(1.0, ge=0.0, le=1.0)
    mixup_switch_prob: float = Field(0.5, ge=0.0, le=1.0)
    mix_both: bool = Field(False, description="MixUp and CutMix independently, each with mixup_prob")
    repeats: int = Field(1, ge=1, le=64, description="consecutive views with the same partners")
    partners: Literal["pairs", "any"] = Field(
        "pairs", description="pairs: two samples of a block are mixed with each other; any: one-way, only of imported labels"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        name = given.get("name")
        if not isinstance(name, str) or (name not in PRESETS and name != CUSTOM):
            raise ValueError(f"there is no policy {shown(name)}")
        return {**(PRESETS[name].options if name in PRESETS else {}), **given}

    @model_validator(mode="after")
    def _check(self) -> Policy:
        for name in ("scale", "re_scale"):
            low, high = getattr(self, name)
            if not 0.0 < low <= high <= 1.0:
                raise ValueError(f"{name}={_to_text((low, high))}: a range within 0-1, low-high, is expected")
        for name in ("ratio", "re_ratio"):
            low, high = getattr(self, name)
            if not 0.01 <= low <= high <= 100.0:
                raise ValueError(f"{name}={_to_text((low, high))}: a range of width/height, low-high, is expected")
        for name in ("fill", "re_fill"):
            if any(not 0 <= v <= 255 for v in getattr(self, name)):
                raise ValueError(f"{name}={_to_text(getattr(self, name))}: three values within 0-255 are expected")
        if self.aa not in AUGMENTATIONS:
            raise ValueError(f"aa={self.aa}: one of {', '.join(AUGMENTATIONS)} is expected")
        drawn = AUGMENTATIONS[self.aa]
        if "m" in drawn.options and self.m > drawn.max_m:
            raise ValueError(f"m={_to_text(self.m)}: less than or equal to {drawn.max_m:g} is expected with aa={self.aa}")
        if drawn.whole_m and self.m != int(self.m):
            raise ValueError(f"m={_to_text(self.m)}: a whole number is expected with aa={self.aa}")
        preset = PRESETS[self.name].options if self.name in PRESETS else {}
        idle = sorted(self.model_fields_set - set(self.options) - set(preset) - {"name"})
        if idle:
            raise ValueError(f"{idle[0]}={_to_text(getattr(self, idle[0]))}: it would change nothing beside the other options")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The options that apply, in order of definition."""
        names = ["crop", "interpolation"]
        names += ["crop_pct"] if self.crop == "centre" else []
        names += ["scale", "ratio"] if self.crop == "rrc" else []
        names += ["crop_pad"] if self.crop == "pad" else []
        if self.augments:
            names += ["hflip", "aa", "color_jitter", "reprob", "mixup", "cutmix"]
            names += ["fill"] if self.crop == "pad" else []
            names += AUGMENTATIONS[self.aa].options
            names += ["remode", "re_scale", "re_ratio"] if self.reprob else []
            names += ["re_fill"] if self.reprob and self.remode == "const" else []
            names += ["mixup_prob", "repeats"] if self.mix else []
            names += ["mixup_prob", "partners"] if self.one_way else []
            names += ["mixup_switch_prob", "mix_both"] if self.mixup and self.cutmix else []
        return {name: getattr(self, name) for name in type(self).model_fields if name in names}

    @model_serializer
    def _only_what_applies(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}

    def __str__(self) -> str:
        return f"{self.name}:" + ",".join(f"{k}={_to_text(v)}" for k, v in self.options.items())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policy) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    @property
    def num_slots(self) -> int:
        """Op slots of a view."""
        if not self.augments:
            return 0
        slots = AUGMENTATIONS[self.aa].slots
        return (2 if self.crop == "pad" else 0) + (self.n if slots is None else slots) + (3 if self.color_jitter else 0)

    @property
    def augments(self) -> bool:
        """Whether views are crops that may be mirrored, augmented, erased and mixed."""
        return self.crop in ("rrc", "pad")

    @property
    def mix(self) -> MixOptions | None:
        """How views are mixed in pairs; None: they are not."""
        if not self.augments or not (self.mixup or self.cutmix) or self.partners == "any":
            return None
        return MixOptions(self.mixup, self.cutmix, self.mixup_prob, self.mixup_switch_prob, self.mix_both, self.repeats)

    @property
    def one_way(self) -> bool:
        """Whether a view may be mixed with a view of any other sample, which is not mixed with it in turn."""
        return self.augments and bool(self.mixup or self.cutmix) and self.partners == "any"

    @property
    def fresh(self) -> Policy:
        """The policy from which training draws views that are not stored: mixed in pairs, which need no second image."""
        return self.model_copy(update={"partners": "pairs"})


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return "-".join(_to_text(v) for v in value)
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
