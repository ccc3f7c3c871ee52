"""Settings: what a user asks for (everything that decides pixels and labels), and how such models are written as JSON. Pure.

`Settings` is fixed when generation starts, is part of the manifest, and is compared on resume. Unknown keys are refused.
Source: FORMAT.md, "Manifest".
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reinforce.errors import StoreError
from reinforce.policy import Policy

SCHEMA_VERSION = 1
MAX_BYTES = 256 << 20
"""Largest JSON that is read, in bytes."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
KIND = r"^[a-z0-9][a-z0-9-]{0,39}$"
"""Pattern for the name of a kind, where a later version may know more kinds than this one."""
Scalar = str | int | float | bool | None
"""A value on the command line: `key=value`."""
M = TypeVar("M", bound=BaseModel)


class Model(BaseModel):
    """Base of the models that are written to files: frozen, and unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True, validate_by_name=True)


class TeacherInfo(Model):
    """One teacher of the ensemble."""

    name: str = Field(description="as --teacher takes it: a timm model name, or KIND:NAME")
    kwargs: dict[str, Scalar] = Field(description="arguments of the model; mean and std, if given")
    weights_sha256: Sha256 | None = Field(description="over names, dtypes, shapes and bytes of all tensors; null: not known")
    num_classes: int = Field(ge=1)
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    class_map: list[int] | None = Field(description="teacher class of each class, softmax over these; null: all")


class SourceInfo(Model):
    """What the images were read from. The location is not recorded, because it differs from machine to machine."""

    kind: str = Field(pattern=KIND, description="as it may be stated in front of a location")
    num_samples: int = Field(ge=1, le=1 << 31)
    class_names: list[str] = Field(description="empty: unlabelled")
    index_sha256: Sha256 = Field(description="hash over class names, keys and labels in order")


class ReplayError(Model):
    """How far replayed views were from those that the authors' own loader makes, measured at import in a few of them."""

    against: str = Field(description="what made the other pixels")
    views: int = Field(ge=1, description="how many were compared")
    mean: float = Field(ge=0, le=255, description="mean absolute difference of the pixels, of 255")
    worst_view: float = Field(ge=0, le=255, description="the highest mean of a view")
    max: int = Field(ge=0, le=255, description="the highest difference of a pixel")

    def __str__(self) -> str:
        return (
            f"{self.views} views compared with {self.against}: mean difference {self.mean:.3g} of 255, "
            f"{self.worst_view:.3g} in the worst view, at most {self.max}"
        )


class Origin(Model):
    """Where imported labels come from. What made their pixels is recorded, but exact replay is not promised."""

    format: str = Field(pattern=KIND, description="as `reinforce import` takes it")
    pixels: str = Field(description="what made the pixels that the teacher saw")
    replay: Literal["approximate", "none"] = Field(description="none: params of the views were not kept")
    options: dict[str, Scalar] = Field(description="how ambiguous bytes were read")
    replay_error: ReplayError | None = Field(default=None, description="null: not measured")


class Settings(Model):
    """Everything that decides pixels and labels."""

    source: SourceInfo
    teachers: list[TeacherInfo] = Field(min_length=1, description="soft label: mean of their softmaxes")
    temperature: float = Field(default=1.0, ge=1.0, le=1.0, description="of the teacher's softmax; only 1 for now")
    precision: Literal["fp32", "bf16", "unknown"]
    policy: Policy
    size: int = Field(ge=8, le=4096, description="height and width of a view, pixels")
    views: int = Field(ge=1, le=65535)
    seed: int = Field(ge=0)
    codec: dict[str, Any]
    stripe_views: int = Field(
        default=64,
        ge=1,
        le=65535,
        validation_alias="record_views",
        serialization_alias="record_views",  # its name in manifests
        description="views per stripe; the last one may have fewer",
    )
    num_classes: int = Field(ge=1, le=1 << 24)
    block_size: int = Field(ge=1, le=1 << 20, description="samples per block; the last block may have fewer")
    origin: Origin | None = Field(default=None, description="of labels that were imported; null: generated")

    @property
    def any_order(self) -> bool:
        """Whether samples may stand in the blocks in any order."""
        return self.policy.mix is not None or self.origin is not None

    @property
    def probe_views(self) -> int:
        """Number of views that probes cover, those of the first record: each row is probed in view `row % probe_views`."""
        return min(self.views, self.stripe_views)

    @property
    def num_stripes(self) -> int:
        """Number of stripes of a block, which is also the number of records of a sample."""
        return -(-self.views // self.stripe_views)

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.source.num_samples // self.block_size)


def to_json(model: BaseModel) -> str:
    """Canonical text: indented by two spaces, keys in the order of their definition, a newline at the end."""
    return model.model_dump_json(indent=2) + "\n"


def read_model(kind: type[M], text: str | bytes, name: str) -> M:
    """Parse and validate.

    Raises:
        StoreError: too large, no JSON, unknown keys, or values out of range.
    """
    if len(text) > MAX_BYTES:
        raise StoreError(f"{name} is too large.", found=f"{len(text)} bytes", expected=f"at most {MAX_BYTES}")
    try:
        return kind.model_validate_json(text, by_alias=True, by_name=False)  # in a file, only the alias is a valid key
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise StoreError(
            f"{name} is not valid.",
            found=f"{where}: {first['msg']}" + (f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""),
            expected=f"a file of schema version {SCHEMA_VERSION}, as in FORMAT.md",
            cause="it was edited, or made by a newer version",
        ) from None
