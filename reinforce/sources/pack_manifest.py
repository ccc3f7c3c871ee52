"""Pack manifest: `pack.json`, which describes a folder of webdataset shards with or without labels. Reads no files.

Source: FORMAT.md, "Packs".
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from reinforce.settings import Model, Sha256

PACK = "pack.json"
INDEX = "index.parquet"
CLASS_NAMES = "class_names.json"
"""A JSON list beside the shards: the name of class i is its item i."""
_SHARD = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,100}\.tar$"
_FILE = re.compile(r"samples\.parquet|index\.parquet|class_names\.json|mixing/[0-9]{6}\.[0-9]{3}\.bin")


class Shard(Model):
    """One shard."""

    name: str = Field(pattern=_SHARD)
    sha256: Sha256
    bytes: int = Field(ge=1024, le=1 << 42)
    samples: int = Field(ge=1)

    @model_validator(mode="after")
    def _has_room(self) -> Shard:
        if 512 * self.samples > self.bytes:
            raise ValueError(f"{self.samples} samples in {self.bytes} bytes: each has a header of 512")
        return self


class Pack(Model):
    """The content of `pack.json`. It is written last, so its presence means that the pack is complete."""

    format: Literal["reinforce-pack"] = "reinforce-pack"
    schema_version: Literal[1] = 1
    num_samples: int = Field(ge=1, le=1 << 31)
    resize: int | None = Field(default=None, ge=8, le=65535, description="shorter side of the images; null: as it was")
    quality: int | None = Field(default=None, ge=1, le=100, description="of the JPEGs that were made; null: bytes as they were")
    labels: dict[str, Any] | None = Field(description="manifest of the labels in the shards, read by `packs`; null: none are")
    labels_sha256: Sha256 | None = Field(description="of that data set's manifest.json")
    shards: list[Shard] = Field(min_length=1)
    files: dict[str, Sha256] = Field(description="every other file")

    @field_validator("files")
    @classmethod
    def _known_paths_only(cls, files: dict[str, str]) -> dict[str, str]:
        for path in files:
            if not _FILE.fullmatch(path):
                raise ValueError(f"{path!r} is no path of a pack")
        if INDEX not in files:
            raise ValueError(f"{INDEX} is not listed")
        return files

    @model_validator(mode="after")
    def _check(self) -> Pack:
        names = [s.name for s in self.shards]
        if len(set(names)) != len(names) or sum(s.samples for s in self.shards) != self.num_samples:
            raise ValueError("shards with one name, or another number of samples in them")
        labelled = self.labels is not None
        if labelled != (self.labels_sha256 is not None) or (labelled and "samples.parquet" not in self.files):
            raise ValueError("labels without their table or hash")
        return self
