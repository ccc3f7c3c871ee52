"""Policies: the distributions that params are drawn from, as small validated configs.

Text form, as on the command line: `NAME` or `NAME:key=value,key=value`, ranges and tuples written with dashes, for
instance `rrc-ra:scale=0.25-1,m=9`. The canonical text names every option, so two texts of one policy compare equal.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from reinforce import params as P
from reinforce.errors import UsageError
from reinforce.mix import MIX_FIELDS, MixOptions

_CROP_BOX = (P.Field.CROP_TOP, P.Field.CROP_LEFT, P.Field.CROP_HEIGHT, P.Field.CROP_WIDTH)


class _Policy(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def __str__(self) -> str:
        options = self.model_dump(exclude={"name"})
        return f"{self.name}:" + ",".join(f"{k}={_to_text(v)}" for k, v in options.items())  # type: ignore[attr-defined]


class NonePolicy(_Policy):
    """Resize the shorter side to `size / crop_pct`, rounded down, cut the centre: what timm does to evaluate."""

    name: Literal["none"] = "none"
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    crop_pct: float = Field(0.875, gt=0.1, le=1.0)

    @property
    def mix(self) -> MixOptions | None:
        return None

    def spec(self, size: int) -> P.PixelSpec:
        """The params layout of this policy at a view size in pixels."""
        extra = (
            P.Field.RESIZE_HEIGHT,
            P.Field.RESIZE_WIDTH,
            P.Field.WINDOW_TOP,
            P.Field.WINDOW_LEFT,
            P.Field.INTERPOLATION,
        )
        return P.PixelSpec(size, tuple(int(f) for f in _CROP_BOX + extra))


class RRCPolicy(_Policy):
    """RandomResizedCrop and horizontal flip, with timm's and torchvision's semantics."""

    name: Literal["rrc"] = "rrc"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = Field(0.5, ge=0.0, le=1.0)
    interpolation: Literal["bilinear", "bicubic", "random"] = "bicubic"
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mix_both: bool = False
    repeats: int = 1

    @property
    def mix(self) -> MixOptions | None:
        if not self.mixup and not self.cutmix:
            return None
        return MixOptions(self.mixup, self.cutmix, self.mixup_prob, self.mixup_switch_prob, self.mix_both, self.repeats)

    @model_validator(mode="after")
    def _check_ranges(self) -> RRCPolicy:
        if not 0.0 < self.scale[0] <= self.scale[1] <= 1.0:
            raise ValueError(f"scale={_to_text(self.scale)}: a range within 0-1, low-high, is expected")
        if not 0.01 <= self.ratio[0] <= self.ratio[1] <= 100.0:
            raise ValueError(f"ratio={_to_text(self.ratio)}: a range of width/height, low-high, is expected")
        return self

    def spec(self, size: int) -> P.PixelSpec:
        """The params layout of this policy at a view size in pixels."""
        mix = MIX_FIELDS if self.mix and self.name == "rrc" else ()
        return P.PixelSpec(size, tuple(int(f) for f in (*_CROP_BOX, P.Field.INTERPOLATION, P.Field.HFLIP, *mix)))


class RRCRandAugmentPolicy(RRCPolicy):
    """RRC, flip, then RandAugment with the semantics of timm's `rand-m7-mstd0.5-inc1`; options keep timm's names."""

    name: Literal["rrc-ra"] = "rrc-ra"  # type: ignore[assignment]
    m: float = Field(7.0, ge=0.0, le=10.0, description="magnitude of 10")
    mstd: float = Field(0.5, ge=0.0, le=100.0, description="standard deviation of the magnitude")
    n: int = Field(2, ge=1, le=P.MAX_OP_SLOTS, description="ops drawn per view")
    p: float = Field(0.5, ge=0.0, le=1.0, description="probability of applying a drawn op")
    inc: int = Field(1, ge=0, le=1, description="1: ops grow more severe with magnitude")
    fill: tuple[int, int, int] = Field((124, 116, 104), description="RGB of uncovered pixels; default 255 x ImageNet mean")

    @model_validator(mode="after")
    def _check_fill(self) -> RRCRandAugmentPolicy:
        if any(not 0 <= v <= 255 for v in self.fill):
            raise ValueError(f"fill={_to_text(self.fill)}: three values within 0-255 are expected")
        return self

    def spec(self, size: int) -> P.PixelSpec:
        """The params layout of this policy at a view size in pixels."""
        slots = tuple(range(P.OP_SLOT_BASE, P.OP_SLOT_BASE + 4 * self.n))
        return P.PixelSpec(size, super().spec(size).fields + slots + (MIX_FIELDS if self.mix else ()), self.fill)


Policy = Annotated[NonePolicy | RRCPolicy | RRCRandAugmentPolicy, Field(discriminator="name")]
_ADAPTER: TypeAdapter[Any] = TypeAdapter(Policy)
POLICIES: dict[str, type[_Policy]] = {"none": NonePolicy, "rrc": RRCPolicy, "rrc-ra": RRCRandAugmentPolicy}


def parse_policy(text: str) -> NonePolicy | RRCPolicy | RRCRandAugmentPolicy:
    """Read a policy's text form.

    Raises:
        UsageError: unknown policy or option, or a value out of range.
    """
    name, _, rest = text.partition(":")
    kind = POLICIES.get(name)
    if kind is None:
        raise UsageError(f"There is no policy {name!r}.", expected=", ".join(POLICIES), fix=f"--policy {_closest(name)}")
    known = [k for k in kind.model_fields if k != "name"]
    options: dict[str, Any] = {"name": name}
    for item in filter(None, rest.split(",")):
        key, separator, value = item.partition("=")
        if not separator or key not in known:
            raise UsageError(f"Policy {name!r} has no option {item!r}.", expected=", ".join(f"{k}=" for k in known))
        # A dash separates values, except where it is a sign or an exponent's sign.
        parts = re.split(r"(?<=[0-9.])-", value)
        options[key] = tuple(parts) if len(parts) > 1 else value
    try:
        return _ADAPTER.validate_python(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"] if p not in POLICIES)
        raise UsageError(f"Policy {text!r} is not valid.", found=f"{where} {first['msg']}".strip()) from None


def _closest(name: str) -> str:
    return next((p for p in reversed(POLICIES) if p.replace("-", "") in name.replace("-", "").lower()), "rrc-ra")


def _to_text(value: object) -> str:
    if isinstance(value, tuple):
        return "-".join(_to_text(v) for v in value)
    return repr(value).removesuffix(".0") if isinstance(value, float) else str(value)
