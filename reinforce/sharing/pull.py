"""Pull: fetch a published data set, or a part of it. Everything is checked before it is used.

The unit is the block: it is fetched, checked and unpacked under a name with a leading dot, then renamed. If a pull is killed,
the same command fetches the blocks that are missing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from reinforce.errors import SettingsError, StoreError
from reinforce.files import (
    Progress,
    check_output,
    make_folder,
    read_at_most,
    remove,
    replacing,
    write_atomic,
    write_pieces,
    writing,
)
from reinforce.locks import only_writer
from reinforce.settings import read_model, to_json
from reinforce.sharing.bundle import files_by_bundle, unpack_bundle
from reinforce.sharing.fetch import differs, fetch_all, fetch_pieces, fetch_small
from reinforce.sharing.part import part_of
from reinforce.sharing.publication import CARD, CROISSANT, PREVIEW, Bundle
from reinforce.sharing.published import Published, check_samples, published
from reinforce.store.block import block_path, committed_blocks, remove_staging
from reinforce.store.manifest import Manifest
from reinforce.store.store import MANIFEST, SAMPLES, Store, read_small_file

PULL = "pull.json"


class PullState(BaseModel):
    """`pull.json`: says what is being pulled; removed when the pull is complete."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    publication_sha256: str
    views: int
    blocks: list[int] | None


@dataclass(frozen=True)
class Pulled:
    """The result of a pull.

    Attributes:
        manifest: Manifest of the data set in `out`.
        fetched: Bytes that this pull transferred.
        total: Bytes of the whole publication.
    """

    manifest: Manifest
    fetched: int
    total: int


def pull(
    location: str,
    out: Path,
    *,
    views: int | None = None,
    blocks: Sequence[int] | None = None,
    jobs: int = 8,
    expected: str | None = None,
    on_progress: Progress = lambda done, total: None,
) -> Pulled:
    """Fetch a published data set.

    Args:
        location: Folder or URL that has `publication.json`.
        out: Folder to write; if an interrupted pull of the same data is in it, that one is continued.
        views: The first so many views, rounded up to whole stripes; default: all.
        blocks: Numbers of blocks; default: all.
        jobs: Files that are fetched at once.
        expected: sha256 of `publication.json`, if known.
        on_progress: Called with bytes after each file; blocks that already exist count as done.

    Raises:
        StoreError: a file does not have its published hash or content; it is not kept.
        SettingsError: `out` has another data set, or another part.
        SourceError: the location cannot be read.
        UsageError: the data set does not have these views or blocks.
        Interrupted: Ctrl-C; what was fetched is kept.
    """
    location = location.rstrip("/")
    there = published(location, expected)
    manifest = part_of(there.manifest, there.manifest_sha256, views, blocks)
    state = PullState(publication_sha256=there.digest, views=manifest.settings.views, blocks=manifest.blocks)
    with writing(out):
        check_output(out, marks=(MANIFEST, PULL), allowed=("blocks",))
        created, new = not (out / PULL).exists() and not (out / MANIFEST).exists(), not out.exists()
        make_folder(out / "blocks")
        try:
            with only_writer(out):
                try:
                    return _pull_locked(location, there, manifest, state, out, jobs, on_progress)
                except StoreError:
                    _leave_nothing(out, created)
                    raise
        finally:
            if new:
                with suppress(OSError):  # it is not empty
                    out.rmdir()


