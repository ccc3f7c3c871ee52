"""Recipe: a training configuration in one validated TOML file. Field names are timm's option names; unknown keys fail."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from reinforce.errors import UsageError, first_line
from reinforce.files import read_small


def _parts(value: object) -> object:
    return value.split(",") if isinstance(value, str) else value


_WithCommas = BeforeValidator(_parts)
"""A tuple, which the command line gives as one text with commas."""
_Share = Annotated[float, Field(ge=0, lt=1)]
_Epoch = Annotated[int, Field(ge=1)]


class Recipe(BaseModel):
    """All settings of the optimisation; data, model and machine are not part of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(100, ge=1, description="Epochs; cooldown comes on top.")
    batch_size: int = Field(128, ge=1, description="Views in a batch, of all processes together.")
    aug_repeats: int = Field(1, ge=1, description="Views of a sample in one batch, from one decode.")
    aug_repeats_off_epoch: int = Field(0, ge=0, description="From this epoch on, one view of a sample per batch; 0: never.")
    mixup_off_epoch: int = Field(0, ge=0, description="From this epoch on, fresh views are not mixed; 0: never.")
    opt: str = Field("adamw", description="Name of a timm optimiser.")
    lr: float = Field(1e-3, gt=0, description="Highest learning rate.")
    weight_decay: float = Field(0.05, ge=0, description="Weight decay.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of optimisers that have one.")
    opt_eps: float | None = Field(None, gt=0, description="Epsilon of the optimiser; default: its own.")
    opt_betas: Annotated[tuple[_Share, ...], _WithCommas] | None = Field(
        None, min_length=1, description="Betas of the optimiser, with commas; default: its own."
    )
    filter_bias_and_bn: bool = Field(True, description="No weight decay for biases and the weights of norms.")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="Factor of the learning rate per layer, from the head down."
    )
    pretrained: bool = Field(False, description="Start from timm's published weights.")
    clip_grad: float | None = Field(None, gt=0, description="Largest gradient norm.")
    sched: str = Field("cosine", description="Name of a timm schedule.")
    warmup_epochs: int = Field(5, ge=0, description="Epochs in which the learning rate rises; cut to a fifth of a shorter run.")
    warmup_lr: float = Field(1e-6, ge=0, description="Learning rate at the start of the warm-up.")
    min_lr: float = Field(1e-6, ge=0, description="Learning rate at the end.")
    decay_epochs: float = Field(90, gt=0, description="Epochs between two decays of the step schedule.")
    decay_milestones: Annotated[tuple[_Epoch, ...], _WithCommas] = Field(
        (), description="Epochs at which the multistep schedule decays, with commas."
    )
    decay_rate: float = Field(0.1, gt=0, le=1, description="Factor by which each decay multiplies the rate.")
    cooldown_epochs: int = Field(0, ge=0, description="Further epochs at the last learning rate.")
    distill_loss_weight: float = Field(
        1.0, ge=0, description="Weight of KL(teacher || student); with cosub, of a binary cross-entropy."
    )
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
    drop_path_shape: Literal["linear", "constant"] = Field(
        "linear", description="linear: the rate rises from block to block up to drop_path; constant: all blocks have it."
    )
    freeze_bn: bool = Field(False, description="Batch norm keeps the statistics that it starts with; its weights still learn.")
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

    @model_validator(mode="after")
    def _check_what_would_do_nothing(self) -> Recipe:
        steps = self.decay_milestones
        if self.sched == "multistep" and not any(epoch < self.epochs for epoch in steps):
            raise ValueError(f"sched=multistep would never decay: it needs decay_milestones below {self.epochs} epochs")
        if steps and self.sched != "multistep":
            raise ValueError(f"decay_milestones belong to sched=multistep, not to sched={self.sched}")
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"decay_milestones={','.join(map(str, steps))}: epochs in rising order are expected")
        if self.aug_repeats_off_epoch and self.aug_repeats == 1:
            raise ValueError("aug_repeats_off_epoch has no aug_repeats to end")
        if self.drop_path_shape == "constant" and not self.drop_path:
            raise ValueError("drop_path_shape=constant has no drop_path to shape")
        return self

    def repeats_at(self, epoch: int) -> int:
        """Number of views of a sample in one batch of an epoch."""
        return 1 if 0 < self.aug_repeats_off_epoch <= epoch else self.aug_repeats

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
        try:
            text = read_small(Path(name))
        except OSError as error:
            raise UsageError(f"Recipe {name} cannot be read.", found=error.strerror or str(error)) from None
    else:
        raise UsageError(
            f"There is no recipe {name!r}.", expected=", ".join(shipped_recipes()) + ", or the path of a TOML file"
        )
    try:
        content = tomllib.loads(text.decode())
        return Recipe.model_validate({**content, **{k: v for k, v in overrides.items() if v is not None}})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(
            f"Recipe {name} is not valid.",
            found=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            expected=", ".join(Recipe.model_fields) if first["type"] == "extra_forbidden" else None,
        ) from None
    except (ValueError, RecursionError) as error:  # also of a number of thousands of digits, and of lists too deep
        raise UsageError(f"Recipe {name} is no TOML.", found=first_line(error)) from None
