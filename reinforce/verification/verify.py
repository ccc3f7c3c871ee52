"""Verify: everything about a reinforced dataset that can be checked, from hashes of files to the teacher itself.

Each check counts the things that it looked at and those that failed; nothing is repaired.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from reinforce.errors import OutOfMemoryError, ReinforceError, StoreError, TooManyFilesError
from reinforce.files import file_sha256, is_lock
from reinforce.labels.codec import decode_stripes, encode_stripes
from reinforce.labels.fidelity import compare
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sharing.publication import CARD, CROISSANT, PREVIEW
from reinforce.sharing.pull import PULL
from reinforce.sources.location import File, pieces
from reinforce.sources.source import index_sha256
from reinforce.store.listing import list_files
from reinforce.store.store import JOB, MANIFEST, Store, read_manifest
from reinforce.teachers.teacher import Teacher, labeller_of
from reinforce.verification.sample_checks import ALL_VIEWS_LIMIT, Check, bad_labels, bad_params
from reinforce.views.mix import read_mixing
from reinforce.views.seeds import choice_rng
from reinforce.views.status import Status
from reinforce.views.workers import affordable, made_by_workers

_BESIDE = {MANIFEST, CARD, CROISSANT, PREVIEW}  # the last three are for people; `pull` fetches them
CheckProgress = Callable[[str, int, int], None]


def verify_store(root: Path, on_progress: CheckProgress = lambda name, done, total: None) -> list[Check]:
    """Check a store without its images: hashes of all files, the sample table against the blocks, params and labels.

    Raises:
        StoreError: the store is too damaged to be opened.
    """
    files = _check_files(root, on_progress)
    if files.failed:
        return [files]
    store = Store(root)
    table, params, labels = Check("samples"), Check("params"), Check("labels")
    for done, block in enumerate(store.blocks, start=1):
        _check_block(store, block, table, params, labels)
        on_progress("blocks", done, len(store.blocks))
    if not table.failed:
        _check_table(store, table)
    return [files, table, params, labels]


def _check_files(root: Path, on_progress: CheckProgress) -> Check:
    check = Check("files")
    expected = read_manifest(root).files
    there = set(list_files(root)) | {p.name for p in os.scandir(root) if not p.is_dir(follow_symlinks=False)}
    there = {path for path in there if path not in _BESIDE and not is_lock(path)}
    left = {path for path in there - expected.keys() if _is_leftover(path)}
    if left:
        check.note = f"left by a writer that was killed, and not used: {', '.join(sorted(left)[:3])}"
        check.note += f" and {len(left) - 3} more" if len(left) > 3 else ""
        there -= left
    for done, path in enumerate(sorted(there | expected.keys()), start=1):
        if path not in expected:
            check.add(f"{path}: not in the manifest")
        elif not (root / path).is_file():
            check.add(f"{path}: missing")
        else:
            found = file_sha256(root / path)
            check.add(None if found == expected[path] else f"{path}: sha256 {found[:16]}..., expected {expected[path][:16]}...")
        on_progress("files", done, len(expected))
    return check


def _is_leftover(path: str) -> bool:
    """What a command of ours leaves if it is killed: its settings beside a complete manifest, and unfinished files."""
    return path in (JOB, PULL) or any(part.startswith(".") and part.endswith(".partial") for part in path.split("/"))


def _check_table(store: Store, check: Check) -> None:
    """Compare the sample table with the manifest: counts by status, and the hash over keys and labels."""
    samples, source = store.samples, store.settings.source
    counts = {s.name.lower(): int((samples.status == s).sum()) for s in Status}
    if counts != store.manifest.counts.model_dump():
        check.add(f"the manifest counts {store.manifest.counts}, the table has {counts}")
    labels = [None if label < 0 else label for label in samples.labels.tolist()]
    if index_sha256(source.class_names, samples.keys, labels) != source.index_sha256:
        check.add("keys or labels of the table are not those that the manifest has the hash of")


def _check_block(store: Store, number: int, table: Check, params: Check, labels: Check) -> None:
    settings, samples = store.settings, store.samples
    part = store.samples_of(number)
    block = store.block(number)
    columns = block.sample_columns()
    expected = {name: getattr(samples, name)[part] for name in ("sha256", "crc32c", "status", "width_height")}
    differs = [name for name, value in expected.items() if not np.array_equal(columns[name], value)]
    table.add(f"block {number}: {', '.join(differs)} differ from {store.root / 'samples.parquet'}" if differs else None)
    all_params = block.params()
    every_view = settings.views * len(samples) <= ALL_VIEWS_LIMIT
    ok = np.flatnonzero(columns["status"] == Status.OK)
    for row in ok:
        key = samples.key(part[row])
        params.add(bad_params(store, key, all_params[row], columns["width_height"][row]))
        labels.add(bad_labels(store, key, int(part[row]), None if every_view else int(row) % settings.views))
    for view in range(settings.views):
        mixing = read_mixing(all_params[:, view], store.spec)
        fault = None if mixing is None else mixing.among(ok).fault(store.spec.size)
        if fault:
            params.add(f"block {number}, view {view}: {fault}")


class _PixelChecks(Dataset[str | None]):
    """Item i: the fault in the probe of sample i; for i beyond the samples, the fault in a chosen stripe. None: no fault."""

    def __init__(self, dataset: ReinforcedDataset, chosen: list[tuple[int, int]]) -> None:
        self.dataset = dataset
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.dataset) + len(self.chosen)

    def __getitem__(self, item: int) -> str | None:
        try:
            if item < len(self.dataset):
                self.dataset.check_probe(item)
            else:
                self.dataset.check_stripe(*self.chosen[item - len(self.dataset)])
        except (TooManyFilesError, OutOfMemoryError):
            raise  # it says nothing of the data
        except ReinforceError as error:
            return str(error).replace("\n  ", "; ")
        return None


def verify_pixels(
    dataset: ReinforcedDataset, views: int | None, workers: int, on_progress: CheckProgress = lambda name, done, total: None
) -> list[Check]:
    """Hash every image and replay the probe of every sample; and replay stripes and compare their pixels with the witness.

    Args:
        dataset: The data set, opened with `check=False`.
        views: Replay random stripes that have so many views together; None: all, which covers every byte that the teacher saw.
        workers: Number of worker processes.
        on_progress: Called after each item.
    """
    probes, stripes = Check("images and probes"), Check("stripes replayed")
    chosen, possible = ([], 0) if views == 0 else _chosen_stripes(dataset, views)
    items = _PixelChecks(dataset, chosen)
    faults = made_by_workers(items, range(len(items)), workers=affordable(workers), location=dataset.source.location)
    for done, fault in enumerate(faults, start=1):
        (probes if done <= len(dataset) else stripes).add(fault)
        on_progress("views", done, len(items))
    stored = len(dataset) * dataset.store.settings.views
    looked_at = sum(len(dataset.store.views_of(stripe)) for _, stripe in chosen)
    stripes.note = f"{looked_at} views of {stored}" + (", each byte of them" if looked_at else "")
    if possible < stored:
        origin = dataset.store.settings.origin
        why = (
            "they were generated before a witness of them was stored"
            if origin is None
            else "imported labels have no witness of their pixels"
        )
        stripes.note += f"; {stored - possible} views cannot be checked: {why}"
    return [probes, stripes] if views != 0 else [probes]


def _chosen_stripes(dataset: ReinforcedDataset, views: int | None) -> tuple[list[tuple[int, int]], int]:
    """Stripes as (item, stripe) that have `views` views together, None: all; and how many views have a witness at all."""
    store, stripes = dataset.store, range(dataset.store.settings.num_stripes)
    blocks, first, items = np.unique(store.samples.block[dataset.samples], return_index=True, return_counts=True)
    known, possible = set(), 0
    for block, item, count in zip(blocks.tolist(), first.tolist(), items.tolist(), strict=True):
        for stripe in stripes:
            if store.witness_of(int(dataset.samples[item]), stripe) is not None:
                known.add((block, stripe))
                possible += count * len(store.views_of(stripe))
    chosen: list[tuple[int, int]] = []
    left = possible if views is None else min(views, possible)
    for place in choice_rng(store.settings.seed).permutation(len(dataset) * len(stripes)):
        if left <= 0:
            break
        item, stripe = divmod(int(place), len(stripes))
        if (int(store.samples.block[dataset.samples[item]]), stripe) in known:
            chosen.append((item, stripe))
            left -= len(store.views_of(stripe))
    return sorted(chosen), possible


def verify_labels(
    dataset: ReinforcedDataset,
    teacher: Teacher,
    views: int,
    batch_size: int,
    on_progress: CheckProgress = lambda name, done, total: None,
) -> Check:
    """Run the teacher again on replayed views: stored labels must be as near to its answers as the codec can bring them.

    The kind of labels defines the distance: for soft labels it is KL(teacher || stored).

    Args:
        dataset: The data set, opened.
        teacher: The teacher that made the labels.
        views: Compare at least this many views; all views of a sample are used, as a codec encodes them together.
        batch_size: Views per teacher batch.
        on_progress: Called after each sample.
    """
    store, settings, kind = dataset.store, dataset.store.settings, dataset.store.kind
    count = min(-(-views // settings.views), len(dataset))
    picks = choice_rng(settings.seed).choice(len(dataset), size=count, replace=False).tolist()
    stored, own, same = [], [], []
    labeller = labeller_of(teacher, settings)
    shape = (settings.views, settings.num_classes, settings.stripe_views)
    for done, index in enumerate(picks, start=1):
        pixels = torch.stack([dataset.replay(index, view) for view in range(settings.views)])
        answers = torch.cat([labeller(batch).cpu() for batch in pixels.split(batch_size)]).numpy()
        again = decode_stripes(store.codec, encode_stripes(store.codec, answers, settings.stripe_views), *shape)
        labels = store.labels_of(int(dataset.samples[index]))
        stored.append(kind.distance(store.codec, answers, labels))
        own.append(kind.distance(store.codec, answers, again))
        if store.codec.keeps_top:
            same.append(compare(labels, answers).same_top)
        on_progress("labels", done * settings.views, count * settings.views)
    mean_stored, mean_own = float(np.mean(stored)), float(np.mean(own))
    unit = f" {kind.distance_unit}" if kind.distance_unit else ""
    note = f"{kind.distance_name} {mean_stored:.2e}, codec's own error {mean_own:.2e}{unit} over {count * settings.views} views"
    if same:
        note += f", the same top class in {int(np.concatenate(same).sum())}"
    check = Check("labels against the teacher", note=note)
    if not np.isfinite(mean_own):
        check.add(f"{note}: any labels would pass, because the codec brings none near to the teacher's answers")
    else:
        fits = mean_stored <= 1.01 * mean_own + 1e-4
        check.add(None if fits else f"{note}: other weights, pixels or precision made the labels")
    return check


def content_sha256(file: File) -> str:
    """Hex digest of the sha256 of a file on disk or at a URL."""
    digest = hashlib.sha256()
    for piece in pieces(file.location, file.size):
        digest.update(piece)
    return digest.hexdigest()


def require(checks: list[Check]) -> None:
    """Raise an error if any check failed.

    Raises:
        StoreError: names the first failure of the first failed check.
    """
    failed = [c for c in checks if c.failed]
    if failed:
        raise StoreError(
            f"{failed[0].failed} of {failed[0].total} {failed[0].name} failed verification.",
            found=failed[0].failures[0],
            fix="bring the damaged files back, or generate again",
        )