def _pull_locked(
    location: str,
    there: Published,
    manifest: Manifest,
    state: PullState,
    out: Path,
    jobs: int,
    on_progress: Progress,
) -> Pulled:
    publication, _, whole, manifest_text = there
    total = sum(e.bytes for e in publication.files.values()) + sum(b.bytes for b in publication.bundles)
    final = manifest_text if manifest is whole else to_json(manifest).encode()
    if (out / MANIFEST).exists():
        if read_at_most(out / MANIFEST, len(final)) != final:
            raise _another(out)
        listed = range(manifest.settings.num_blocks) if manifest.blocks is None else manifest.blocks
        if set(listed) <= committed_blocks(out):
            Store(out)  # fails if its table was damaged since
            (out / PULL).unlink(missing_ok=True)  # left behind if a pull was killed between its last two steps
            return Pulled(manifest, 0, total)
        write_atomic(out / PULL, to_json(state).encode())  # a damaged block was removed
        (out / MANIFEST).unlink()
    existing = read_small_file(out / PULL)
    if existing is None:
        if committed_blocks(out):
            raise _another(out)
        write_atomic(out / PULL, to_json(state).encode())
    elif (old := read_model(PullState, existing, PULL)) != state:
        raise _another(out, old, state)
    remove_staging(out)
    wanted: dict[int, list[Bundle]] = {}
    here = set(range(whole.settings.num_blocks)) if manifest.blocks is None else set(manifest.blocks)
    for bundle in publication.bundles:
        if bundle.block in here and bundle.stripe < manifest.settings.num_stripes:
            wanted.setdefault(bundle.block, []).append(bundle)
    inside = files_by_bundle(whole.files)
    plain = {path: entry for path, entry in publication.files.items() if path in (SAMPLES, CARD, CROISSANT, PREVIEW)}
    todo = sum(e.bytes for e in plain.values()) + sum(b.bytes for each in wanted.values() for b in each)
    done = sum(b.bytes for block in committed_blocks(out) & wanted.keys() for b in wanted[block])
    fetched = len(manifest_text)
    on_progress(done, todo)
    for path, entry in plain.items():
        content = fetch_small(f"{location}/{path}", entry)
        if path == SAMPLES:
            check_samples(content, there)
        write_atomic(out / path, content)
        done, fetched = done + entry.bytes, fetched + entry.bytes
        on_progress(done, todo)
    Store(out, manifest)  # fails if it cannot be opened, before the blocks are fetched
    missing = sorted(wanted.keys() - committed_blocks(out))

    def count(bytes_: int) -> None:
        nonlocal done, fetched
        done, fetched = done + bytes_, fetched + bytes_
        on_progress(done, todo)

    fetch_all(jobs, [partial(fetch_block, location, wanted[block], inside, out) for block in missing], count)
    write_atomic(out / MANIFEST, final)
    (out / PULL).unlink()
    return Pulled(manifest, fetched, total)


def _leave_nothing(out: Path, created: bool) -> None:
    """After a refusal, remove what this pull wrote, unless there are blocks, which had their hashes: they are kept."""
    if created and not committed_blocks(out):
        for name in (MANIFEST, PULL, SAMPLES, CARD, CROISSANT, PREVIEW, "blocks"):
            remove(out / name)


def fetch_block(location: str, bundles: list[Bundle], inside: dict[tuple[int, int], dict[str, str]], out: Path) -> int:
    """Fetch one block, or some stripes of one, and commit it.

    Args:
        location: Folder or URL of the publication.
        bundles: Those of the block.
        inside: sha256 of the files in each bundle, by block and stripe, by path in the block.
        out: Folder of the data set; it has a folder `blocks`.

    Returns:
        The bytes that were fetched.

    Raises:
        StoreError: a bundle does not have its published hash, or other files.
        SourceError: it cannot be read.
    """
    with replacing(block_path(out, bundles[0].block)) as staging:
        for bundle in bundles:
            with tempfile.TemporaryFile(dir=out) as file:
                found, _ = write_pieces(file, fetch_pieces(f"{location}/{bundle.path}", bundle.bytes))
                if found != bundle.sha256:
                    raise differs(bundle.path, found, bundle.sha256)
                file.seek(0)
                unpack_bundle(file, inside[bundle.block, bundle.stripe], staging)
    return sum(b.bytes for b in bundles)


def _another(out: Path, old: PullState | None = None, new: PullState | None = None) -> SettingsError:
    return SettingsError(
        f"{out} has another data set, or another part of this one.",
        found=_in_words(old) if old else MANIFEST,
        expected=_in_words(new) if new else "this one",
        fix="choose another --out, or remove the folder",
    )


def _in_words(state: PullState) -> str:
    return f"{state.views} views, blocks {state.blocks or 'all'}, publication {state.publication_sha256[:12]}"
