"""Manifest: the JSON that describes a reinforced dataset completely. Pure: text in, validated model out, and back.

`Settings` is everything that decides the content; it is fixed when generation starts and compared on resume. `Manifest`
adds what was counted and the sha256 of every other file, and is written last: its presence means "complete".
Unknown keys are refused. Source: FORMAT.md, "Manifest".
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reinforce.errors import SettingsError, StoreError
from reinforce.policy import Policy
from reinforce.views.seeds import block_order

SCHEMA_VERSION = 1
MAX_BYTES = 256 << 20
_FILE = re.compile(r"samples\.parquet|blocks/[0-9]{6}\.zarr/(zarr\.json|[a-z0-9_]+/(zarr\.json|c(/[0-9]+)+))")
_SHA256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Scalar = str | int | float | bool | None
M = TypeVar("M", bound=BaseModel)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def is_store_path(path: str) -> bool:
    """Whether a manifest may list a path: the sample table, or a file of a block."""
    return _FILE.fullmatch(path) is not None


class TeacherInfo(_Model):
    """One teacher of the ensemble."""

    name: str = Field(description="timm model name")
    kwargs: dict[str, _Scalar] = Field(description="arguments of timm.create_model beside the name")
    weights_sha256: _SHA256 | None = Field(description="over names, dtypes, shapes and bytes of all tensors; null: not known")
    num_classes: int = Field(ge=1)
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    class_map: list[int] | None = Field(description="teacher class of each class, softmax over these; null: all")


class SourceInfo(_Model):
    """What the images were read from; the location is not recorded, it differs from machine to machine."""

    kind: Literal["folder", "wds", "parquet", "npz", "torchvision"]
    num_samples: int = Field(ge=1, le=1 << 31)
    class_names: list[str] = Field(description="empty: unlabelled")
    index_sha256: _SHA256 = Field(description="hash over class names, keys and labels in order")


class Origin(_Model):
    """Where labels come from that were not generated here; what their pixels were is told, and not promised."""

    format: Literal["imagenet-plus", "fkd", "tinyvit", "relabel"]
    pixels: str = Field(description="what made the pixels that the teacher saw")
    replay: Literal["approximate", "none"] = Field(description="none: params of the views were not kept")
    options: dict[str, _Scalar] = Field(description="how ambiguous bytes were read")


@lru_cache(maxsize=4)
def _dealt(seed: int | None, num_samples: int) -> np.ndarray:
    return np.arange(num_samples) if seed is None else block_order(seed, num_samples)


class Settings(_Model):
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
    record_views: int = Field(default=64, ge=1, le=65535, description="views per record; the last one may have fewer")
    num_classes: int = Field(ge=1, le=1 << 24)
    block_size: int = Field(ge=1, le=1 << 20, description="samples per block; the last block may have fewer")
    origin: Origin | None = Field(default=None, description="of labels that were imported; null: generated")

    @model_validator(mode="after")
    def _check_maps(self) -> Settings:
        if self.has_maps and (self.views != 1 or self.policy.crop != "whole" or len(self.teachers) != 1):
            raise ValueError("label maps are of one teacher, one view, and the whole image")
        return self

    @property
    def has_maps(self) -> bool:
        """Whether a record is a label map of the whole image, and not the labels of views."""
        return self.codec.get("name") == "map"

    @property
    def is_dealt(self) -> bool:
        """Whether samples may stand in the blocks in any order."""
        return self.policy.mix is not None or self.origin is not None

    @property
    def probe_views(self) -> int:
        """Views that are probed, view `row % probe_views` of each row: those of the first record."""
        return min(self.views, self.record_views)

    @property
    def num_stripes(self) -> int:
        """Records of a sample, and stripes of views of a block."""
        return -(-self.views // self.record_views)

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.source.num_samples // self.block_size)

    def block_samples(self, block: int) -> np.ndarray:
        """Indices of the samples of a block, row by row: int64 `[S]`.

        They are dealt in random order where samples are mixed with others of their block: sorted folders would pair
        images of one class.
        """
        part = slice(block * self.block_size, (block + 1) * self.block_size)
        return _dealt(self.seed if self.policy.mix else None, self.source.num_samples)[part]


class Environment(_Model):
    """Versions of what makes pixels and labels. A difference explains a failed replay; it is not refused by itself."""

    reinforce: str
    torch: str
    timm: str
    numpy: str
    pillow: str
    simplejpeg: str
    machine: str


class Counts(_Model):
    """Samples by status."""

    ok: int = Field(ge=0)
    missing: int = Field(ge=0)
    corrupt: int = Field(ge=0)


class Statistics(_Model):
    """Means over all views of all ok samples, of the labels as stored; and what the codec lost, on some of them."""

    top1_probability: float
    remainder: float
    hard_label_agreement: float | None = Field(description="share of views whose top class is the hard label")
    codec_samples: int = Field(ge=0, description="samples on which the codec was measured, with all their views")
    codec_kl: float | None = Field(description="mean KL(teacher || stored) on them, nats")
    codec_top1_bias: float | None = Field(description="mean of stored less true probability of the teacher's top class")
    codec_image_bias: float | None = Field(description="mean L1 norm of a sample's mean over its views of stored less true")


class Manifest(_Model):
    """A complete reinforced dataset."""

    format: Literal["reinforce"] = "reinforce"
    schema_version: Literal[1] = 1
    settings: Settings
    environment: Environment
    counts: Counts
    statistics: Statistics
    params_fields: list[int] = Field(description="field id of each params column")
    files: dict[str, _SHA256]
    part_of: _SHA256 | None = Field(default=None, description="sha256 of the manifest that this is a part of")
    blocks: list[int] | None = Field(default=None, description="numbers of the blocks that are here, rising; null: all")

    @model_validator(mode="after")
    def _check_part(self) -> Manifest:
        here, count = self.blocks, self.settings.num_blocks
        if here is not None and self.part_of is None:
            raise ValueError("blocks without part_of")
        if here is not None and (not here or here != sorted(set(here)) or not 0 <= here[0] <= here[-1] < count):
            raise ValueError("blocks are not rising numbers of blocks of the data set")
        return self

    @field_validator("files")
    @classmethod
    def _known_paths_only(cls, files: dict[str, str]) -> dict[str, str]:
        for path in files:
            if not is_store_path(path):
                raise ValueError(f"{path!r} is no path of a reinforced dataset")
        return files


class Job(_Model):
    """`job.json`: what stands beside the blocks while a data set is generated; the manifest replaces it."""

    schema_version: Literal[1] = 1
    settings: Settings
    environment: Environment


def to_json(model: BaseModel) -> str:
    """Canonical text: two spaces, sorted by definition, a newline at the end."""
    return model.model_dump_json(indent=2) + "\n"


def read_model(kind: type[M], text: str | bytes, name: str) -> M:
    """Parse and validate.

    Raises:
        StoreError: too large, no JSON, unknown keys, or values out of range.
    """
    if len(text) > MAX_BYTES:
        raise StoreError(f"{name} is too large.", found=f"{len(text)} bytes", expected=f"at most {MAX_BYTES}")
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise StoreError(
            f"{name} is not valid.",
            found=f"{where}: {first['msg']}" + (f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""),
            expected=f"a file of schema version {SCHEMA_VERSION}, as in FORMAT.md",
            cause="it was edited, or made by a newer version",
        ) from None


def check_same_settings(existing: Settings, wanted: Settings, out: str) -> None:
    """Refuse to go on with an output that other settings made.

    Raises:
        SettingsError: names the first setting that differs, with both values.
    """
    old, new = _flatten(existing.model_dump()), _flatten(wanted.model_dump())
    # By text, which tells 1 from true, and null from nothing.
    differing = [k for k in {**old, **new} if (k in old, repr(old.get(k))) != (k in new, repr(new.get(k)))]
    if not differing:
        return
    # A hash says that something differs; name what it is a hash of by preferring every other difference.
    key = sorted(differing, key=lambda k: "sha256" in k)[0]
    cause = {
        "weights_sha256": "other weights",
        "index_sha256": "images, labels or class folders were added, removed or renamed",
    }
    raise SettingsError(
        f"{out} was made with another {key}.",
        found=f"{key} = {_short(old.get(key))} on disk, {_short(new.get(key))} asked for",
        expected="the same settings, to go on where it stopped",
        cause=cause.get(key.rpartition(".")[2], "a changed option"),
        fix="give the option its old value, or another --out",
    )


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
        items = {str(i): v for i, v in enumerate(value)}.items()
    else:
        return {prefix: list(value) if isinstance(value, tuple) else value}
    return {k: v for name, item in items for k, v in _flatten(item, f"{prefix}.{name}".lstrip(".")).items()}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."
