"""Pack: writes images with their params and labels as webdataset shards.

Any webdataset user can stream the shards, and Reinforce can train from them. Each shard is written completely and then renamed,
so a run that was killed continues with the shard that it had not finished. Equal input gives equal bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import webdataset
from PIL import Image

from reinforce.errors import ImageError, SettingsError, SourceError, UsageError
from reinforce.files import Progress, check_output, file_sha256, make_folder, replacing, write_atomic, writing
from reinforce.locks import only_writer
from reinforce.memory import shortage
from reinforce.packs.columns import compress_columns, join_frames
from reinforce.packs.pack_order import Order, PackItem, ReinFiles, escaped, unescaped
from reinforce.packs.pair_files import mixing_path
from reinforce.settings import to_json
from reinforce.sources.location import File
from reinforce.sources.pack_folder import INDEX_SCHEMA
from reinforce.sources.pack_manifest import CLASS_NAMES, INDEX, PACK, Pack, Shard
from reinforce.sources.source import Source, check_outside
from reinforce.sources.table_guard import repeated
from reinforce.sources.tar_members import scan
from reinforce.store.probes import read_checked
from reinforce.store.store import MANIFEST, SAMPLES, Store, read_small_file
from reinforce.views.decode import decode
from reinforce.views.mix import MIX_FIELDS

JOB = "pack.job.json"
_SUFFIXES = (
    (b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"P5", "pgm"), (b"P6", "ppm"), (b"BM", "bmp"),
    (b"II*\0", "tif"), (b"MM\0*", "tif"),
)  # fmt: skip


@dataclass(frozen=True)
class Options:
    """How to pack.

    Attributes:
        shard_bytes: A shard ends with the first sample that reaches this size; mixed samples: with the end of their block.
        resize: Shorter side in pixels to which larger images are resized; None: images stay unchanged.
        quality: JPEG quality of resized images.
    """

    shard_bytes: int = 500_000_000
    resize: int | None = None
    quality: int = 92


def pack(
    source: Source, labels: Path | None, out: Path, options: Options, on_progress: Progress = lambda done, total: None
) -> Pack:
    """Pack a source, with the labels of a reinforced dataset or without.

    Args:
        source: The images.
        labels: The reinforced dataset; only images that it has labels of are packed. None: all images, without labels.
        out: Folder to write; it may hold an interrupted run of the same pack.
        options: Sizes of shards and images.
        on_progress: Called with the number of samples that are done, and of all samples.

    Raises:
        UsageError: images would be resized, but their labels belong to the original images; or `out` is inside of the source.
        SourceError: images are missing, or a key is not a safe path in a tar.
        ReplayError: an image is not the one from which its labels were made.
        SettingsError: `out` contains something else.
    """
    if labels is not None and options.resize is not None:
        raise UsageError(
            "Labels belong to the images as they were.",
            found=f"--resize {options.resize} with {labels}",
            expected="labels that were generated from resized images",
            fix=f"reinforce pack --data SOURCE --resize {options.resize} --out SHARDS, then generate from these",
        )
    check_outside(source, out)
    store = None if labels is None else Store(labels)
    with writing(out):
        check_output(out, marks=(PACK, JOB))
        make_folder(out)
        with only_writer(out):
            return _pack_locked(source, store, out, options, on_progress)


def _pack_locked(source: Source, store: Store | None, out: Path, options: Options, on_progress: Progress) -> Pack:
    job = _job(source, store, options)
    if (out / JOB).exists() or (out / PACK).exists():
        found = (read_small_file(out / JOB) or b"").decode(errors="replace") if (out / JOB).exists() else f"a complete {PACK}"
        if found != job:
            raise SettingsError(f"{out} has another pack.", found=found, expected=job, fix="choose another --out")
    write_atomic(out / JOB, job.encode())
    on_progress(0, len(source) if store is None else len(store.ok_samples))
    order = Order.of(source, store)
    contents = _Contents(source, store, order, options)
    shards: list[Shard] = []
    tables: list[pa.Table] = []
    done = 0
    while done < len(order):
        path = out / f"shards-{len(shards):06d}.tar"
        if not path.exists():
            _write_shard(path, contents, order, done, options.shard_bytes, on_progress)
        members = scan(File.open(str(path)))
        tables.append(members)
        shards.append(Shard(name=path.name, sha256=file_sha256(path), bytes=path.stat().st_size, samples=len(members)))
        done = order.end_of([unescaped(key) for key in members["key"].to_pylist()], done)
        on_progress(done, len(order))
    files = _side_files(source, store, tables)
    for name, content in files.items():
        make_folder((out / name).parent)
        write_atomic(out / name, content)
    manifest = None
    if store is not None:
        manifest = store.manifest.model_copy(update={"files": {SAMPLES: hashlib.sha256(files[SAMPLES]).hexdigest()}})
    made = Pack(
        num_samples=sum(map(len, tables)),
        resize=options.resize,
        quality=options.quality if options.resize else None,
        labels=None if manifest is None else manifest.model_dump(mode="json"),
        labels_sha256=None if store is None else file_sha256(store.root / MANIFEST),
        shards=shards,
        files={name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    )
    write_atomic(out / PACK, to_json(made).encode())
    (out / JOB).unlink()
    return made


def _job(source: Source, store: Store | None, options: Options) -> str:
    """The settings of a pack, as one line of JSON; an interrupted pack continues only if they are equal."""
    labels = None if store is None else file_sha256(store.root / MANIFEST)
    quality = options.quality if options.resize else None
    sizes = {"shard_bytes": options.shard_bytes, "resize": options.resize, "quality": quality}
    return json.dumps({"source": source.index_sha256(), "labels": labels, **sizes})


def _write_shard(path: Path, contents: _Contents, order: Order, first: int, shard_bytes: int, on_progress: Progress) -> None:
    """Write the shard that begins with item `first`."""
    tar = {"encoder": False, "mtime": 0, "format": "PAX_FORMAT", "user": "", "group": ""}
    with (
        replacing(path) as temporary,
        open(temporary, "wb") as file,
        webdataset.TarWriter(file, **tar) as writer,
    ):
        for number in range(first, len(order)):
            on_progress(number, len(order))
            item = order.item(number)
            writer.write({"__key__": escaped(item.key), **contents.members(item)})
            if file.tell() >= shard_bytes and order.may_end(number + 1):
                break


class _Contents:
    """Makes the content of the members of a sample."""

    def __init__(self, source: Source, store: Store | None, order: Order, options: Options) -> None:
        self.source, self.store, self.options = source, store, options
        self.reins = None if store is None else ReinFiles(store, order)

    def members(self, item: PackItem) -> dict[str, bytes]:
        encoded = self._image(item)
        members = {suffix_of(encoded): encoded}
        label = self.source.label(item.position) if self.store is None else int(self.store.samples.labels[item.sample])
        if label is not None and label >= 0:
            members["cls"] = str(label).encode()
        if self.reins is not None:
            members["rein"] = self.reins.of(item)
        return members

    def _image(self, item: PackItem) -> bytes:
        if self.store is not None:
            return read_checked(self.source, item.position, self.store.samples.sha256[item.sample])
        try:
            encoded = self.source.read(item.position)
        except OSError as error:
            if (short := shortage(error)) is not None:
                raise short from None
            found = f"{error.strerror or error}: {self.source.where(item.position)}"
            raise SourceError(f"Image {item.key} cannot be read.", found=found, fix="bring it back, or remove it") from None
        return encoded if self.options.resize is None else resized(encoded, self.options.resize, self.options.quality)


def resized(encoded: bytes, shorter: int, quality: int) -> bytes:
    """An image as a JPEG whose shorter side is `shorter` pixels; unchanged if it is not larger, or cannot be decoded."""
    try:
        pixels = decode(encoded)
    except ImageError:
        return encoded
    height, width = pixels.shape[:2]
    if min(height, width) <= shorter:
        return encoded
    scale = shorter / min(height, width)
    size = (max(shorter, round(width * scale)), max(shorter, round(height * scale)))
    sink = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0).save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def suffix_of(encoded: bytes) -> str:
    """The file suffix for an encoded image, from its first bytes; `jpg` if they are unknown."""
    if encoded[:4] == b"RIFF" and encoded[8:12] == b"WEBP":
        return "webp"
    return next((suffix for start, suffix in _SUFFIXES if encoded.startswith(start)), "jpg")


def _side_files(source: Source, store: Store | None, tables: list[pa.Table]) -> dict[str, bytes]:
    """Content of the files beside the shards, except for the manifest; `tables` are the members of each shard."""
    members = pa.concat_tables(tables).combine_chunks()
    keys = members["key"]
    if pc.any(pc.match_substring(keys, "%")).as_py():
        keys = pa.array([unescaped(key) for key in keys.to_pylist()], pa.string())
    shard = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
    columns = [keys, pa.array(shard), *(members[name] for name in INDEX_SCHEMA.names[2:])]
    sink = io.BytesIO()
    table = pa.table(columns, schema=INDEX_SCHEMA).combine_chunks()
    pq.write_table(table, sink, compression="zstd", use_dictionary=repeated(INDEX_SCHEMA))
    files = {INDEX: sink.getvalue()}
    names = source.class_names if store is None else store.settings.source.class_names
    if names:
        files[CLASS_NAMES] = (json.dumps(list(names)) + "\n").encode()
    if store is not None:
        files[SAMPLES] = (store.root / SAMPLES).read_bytes()
        if store.settings.policy.mix is not None:
            files |= dict(_mixing_files(store))
    return files


def _mixing_files(store: Store) -> Iterator[tuple[str, bytes]]:
    """Path and content of the file of pairs of each stripe of each block.

    They are separate files because training must know the pairs that belong in one batch before it reads any sample.
    """
    for number in store.blocks:
        for stripe in store.block(number).stripes:
            views = range(stripe.shape[1])
            frames = [compress_columns(stripe.params_of_view(view)[:, -len(MIX_FIELDS) :]) for view in views]
            yield mixing_path(number, stripe.number), join_frames(frames)
