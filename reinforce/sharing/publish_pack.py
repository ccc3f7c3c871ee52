"""Publish a pack: its shards, unchanged, with their images, whose owners must allow it; and pull one, every file checked."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path

from reinforce.errors import SettingsError, SourceError, StoreError, UsageError
from reinforce.files import (
    Progress,
    check_output,
    file_sha256,
    make_folder,
    read_at_most,
    replacing,
    write_atomic,
    write_pieces,
    writing,
)
from reinforce.locks import only_writer
from reinforce.packs.packed_store import labels_manifest
from reinforce.settings import read_model
from reinforce.sharing.card import card
from reinforce.sharing.fetch import differs, fetch_all, fetch_pieces, fetch_small
from reinforce.sharing.publication import CARD, Licences
from reinforce.sharing.target import open_target
from reinforce.sources.pack_manifest import PACK, Pack
from reinforce.store.store import read_small_file


def pack_files(pack: Pack) -> dict[str, str]:
    """Path to sha256 of all files of a pack except `pack.json`."""
    return {**pack.files, **{shard.name: shard.sha256 for shard in pack.shards}}


def publish_pack(
    root: Path, to: str, name: str, licences: Licences, on_progress: Progress = lambda done, total: None
) -> dict[str, int]:
    """Send the files of a pack, `pack.json` last; returns path to size in bytes.

    Raises:
        StoreError: a file does not have the hash that `pack.json` lists, or the target cannot be written.
        UsageError: the shards have no labels.
    """
    text = read_small_file(root / PACK) or b""
    pack = read_model(Pack, text, PACK)
    manifest = labels_manifest(pack)
    if manifest is None:
        raise UsageError(f"There are no labels in {root}.", found="images alone", fix="reinforce pack LABELS --data SOURCE")
    files, sent = pack_files(pack), {}
    target = open_target(to)
    try:
        for done, (path, expected) in enumerate(sorted(files.items())):
            on_progress(done, len(files))
            if not (root / path).is_file() or file_sha256(root / path) != expected:
                raise StoreError(f"{path} is not the file of the pack.", cause="it was changed", fix=f"reinforce verify {root}")
            target.put_file(path, root / path)
            sent[path] = (root / path).stat().st_size
        about = card(manifest, name, licences, sum(sent.values()), to, with_images=True).encode()
        target.put(CARD, about)
        target.put(PACK, text)
        on_progress(len(files), len(files))
        target.finish()
    except BaseException:
        target.abandon()
        raise
    return sent | {CARD: len(about), PACK: len(text)}


def pull_pack(location: str, text: bytes, out: Path, jobs: int, on_progress: Progress = lambda done, total: None) -> int:
    """Fetch a published pack; files that exist already with the right hash are kept. Returns the bytes fetched by this call.

    Args:
        location: Folder or URL.
        text: Content of the `pack.json` there.
        out: Folder to write.
        jobs: Files that are fetched at once.
        on_progress: Called after each file.

    Raises:
        StoreError: a file does not have the published hash.
        SettingsError: `out` has another pack.
        Interrupted: Ctrl-C.
    """
    pack = read_model(Pack, text, PACK)
    labels_manifest(pack)  # an invalid one is refused before anything is fetched
    files, sizes = pack_files(pack), {shard.name: shard.bytes for shard in pack.shards}
    with writing(out):
        check_output(out, allowed={p.partition("/")[0] for p in files} | {PACK, CARD})
        if (out / PACK).exists() and read_at_most(out / PACK, len(text)) != text:
            raise SettingsError(f"{out} has another pack.", found=PACK, expected="this one", fix="choose another --out")
        make_folder(out)
        done = fetched = 0

        def count(bytes_: int) -> None:
            nonlocal done, fetched
            done, fetched = done + 1, fetched + bytes_
            on_progress(done, len(files))

        with only_writer(out):
            wanted = [(path, sha, sizes.get(path)) for path, sha in sorted(files.items())]
            fetch_all(jobs, [partial(_pull_file, location, *file, out) for file in wanted], count)
            with suppress(SourceError):  # the card is for people: it is not in the list of files, and may be missing
                write_atomic(out / CARD, fetch_small(f"{location}/{CARD}", None))
            write_atomic(out / PACK, text)
    return fetched


def _pull_file(location: str, path: str, expected: str, size: int | None, out: Path) -> int:
    final = out / path
    if final.is_file() and file_sha256(final) == expected:
        return 0
    make_folder(final.parent)
    with replacing(final) as temporary:
        with open(temporary, "wb") as file:
            found, length = write_pieces(file, fetch_pieces(f"{location}/{path}", size))
        if found != expected:
            raise differs(path, found, expected)
    return length
