"""Verify: everything about a reinforced dataset that can be checked, from hashes of files to the teacher itself.

Each check counts the things that it looked at and those that failed; nothing is repaired.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from reinforce.errors import ReinforceError, StoreError
from reinforce.files import file_sha256
from reinforce.labels.codec import decode_stripes, encode_stripes
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sharing.publication import CARD, CROISSANT, PREVIEW
from reinforce.sources.location import File, pieces
from reinforce.sources.source import index_sha256
from reinforce.sources.table_guard import guard_table
from reinforce.store.listing import list_files
from reinforce.store.store import MANIFEST, SAMPLES, Store, read_manifest
from reinforce.teachers.teacher import Teacher, labeller_of
from reinforce.verification.sample_checks import ALL_VIEWS_LIMIT, Check, bad_labels, bad_params
from reinforce.views.draw import draw
from reinforce.views.layout import pixel_spec
from reinforce.views.mix import MIX_FIELDS, draw_mixing, mixing_columns, read_mixing
from reinforce.views.pixels import stored_view
from reinforce.views.seeds import choice_rng, mixing_rngs, view_rng
from reinforce.views.status import Status

_BESIDE = {MANIFEST, ".lock", CARD, CROISSANT, PREVIEW}  # the last three are for people; `pull` fetches them
CheckProgress = Callable[[str, int, int], None]


def verify_store(root: Path, on_progress: CheckProgress = lambda name, done, total: None) -> list[Check]:
    """Check a store without its images: hashes of all files, the sample table against the blocks, params and labels.

    Raises:
        StoreError: the store is too damaged to be opened.
    """
    guard_table(root / SAMPLES, SAMPLES, read_manifest(root).settings.source.num_samples)
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
    there = set(list_files(root)) | {p.name for p in os.scandir(root) if p.is_file() and p.name not in _BESIDE}
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
    expected = {"sha256": samples.sha256[part], "status": samples.status[part], "width_height": samples.width_height[part]}
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


class _PixelChecks(Dataset[tuple[str | None, str | None]]):
    """Item i: the fault in the probe of sample i; for i beyond the samples, the fault in a chosen (sample, view)."""

    def __init__(self, dataset: ReinforcedDataset, chosen: list[tuple[int, int]]) -> None:
        self.dataset = dataset
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.dataset) + len(self.chosen)

    def __getitem__(self, item: int) -> tuple[str | None, str | None]:
        try:
            if item < len(self.dataset):
                self._probe(item)
                return None, None
            return None, self._fresh(*self.chosen[item - len(self.dataset)])
        except ReinforceError as error:
            text = str(error).replace("\n  ", "; ")
            return (text, None) if item < len(self.dataset) else (None, text)

    def _probe(self, index: int) -> None:
        self.dataset.check_probe(index)

    def _fresh(self, index: int, view: int) -> str | None:
        """Draw the view again as stage one did, and compare params and pixels with the replay."""
        data, settings = self.dataset, self.dataset.store.settings
        store, sample = data.store, int(data.samples[index])
        block, row = int(store.samples.block[sample]), int(store.samples.row[sample])
        samples, spec = store.samples_of(block), pixel_spec(settings.policy, settings.size)
        columns = np.zeros((len(samples), 0), np.int32)
        if settings.policy.mix:
            ok = np.flatnonzero(store.samples.status[samples] == Status.OK)
            rngs = mixing_rngs(settings.seed, block, view, settings.policy.mix.repeats)
            mixing = draw_mixing(*rngs, len(ok), settings.policy.mix, settings.size)
            columns = np.zeros((len(samples), len(MIX_FIELDS)), np.int32)
            columns[ok] = mixing_columns(mixing._replace(partner=ok[mixing.partner]))
        image_of = lru_cache(maxsize=2)(lambda other: data.checked(int(samples[other])))

        def params_of(other: int) -> np.ndarray:
            height, width = image_of(other).shape[:2]
            rng = view_rng(settings.seed, int(samples[other]), view)
            return np.concatenate([draw(rng, settings.policy, settings.size, width, height), columns[other]])

        key = store.samples.key(sample)
        fresh = stored_view(params_of, len(samples), row, spec, image_of)
        drawn, stored = params_of(row), store.params_of(sample, view)
        if not np.array_equal(drawn, stored):
            return f"{key}, view {view}: drawn again, params are {drawn.tolist()}, stored are {stored.tolist()}"
        wrong = int((fresh != data.replay(index, view)).sum())
        return f"{key}, view {view}: {wrong} of {fresh.numel()} values differ" if wrong else None


def verify_pixels(
    dataset: ReinforcedDataset, views: int, workers: int, on_progress: CheckProgress = lambda name, done, total: None
) -> list[Check]:
    """Hash every image and replay the probe of every sample; and compare some random views, drawn again, with their replay.

    Args:
        dataset: The data set, opened with `check=False`.
        views: How many random (sample, view) pairs are drawn again as stage one does, and compared with their replay.
        workers: Number of worker processes.
        on_progress: Called after each item.
    """
    if dataset.store.settings.origin is not None:
        views = 0  # imported views were not drawn by stage one
    rng = choice_rng(dataset.store.settings.seed)
    total_views = len(dataset) * dataset.store.settings.views
    picks = rng.choice(total_views, size=min(views, total_views), replace=False)
    chosen = [divmod(int(p), dataset.store.settings.views) for p in picks]
    items = _PixelChecks(dataset, chosen)
    probes, fresh = Check("images and probes"), Check("views made anew")
    for done, (probe, difference) in enumerate(DataLoader(items, batch_size=None, num_workers=workers), start=1):
        if done <= len(dataset):
            probes.add(probe)
        else:
            fresh.add(difference)
        on_progress("views", done, len(items))
    return [probes, fresh] if views else [probes]


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
    stored, own = [], []
    labeller = labeller_of(teacher, settings)
    shape = (settings.views, settings.num_classes, settings.stripe_views)
    for done, index in enumerate(picks, start=1):
        pixels = torch.stack([dataset.replay(index, view) for view in range(settings.views)])
        answers = torch.cat([labeller(batch).cpu() for batch in pixels.split(batch_size)]).numpy()
        again = decode_stripes(store.codec, encode_stripes(store.codec, answers, settings.stripe_views), *shape)
        stored.append(kind.distance(store.codec, answers, store.labels_of(int(dataset.samples[index]))))
        own.append(kind.distance(store.codec, answers, again))
        on_progress("labels", done * settings.views, count * settings.views)
    mean_stored, mean_own = float(np.mean(stored)), float(np.mean(own))
    unit = f" {kind.distance_unit}" if kind.distance_unit else ""
    note = f"{kind.distance_name} {mean_stored:.2e}, codec's own error {mean_own:.2e}{unit} over {count * settings.views} views"
    check = Check("labels against the teacher", note=note)
    check.add(None if mean_stored <= 1.01 * mean_own + 1e-4 else f"{note}: other weights, pixels or precision made the labels")
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
