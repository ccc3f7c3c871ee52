"""Recipe: a training configuration in one validated TOML file. Field names are timm's option names; unknown keys fail."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reinforce.errors import UsageError


class Recipe(BaseModel):
    """All settings of the optimisation; data, model and machine are not part of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(100, ge=1, description="Epochs; cooldown comes on top.")
    batch_size: int = Field(128, ge=1, description="Views in a batch, of all processes together.")
    aug_repeats: int = Field(1, ge=1, description="Views of a sample in one batch, from one decode.")
    opt: str = Field("adamw", description="Name of a timm optimiser.")
    lr: float = Field(1e-3, gt=0, description="Highest learning rate.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of optimisers that have one.")
    pretrained: bool = Field(False, description="Start from timm's published weights.")
    clip_grad: float | None = Field(None, gt=0, description="Largest gradient norm.")
    sched: str = Field("cosine", description="Name of a timm schedule.")
    warmup_epochs: int = Field(5, ge=0, description="Epochs in which the learning rate rises; cut to a fifth of a shorter run.")
    warmup_lr: float = Field(1e-6, ge=0, description="Learning rate at the start of the warm-up.")
    min_lr: float = Field(1e-6, ge=0, description="Learning rate at the end.")
    decay_epochs: float = Field(90, gt=0, description="Epochs between two decays of the step schedule.")
    decay_rate: float = Field(0.1, gt=0, le=1, description="Factor by which each decay multiplies the rate.")
    cooldown_epochs: int = Field(0, ge=0, description="Further epochs at the last learning rate.")
    distill_loss_weight: float = Field(1.0, ge=0, description="Weight of KL(teacher || student).")
    task_loss_weight: float = Field(0.0, ge=0, description="Weight of cross-entropy with the hard label, beside the teacher.")
    smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing of the hard label.")
    distill_type: Literal["soft", "hard"] = Field("soft", description="soft: KL to the teacher; hard: its top class (DeiT).")
    alpha: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of the teacher in the target, the rest hard; replaces the two weights.",
    )
    alpha_ramp_epochs: float = Field(0.0, ge=0, description="Epochs in which alpha rises from 0.")
    discriminator_loss_weight: float = Field(0.0, ge=0, description="Weight of a discriminator on the outputs (MEAL V2).")
    cosub: bool = Field(False, description="Two submodels of the student teach each other; needs drop_path.")
    model_ema: bool = Field(False, description="Keep an average of the weights.")
    model_ema_decay: float = Field(0.9998, ge=0, lt=1, description="How slowly the average moves.")
    model_ema_warmup: bool = Field(False, description="Average over fewer updates at the start.")
    amp: bool = Field(False, description="Mixed precision.")
    amp_dtype: Literal["float16", "bfloat16"] = Field("bfloat16", description="Number type of mixed precision.")
    drop: float = Field(0.0, ge=0, lt=1, description="Dropout rate of the student.")
    drop_path: float | None = Field(None, ge=0, lt=1, description="Stochastic depth rate of the student.")
    crop_pct: float = Field(0.875, gt=0.1, le=1, description="Share of the resized image that evaluation cuts out.")

    @model_validator(mode="after")
    def _check_losses(self) -> Recipe:
        if self.cosub and not self.drop_path:
            raise ValueError("cosub=true needs drop_path above 0: dropped blocks make two submodels of one student")
        if self.cosub and (self.discriminator_loss_weight or self.alpha is not None or self.distill_type != "soft"):
            raise ValueError("cosub=true goes with distill_loss_weight alone: no alpha, no discriminator, no hard distillation")
        if self.alpha_ramp_epochs and self.alpha is None:
            raise ValueError("alpha_ramp_epochs has no alpha to ramp")
        return self

    @property
    def weighs_hard_labels(self) -> bool:
        """Whether the student also learns from hard labels when there is a teacher."""
        return self.cosub or self.task_loss_weight > 0 if self.alpha is None else True

    @property
    def warmup(self) -> int:
        """Number of warm-up epochs; at most a fifth of the run."""
        return min(self.warmup_epochs, self.epochs // 5)


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(
        f.name.removesuffix(".toml") for f in files("reinforce.train").joinpath("recipes").iterdir() if f.name.endswith(".toml")
    )


def about_recipe(name: str) -> str:
    """The description in the first line of a shipped recipe."""
    text = files("reinforce.train").joinpath("recipes", f"{name}.toml").read_text()
    return text.splitlines()[0].removeprefix("# ").partition(": ")[2]


def load_recipe(name: str, overrides: dict[str, Any]) -> Recipe:
    """A shipped recipe by name or a TOML file by path, with some fields overridden.

    Raises:
        UsageError: there is no such recipe, it is not TOML, or it has an unknown key or a value out of range.
    """
    if name in shipped_recipes():
        text = files("reinforce.train").joinpath("recipes", f"{name}.toml").read_bytes()
    elif Path(name).is_file():
        text = Path(name).read_bytes()
    else:
        raise UsageError(
            f"There is no recipe {name!r}.", expected=", ".join(shipped_recipes()) + ", or the path of a TOML file"
        )
    try:
        content = tomllib.loads(text.decode())
        return Recipe.model_validate({**content, **{k: v for k, v in overrides.items() if v is not None}})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"Recipe {name} is no TOML.", found=str(error)) from None
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"Recipe {name} is not valid.",
            found=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            expected=", ".join(Recipe.model_fields) if first["type"] == "extra_forbidden" else None,
        ) from None
