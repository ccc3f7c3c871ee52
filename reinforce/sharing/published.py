"""Published: what a location says of the data set that was published there: the list of its files, and its manifest."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import NamedTuple

from reinforce.errors import SourceError, StoreError
from reinforce.settings import read_model
from reinforce.sharing.fetch import differs, fetch_small
from reinforce.sharing.part import check_bundles
from reinforce.sharing.publication import PUBLICATION, Publication
from reinforce.sources.location import ServerDownError, exists, is_remote
from reinforce.sources.pack_manifest import PACK
from reinforce.store.manifest import Manifest
from reinforce.store.samples import Samples
from reinforce.store.store import JOB, MANIFEST, SAMPLES


class Published(NamedTuple):
    """A data set at a location.

    Attributes:
        publication: The list of its files.
        digest: sha256 of `publication.json`.
        manifest: Its manifest.
        text: Content of the manifest's file.
    """

    publication: Publication
    digest: str
    manifest: Manifest
    text: bytes

    @property
    def manifest_sha256(self) -> str:
        """Hash of the manifest's file."""
        return hashlib.sha256(self.text).hexdigest()


def published(location: str, expected: str | None = None) -> Published:
    """What is published at a location.

    Args:
        location: Folder or URL, without a slash at its end.
        expected: sha256 of `publication.json`, if known.

    Raises:
        StoreError: nothing is published there, or what is does not fit itself or the hash.
        SourceError: the location cannot be read.
    """
    try:
        text = fetch_small(f"{location}/{PUBLICATION}", None)
    except SourceError as error:
        if isinstance(error, ServerDownError) or exists(f"{location}/{PUBLICATION}"):
            raise
        raise _nothing(location) from None
    digest = hashlib.sha256(text).hexdigest()
    if expected is not None and digest != expected:
        raise differs(PUBLICATION, digest, expected)
    publication = read_model(Publication, text, PUBLICATION)
    manifest_text = fetch_small(f"{location}/{MANIFEST}", publication.files[MANIFEST])
    manifest = read_model(Manifest, manifest_text, MANIFEST)
    check_bundles(manifest, publication)
    return Published(publication, digest, manifest, manifest_text)


def published_samples(location: str, about: Published) -> Samples:
    """The table of samples of a data set at a location.

    Raises:
        StoreError: it is not the table that was published, or damaged.
        SourceError: it cannot be read.
    """
    return check_samples(fetch_small(f"{location}/{SAMPLES}", about.publication.files[SAMPLES]), about)


def check_samples(content: bytes, about: Published) -> Samples:
    """Read a table of samples that has the hash which `publication.json` lists.

    Raises:
        StoreError: the manifest lists another one, or it is damaged.
    """
    settings, sha256 = about.manifest.settings, about.publication.files[SAMPLES].sha256
    table = Samples.from_parquet(BytesIO(content), settings.source.num_samples, settings.block_size, settings.any_order)
    if sha256 != about.manifest.files.get(SAMPLES):
        raise differs(SAMPLES, sha256, about.manifest.files.get(SAMPLES, "0" * 64))
    return table


def is_published(labels: str) -> bool:
    """Whether labels are at a URL, and not in shards, whose images are read there.

    Raises:
        StoreError: it is a URL with neither.
        SourceError: a server that does not answer, or fails.
    """
    if not is_remote(labels) or labels.startswith("wds:") or labels.endswith(".tar"):
        return False
    place = labels.rstrip("/")
    if exists(f"{place}/{PUBLICATION}"):
        return True
    if exists(f"{place}/{PACK}"):
        return False
    raise _nothing(place)


def _nothing(location: str) -> StoreError:
    if exists(f"{location}/{JOB}"):
        return StoreError(
            f"{location} is not complete yet.",
            found=f"{JOB} and no {PUBLICATION}",
            expected="a finished `reinforce generate`",
            cause="generation was interrupted, or is still running",
            fix="run the same `reinforce generate` again: it does the missing blocks only",
        )
    return StoreError(
        f"No labels are published at {location}.",
        found=f"no {PUBLICATION}",
        expected="a folder or URL to which `reinforce publish` or `generate --out` wrote",
        cause="a wrong address, or no permission to read it",
        fix="check the address, and the credentials that the client of its protocol reads",
    )
