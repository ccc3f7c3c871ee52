"""Publication: the list of the files at a location to which a reinforced dataset was published, and entries of `manifests/`.

`publication.json` is written last; it has the size and sha256 of every file there. Blocks are published as bundles, one file
per block and stripe of views: a zip without compression. Pure: models only. Source: FORMAT.md, "Publication".
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from reinforce.settings import KIND, Model, Sha256

PUBLICATION = "publication.json"
CARD, CROISSANT, PREVIEW = "README.md", "croissant.json", "preview.parquet"
MAX_BUNDLE_BYTES = 8 << 30
_PLAIN = frozenset({"manifest.json", "samples.parquet", CARD, CROISSANT, PREVIEW})
_SHARD = re.compile(r"shards/[A-Za-z0-9._-]{1,100}\.tar")
NAME = r"^[a-z0-9][a-z0-9._-]{0,95}$"


class Entry(Model):
    """One file at the location."""

    sha256: Sha256
    bytes: int = Field(ge=0, le=1 << 42)


class Bundle(Model):
    """One file with a stripe of views of a block; the bundle of stripe 0 also has the block's files of no stripe."""

    block: int = Field(ge=0, le=999_999)
    stripe: int = Field(ge=0, le=65535)
    sha256: Sha256
    bytes: int = Field(ge=1, le=MAX_BUNDLE_BYTES)

    @property
    def path(self) -> str:
        """Its path at the location."""
        return bundle_path(self.block, self.stripe)


class Licences(Model):
    """Licences of three things that are easily confused: the labels, the images, and the teacher's weights."""

    labels: str = Field(default="not stated", max_length=200)
    images: str = Field(default="not stated", max_length=200)
    teacher: str = Field(default="not stated", max_length=200)


class Publication(Model):
    """The list of all published files."""

    format: Literal["reinforce-publication"] = "reinforce-publication"
    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME)
    licences: Licences
    files: dict[str, Entry]
    bundles: list[Bundle]

    @field_validator("files")
    @classmethod
    def _known_paths_only(cls, files: dict[str, Entry]) -> dict[str, Entry]:
        for path in files:
            if path not in _PLAIN and not _SHARD.fullmatch(path):
                raise ValueError(f"{path!r} is no path of a publication")
        missing = {"manifest.json", "samples.parquet"} - files.keys()
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))} is not listed")
        return files


class Known(Model):
    """An entry of `manifests/`: a reinforced dataset that one can pull, import, or make with `reinforce demo`."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME)
    description: str = Field(max_length=300)
    get: Literal["pull", "import", "demo"] = Field(description="which command brings it")
    locations: list[str] = Field(default=[], description="of the publication, tried in this order; or pages that tell where")
    publication_sha256: Sha256 | None = Field(default=None, description="of publication.json")
    import_format: str | None = Field(default=None, pattern=KIND, description="as `reinforce import` takes it")
    teachers: list[str] = Field(min_length=1)
    policy: str
    views: int | None = Field(ge=1, description="per image; null: as many as epochs were stored")
    samples: int = Field(ge=1)
    images: str = Field(description="which images they are of, and where one has them from")
    licences: Licences


def name_of(location: str) -> str:
    """The name that a data set at a location has if none is given: the last part of it."""
    return re.sub(r"[^a-z0-9._-]+", "-", location.rstrip("/").rpartition("/")[2].lower()).lstrip("._-")[:96] or "labels"


def bundle_path(block: int, stripe: int) -> str:
    """The path of a bundle at a location."""
    return f"blocks/{block:06d}.{stripe:03d}.zip"
