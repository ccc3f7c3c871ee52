"""Manifest: the JSON that describes a reinforced dataset completely. Pure: text in, validated model out, and back.

`Manifest` adds counts, statistics and the sha256 of every other file to the settings. It is written last: its presence means
"complete". Source: FORMAT.md, "Manifest".
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from reinforce.errors import SettingsError, shown
from reinforce.labels.label_kind import kind_of
from reinforce.settings import Model, Settings, Sha256

_FILE = re.compile(r"samples\.parquet|blocks/[0-9]{6}\.zarr/(zarr\.json|[a-z0-9_]+/(zarr\.json|c(/[0-9]+)+))")


def is_store_path(path: str) -> bool:
    """Whether a manifest may list a path: the sample table, or a file of a block."""
    return _FILE.fullmatch(path) is not None


class Environment(Model):
    """Versions of the software that makes pixels and labels. They may explain a failed replay; others are not refused."""

    reinforce: str
    torch: str
    timm: str
    numpy: str
    pillow: str
    simplejpeg: str
    machine: str


def _fitting(settings: Settings) -> Settings:
    """Refuse settings that do not fit their kind of labels, or each other."""
    fault = kind_of(settings.codec).fault(settings.policy, settings.views, len(settings.teachers))
    if fault is not None:
        raise ValueError(fault)
    names = len(settings.source.class_names)
    if names and names != settings.num_classes:
        raise ValueError(f"{names} class names for {settings.num_classes} classes")
    return settings


FittingSettings = Annotated[Settings, AfterValidator(_fitting)]


class Counts(Model):
    """Samples by status."""

    ok: int = Field(ge=0)
    missing: int = Field(ge=0)
    corrupt: int = Field(ge=0)


class Statistics(Model):
    """Means of the stored labels over all views of all ok samples, and the codec's error, measured on some of these samples."""

    top1_probability: float | None = Field(description="null: labels that are no distributions over classes")
    remainder: float | None = Field(description="as top1_probability")
    hard_label_agreement: float | None = Field(description="share of views whose top class is the hard label")
    codec_samples: int = Field(ge=0, description="samples on which the codec was measured, with all their views")
    codec_kl: float | None = Field(description="mean KL(teacher || stored) on them, nats; null: infinite")
    codec_top1_bias: float | None = Field(description="mean of stored less true probability of the teacher's top class")
    codec_image_bias: float | None = Field(description="mean L1 norm of a sample's mean over its views of stored less true")


class Manifest(Model):
    """A complete reinforced dataset."""

    format: Literal["reinforce"] = "reinforce"
    schema_version: Literal[1] = 1
    settings: FittingSettings
    environment: Environment
    counts: Counts
    statistics: Statistics
    params_fields: list[int] = Field(description="field id of each params column")
    files: dict[str, Sha256]
    part_of: Sha256 | None = Field(default=None, description="sha256 of the manifest that this is a part of")
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
                raise ValueError(f"{shown(path)} is no path of a reinforced dataset")
        return files


class Job(Model):
    """`job.json`: lies beside the blocks while a data set is generated; the manifest replaces it."""

    schema_version: Literal[1] = 1
    settings: FittingSettings
    environment: Environment


def check_same_settings(existing: Settings, wanted: Settings, out: str) -> None:
    """Refuse to continue an output that was made with other settings.

    Raises:
        SettingsError: names the first setting that differs, with both values.
    """
    old, new = _flatten(existing.model_dump(by_alias=False)), _flatten(wanted.model_dump(by_alias=False))
    # Compared as text, because 1 == True in Python; and by presence, because a key with null is not an absent key.
    differing = [k for k in {**old, **new} if (k in old, repr(old.get(k))) != (k in new, repr(new.get(k)))]
    if not differing:
        return
    # A differing hash does not say what differs: name a setting that is no hash, if there is one.
    key = min(differing, key=lambda k: "sha256" in k)
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
