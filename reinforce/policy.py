"""Policy: the distribution that params are drawn from, as one validated set of options; names stand for presets of them.

Text form, as on the command line: `NAME` or `NAME:key=value,key=value`, ranges and tuples written with dashes, for
instance `rrc-ra:scale=0.25-1,m=9`. The canonical text names every option that applies, so two texts of one policy compare
equal.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_serializer, model_validator

from reinforce.errors import UsageError
from reinforce.presets import PRESETS
from reinforce.views import params as P
from reinforce.views.mix import MIX_FIELDS, MixOptions

CUSTOM = "custom"
_CROP_BOX = (P.Field.CROP_TOP, P.Field.CROP_LEFT, P.Field.CROP_HEIGHT, P.Field.CROP_WIDTH)
_ERASED = (P.Field.ERASE_TOP, P.Field.ERASE_LEFT, P.Field.ERASE_HEIGHT, P.Field.ERASE_WIDTH)
_WINDOW = (P.Field.RESIZE_HEIGHT, P.Field.RESIZE_WIDTH, P.Field.WINDOW_TOP, P.Field.WINDOW_LEFT)
_OPTIONS_OF_AA = {"rand": "m mstd n p inc fill", "ra": "m n fill", "trivial": "fill", "auto": "fill"}
_SLOTS_OF_AA = {"none": 0, "trivial": 1, "three": 1, "auto": 2}
RGB = tuple[int, int, int]


class Policy(BaseModel):
    """Options of a policy; timm's names where timm has them. Which apply depends on `crop`, `aa`, `reprob` and mixing."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    crop: Literal["rrc", "centre", "whole"] = "rrc"
    scale: tuple[float, float] = Field((0.08, 1.0), description="area of the crop")
    ratio: tuple[float, float] = Field((3 / 4, 4 / 3), description="width / height of the crop")
    hflip: float = Field(0.5, ge=0.0, le=1.0)
    interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"
    crop_pct: float = Field(0.875, gt=0.1, le=1.0, description="size over the resized shorter side, of the centre crop")
    aa: Literal["none", "rand", "ra", "trivial", "auto", "three"] = Field("none", description="which augmentation follows")
    m: float = Field(7.0, ge=0.0, le=30.0, description="magnitude: of 10 for rand (timm), of 30 for ra (torchvision)")
    mstd: float = Field(0.5, ge=0.0, le=100.0, description="standard deviation of the magnitude")
    n: int = Field(2, ge=1, le=P.MAX_OP_SLOTS - 3, description="ops drawn per view")
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

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        name = given.get("name")
        if name not in PRESETS and name != CUSTOM:
            raise ValueError(f"there is no policy {name!r}")
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
        if self.aa == "rand" and self.m > 10:
            raise ValueError(f"m={_to_text(self.m)}: less than or equal to 10 is expected with aa=rand")
        if self.aa == "ra" and self.m != int(self.m):
            raise ValueError(f"m={_to_text(self.m)}: a whole number is expected with aa=ra")
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
        if self.crop == "rrc":
            names += ["scale", "ratio", "hflip", "aa", "color_jitter", "reprob", "mixup", "cutmix"]
            names += _OPTIONS_OF_AA.get(self.aa, "").split()
            names += ["remode", "re_scale", "re_ratio"] if self.reprob else []
            names += ["re_fill"] if self.reprob and self.remode == "const" else []
            names += ["mixup_prob", "repeats"] if self.mix else []
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
    def mix(self) -> MixOptions | None:
        """How views are mixed in pairs; None: they are not."""
        if self.crop != "rrc" or not (self.mixup or self.cutmix):
            return None
        return MixOptions(self.mixup, self.cutmix, self.mixup_prob, self.mixup_switch_prob, self.mix_both, self.repeats)

    @property
    def num_slots(self) -> int:
        """Op slots of a view."""
        if self.crop != "rrc":
            return 0
        return _SLOTS_OF_AA.get(self.aa, self.n) + (3 if self.color_jitter else 0)

    def spec(self, size: int) -> P.PixelSpec:
        """The params layout of this policy at a view size in pixels; the columns of mixing are the last ones."""
        fields: tuple[int, ...] = _CROP_BOX
        if self.crop == "centre":
            fields += _WINDOW
        fields += (P.Field.INTERPOLATION,)
        if self.crop == "rrc":
            fields += (P.Field.HFLIP,)
            fields += _ERASED if self.reprob else ()
            fields += (P.Field.ERASE_SEED,) if self.reprob and self.remode == "pixel" else ()
            fields += tuple(range(P.OP_SLOT_BASE, P.OP_SLOT_BASE + 4 * self.num_slots))
            fields += MIX_FIELDS if self.mix else ()
        return P.PixelSpec(size, tuple(map(int, fields)), self.fill, self.re_fill)


def parse_policy(text: str) -> Policy:
    """Read a policy's text form.

    Raises:
        UsageError: unknown policy or option, or a value out of range.
    """
    name, _, rest = text.partition(":")
    if name not in PRESETS and name != CUSTOM:
        known = ", ".join(PRESETS)
        raise UsageError(f"There is no policy {name!r}.", expected=f"{known}, or a TOML file", fix=f"--policy {_closest(name)}")
    known_options = [k for k in Policy.model_fields if k != "name"]
    options: dict[str, Any] = {"name": name}
    for item in filter(None, rest.split(",")):
        key, separator, value = item.partition("=")
        if not separator or key not in known_options:
            raise UsageError(f"Policy {name!r} has no option {item!r}.", expected=", ".join(f"{k}=" for k in known_options))
        # A dash separates values, except where it is a sign or an exponent's sign.
        parts = re.split(r"(?<=[0-9.])-", value)
        options[key] = tuple(parts) if len(parts) > 1 else value
    return make_policy(options, text)


def make_policy(options: dict[str, Any], what: str) -> Policy:
    """A policy from its name and options.

    Args:
        options: `name`, and any options.
        what: What an error calls it.

    Raises:
        UsageError: an unknown option, or a value out of range.
    """
    try:
        return Policy.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise UsageError(f"Policy {what!r} is not valid.", found=f"{where} {first['msg']}".strip()) from None


def _closest(name: str) -> str:
    plain = name.replace("-", "").lower()
    return next((p for p in reversed(PRESETS) if p != "none" and p.replace("-", "") in plain), "rrc-ra")


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return "-".join(_to_text(v) for v in value)
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
