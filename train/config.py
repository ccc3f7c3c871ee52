"""Config: the settings of one training run, in one class per subject.

Every field with a `description` becomes an option of `reinforce train`, with the field's type, bounds and default. For other
fields the command has its own options, whose text it converts. Settings of the optimisation are in the recipe (`recipe.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from reinforce.policy import DEFAULT
from reinforce.settings import Scalar
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.train.recipe import Recipe

Mode = Literal["replay", "plain", "online"]
_FROZEN = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class DataConfig:
    """Images to learn from and to evaluate on, as values of `--data`; `more_val`: further validation sets by name."""

    data: str | Path = Field(
        description="Images: a folder, shards-{000..127}.tar, *.parquet, an .npz, torchvision:NAME, or a URL."
    )
    val: str | Path | None = None
    more_val: Mapping[str, str | Path] = Field(default_factory=dict)
    download: bool = Field(default=False, description="Let torchvision fetch a data set that is not there.")


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class LabelsConfig:
    """The teacher's labels, and how the student learns from them."""

    labels: str | Path | None = Field(
        default=None,
        description="Reinforced dataset, or URL of a published one; not needed where --data is shards that have labels.",
    )
    mode: Mode = Field(
        default="replay",
        description="replay: stored views and labels; plain: fresh views, hard labels; online: fresh views, live teacher.",
    )
    views: int | None = Field(default=None, ge=1, description="Use only the first so many stored views.")


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class ViewsConfig:
    """Size of the views, or several sizes that batches use in turn; and the policy of fresh views, with its default."""

    size: int | None = Field(default=None, ge=8, description="View size in pixels; default: that of the labels.")
    sizes: tuple[int, ...] = ()
    policy: str | None = Field(
        default=None,
        description="Policy of fresh views: without --labels, or where these are maps; default: that named like the recipe.",
    )
    default_policy: str = DEFAULT


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class StudentConfig:
    """The model that learns."""

    student: str = Field(description="timm model or short name.")
    student_kwargs: dict[str, Scalar] = Field(default_factory=dict)
    initial_checkpoint: Path | None = Field(default=None, description="Start from the weights of a local file.")
    channels_last: bool | None = Field(default=None, description="Memory format; default: on CUDA.")
    torchcompile: bool = Field(default=False, description="Compile the student.")
    sync_bn: bool = Field(default=False, description="Batch statistics over all processes; CUDA only.")


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class TeacherConfig:
    """The live teacher of `--mode online`; default: that of the labels, whose weights may be in the files `teacher_weights`."""

    teachers: list[TeacherSpec] = Field(default_factory=list)
    teacher_weights: list[str | Path] = Field(default_factory=list)
    class_map: str | None = Field(default=None, description="For --teacher: as in generate.")


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class RunConfig:
    """Seed, device, workers, resume and checkpoints."""

    seed: int = Field(default=0, ge=0, description="Seed of weights, order and fresh views.")
    grad_accum_steps: int = Field(default=1, ge=1, description="Batches whose gradients make one update.")
    workers: int = 1
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:i")
    resume: bool = Field(default=False, description="Continue the run in --out, if there is one.")
    save_every: int = Field(default=1000, ge=0, description="Steps between checkpoints within an epoch; 0: none.")


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class OutputConfig:
    """The files that the run writes."""

    out: Path = Field(description="Folder for checkpoints and metrics.")
    tensorboard: bool = Field(default=False, description="Write TensorBoard events below --out too.")


@dataclass(frozen=True, kw_only=True, config=_FROZEN)
class TrainConfig(DataConfig, LabelsConfig, ViewsConfig, StudentConfig, TeacherConfig, RunConfig, OutputConfig):
    """One training run."""

    recipe: Recipe
