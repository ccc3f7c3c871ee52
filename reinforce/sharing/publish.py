"""Publish: copy a reinforced dataset to a place that others can read. Images are never copied."""

from __future__ import annotations

import datetime
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reinforce.errors import StoreError, UsageError
from reinforce.files import Progress, file_sha256
from reinforce.settings import read_model, to_json
from reinforce.sharing.bundle import files_by_bundle, make_bundle
from reinforce.sharing.card import card, croissant
from reinforce.sharing.preview import preview
from reinforce.sharing.publication import (
    CARD,
    CROISSANT,
    PREVIEW,
    PUBLICATION,
    Bundle,
    Entry,
    Licences,
    Publication,
    bundle_path,
)
from reinforce.sharing.target import Target, open_target
from reinforce.sources.pack_manifest import PACK, Pack
from reinforce.store.block import block_path
from reinforce.store.manifest import Manifest
from reinforce.store.store import MANIFEST, SAMPLES, Store, read_small_file


@dataclass(frozen=True)
class Listed:
    """The files to publish, path to size in bytes; the size of a bundle is the sum of the files in it."""

    files: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.files.values())


def list_publication(root: Path) -> Listed:
    """The files that `publish` would send, with sizes on disk. Card, preview and `publication.json` are not made yet: size 0.

    Raises:
        StoreError: not a complete reinforced dataset, or files are missing.
    """
    store = Store(root)
    files = {name: _size(root / name) for name in (MANIFEST, SAMPLES)}
    for (block, stripe), inside in sorted(files_by_bundle(store.manifest.files).items()):
        files[bundle_path(block, stripe)] = sum(_size(block_path(root, block) / name) for name in inside)
    return Listed(files | dict.fromkeys((CARD, CROISSANT, PREVIEW, PUBLICATION), 0))


def list_pack(root: Path) -> Listed:
    """The files that `publish_pack` would send.

    Raises:
        StoreError: not a pack, or files are missing.
    """
    pack = read_model(Pack, read_small_file(root / PACK) or b"", PACK)
    names = [shard.name for shard in pack.shards] + sorted(pack.files)
    return Listed({name: _size(root / name) for name in names} | {CARD: 0, PACK: _size(root / PACK)})


def publish(
    root: Path, to: str, name: str, licences: Licences, on_progress: Progress = lambda done, total: None
) -> Publication:
    """Publish a reinforced dataset; `publication.json`, the list of its files, is sent last.

    Args:
        root: Folder of the data set.
        to: A folder, a URL that fsspec writes to, or `hf://datasets/USER/NAME`.
        name: Name of the data set, `[a-z0-9._-]`.
        licences: Licences of labels, images and teacher.
        on_progress: Called with the number of bundles sent, and of all bundles.

    Raises:
        StoreError: the data set is damaged, or the target cannot be written.
        UsageError: nothing can be published to `to`.
    """
    store = Store(root)
    manifest = store.manifest
    if SAMPLES not in manifest.files:
        raise StoreError(
            f"{root / MANIFEST} is not valid.",
            found=f"no {SAMPLES} in its list of files",
            expected="the hash of every file: a copy of the table could not be checked",
            cause="it was edited",
            fix="get the data set again, or bring back its manifest",
        )
    if file_sha256(root / SAMPLES) != manifest.files[SAMPLES]:
        raise StoreError(f"{SAMPLES} is not the file of the manifest.", cause="it was changed", fix=f"reinforce verify {root}")
    if Path(to).resolve() == root.resolve():
        raise UsageError("A data set cannot be published onto itself.", found=to, fix="choose another --to")
    target = open_target(to)
    try:
        wanted = sorted(files_by_bundle(manifest.files).items())
        bundles = []
        for done, ((block, stripe), inside) in enumerate(wanted):
            on_progress(done, len(wanted))
            content = make_bundle(block_path(root, block), inside)
            bundles.append(Bundle(block=block, stripe=stripe, sha256=_sha256(content), bytes=len(content)))
            target.put(bundles[-1].path, content)
        plain = {MANIFEST: (root / MANIFEST).read_bytes(), SAMPLES: (root / SAMPLES).read_bytes(), PREVIEW: preview(store)}
        publication = put_description(target, Description(name, licences, to, bundles), manifest, plain)
        on_progress(len(wanted), len(wanted))
        target.finish()
    except BaseException:
        target.abandon()
        raise
    return publication


class Description(NamedTuple):
    """What a publisher says of a data set, and the bundles that were put.

    Attributes:
        name: Name of the data set, `[a-z0-9._-]`.
        licences: Licences of labels, images and teacher.
        location: Where it is published.
        bundles: All of them.
    """

    name: str
    licences: Licences
    location: str
    bundles: list[Bundle]


def put_description(target: Target, about: Description, manifest: Manifest, plain: dict[str, bytes]) -> Publication:
    """Put all files that are no bundles, `publication.json` last.

    Args:
        target: Where the bundles are already.
        about: What card and Croissant metadata say.
        manifest: Of the data set.
        plain: Content of the manifest's file, the table of samples and the preview, by path.
    """
    name, licences, to, bundles = about
    size = sum(map(len, plain.values())) + sum(b.bytes for b in bundles)
    described = {path: plain[path] for path in (SAMPLES, PREVIEW)}
    files = dict(plain)
    files[CROISSANT] = croissant(manifest, name, licences, described, to, datetime.date.today().isoformat())
    files[CARD] = card(manifest, name, licences, size, to).encode()
    for path, content in files.items():
        target.put(path, content)
    entries = {path: Entry(sha256=_sha256(content), bytes=len(content)) for path, content in files.items()}
    publication = Publication(name=name, licences=licences, files=entries, bundles=bundles)
    target.put(PUBLICATION, to_json(publication).encode())
    return publication


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise StoreError(f"{path} cannot be read.", found=error.strerror, fix="reinforce verify DIR") from None
