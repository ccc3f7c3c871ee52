"""Trial: what users do with data that they were given, done with a damaged data set; and what may come of it.

Every step may refuse with a `ReinforceError`. What is not refused must give the data that were there before the damage:
without new hashes `verify` must notice all else, and with them the replay of views that have a witness.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from reinforce.errors import ReinforceError
from reinforce.packs.open_labels import open_pack
from reinforce.packs.pack import Options, pack
from reinforce.packs.packed_store import PackedStore
from reinforce.peers.fkd_writer import fkd_files
from reinforce.peers.formats import open_reader
from reinforce.peers.importer import import_labels
from reinforce.peers.ml_dr_files import ml_dr_files
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sharing.fetch import published_pack
from reinforce.sharing.publication import Licences
from reinforce.sharing.publish import publish
from reinforce.sharing.publish_pack import publish_pack, pull_pack
from reinforce.sharing.pull import pull
from reinforce.sources.open_source import open_source
from reinforce.sources.pack_manifest import PACK
from reinforce.store.label_store import LabelStore
from reinforce.store.store import Store
from reinforce.verification.sample_checks import Check
from reinforce.verification.summary import summarise
from reinforce.verification.verify import verify_pixels, verify_store
from reinforce.verification.verify_pack import verify_pack
from tests.fuzz.bases import IMAGES, IMPORTED, LABELS, PACKS, PUBLICATIONS, STORES, given, labels_path

T = TypeVar("T")
ROOTS = ("manifest.json", "pack.json", "publication.json")
"""The file with the hashes of the others; its own hash is what users compare, so whoever changes it recomputes hashes."""


class Fault(Exception):  # noqa: N818 - it is a finding
    """What must not happen. `kind` in two or three words, for counting."""

    def __init__(self, kind: str, said: str) -> None:
        super().__init__(f"{kind}: {said}")
        self.kind = kind


@dataclass
class Data:
    """What a data set says of each sample: what was asked for, where it gave an answer."""

    labels: dict[tuple[str, int], int] = field(default_factory=dict)
    pixels: dict[tuple[str, int], int] = field(default_factory=dict)
    hard: dict[str, int] = field(default_factory=dict)


@dataclass
class Trial:
    """One damaged data set and what it was made from.

    Attributes:
        bases: Folder of all bases.
        name: The base that was damaged.
        root: The damaged copy.
        out: Folder for what is written; it does not exist yet.
        trusted: The list of hashes is that of the base: nothing may differ without an error.
        original: The data of the base.
        rng: For the choice among steps.
    """

    bases: Path
    name: str
    root: Path
    out: Path
    trusted: bool
    original: Data
    rng: np.random.Generator
    refused: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    step: str = ""

    def attempt(self, step: str, call: Callable[[], T]) -> T | None:
        """The result of a step; None if it was refused."""
        self.step = step
        try:
            result = call()
        except ReinforceError as error:
            if len(str(error)) > 20_000:
                raise Fault("an endless message", f"{len(str(error))} letters") from None
            self.refused.append(step)
            return None
        self.passed.append(step)
        return result

    def run(self) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self.name in STORES + IMPORTED:
            self._store(self.root)
            self._written_from_store()
        elif self.name in PACKS:
            self._pack(self.root)
        elif self.name in PUBLICATIONS:
            self._publication()
        else:
            self._labels()

    def _store(self, root: Path) -> None:
        checks = self.attempt("verify", lambda: verify_store(root))
        self.attempt("inspect", lambda: summarise(root))
        store = self.attempt("open", lambda: Store(root))
        if store is not None:
            self._replay(store, checks)

    def _pack(self, root: Path) -> None:
        source = self.attempt("open shards", lambda: open_pack(root))
        checks = None if source is None else self.attempt("verify", lambda: verify_pack(source))
        self.attempt("inspect", lambda: summarise(root))
        store = None if source is None else self.attempt("open", lambda: PackedStore(source))
        if store is not None:
            self._replay(store, checks)

    def _replay(self, store: LabelStore, checks: list[Check] | None) -> None:
        verified = checks is not None and not any(check.failed for check in checks)
        images = None if store.images is not None else self.bases / IMAGES
        dataset = self.attempt("open with images", lambda: ReinforcedDataset(store, images))
        found = self._data(store, dataset)
        if not verified:
            return
        if self.trusted:
            self._same("labels", found.labels, self.original.labels, whole=True)
            self._same("hard labels", found.hard, self.original.hard, whole=True)
            self._same("pixels", found.pixels, self.original.pixels, whole=True)
        elif dataset is not None:
            replayed = self.attempt("replay", lambda: verify_pixels(dataset, None, 0))
            if replayed is not None and not any(c.failed or "cannot be checked" in c.note for c in replayed):
                self._same("pixels", found.pixels, self.original.pixels, whole=False)

    def _data(self, store: LabelStore, dataset: ReinforcedDataset | None) -> Data:
        found = Data()
        for sample in store.ok_samples[:32].tolist():
            key = self.attempt("key", lambda sample=sample: store.samples.key(sample))  # type: ignore[misc]
            if key is None:
                continue
            found.hard[key] = int(store.samples.labels[sample])
            for view in range(min(store.settings.views, 8)):
                label = self.attempt("label", lambda s=sample, v=view: _label(store, s, v))  # type: ignore[misc]
                if label is not None:
                    found.labels[key, view] = label
        if dataset is None:
            return found
        self.attempt("epoch", lambda: dataset.set_epoch(1))
        for index in range(min(len(dataset), 32)):
            key = store.samples.key(int(dataset.samples[index]))
            for view in range(min(store.settings.views, 8)):
                pixels = self.attempt("view", lambda i=index, v=view: dataset.replay(i, v))  # type: ignore[misc]
                if pixels is not None:
                    found.pixels[key, view] = zlib.crc32(pixels.numpy().tobytes())
        return found

    def _same(self, what: str, found: dict[T, int], wanted: dict[T, int], *, whole: bool) -> None:
        self.step = f"compare {what}"
        if whole and found.keys() != wanted.keys():
            raise Fault(f"silent: other samples or views of {what}", f"{len(found)} of {len(wanted)}")
        differ = [place for place, value in found.items() if place in wanted and value != wanted[place]]
        if differ:
            raise Fault(f"silent: other {what}", f"{len(differ)} of {len(found)}, such as {differ[0]}")

    def _written_from_store(self) -> None:
        """One of the commands that read a store and write something; whatever was written can be opened."""
        out = self.out
        store = self.attempt("open", lambda: Store(self.root))
        match int(self.rng.integers(6)):
            case 0:
                source = open_source(str(self.bases / IMAGES))
                if self.attempt("pack", lambda: pack(source, self.root, out, Options(shard_bytes=12_000))) is not None:
                    self.attempt("verify the pack", lambda: verify_pack(open_pack(out)))  # type: ignore[arg-type]
            case 1:
                self.attempt("publish", lambda: publish(self.root, str(out), "digits", Licences()))
            case 2 if store is not None:
                self.attempt("export", lambda: [len(content) for _, content in ml_dr_files(store, 2)])
            case 3 if store is not None:
                self.attempt("export", lambda: [len(content) for _, content in fkd_files(store, 2)])

    def _publication(self) -> None:
        before = {p.name for p in self.out.parent.iterdir()}
        got: object = None
        text = self.attempt("find", lambda: published_pack(str(self.root)))
        if text is not None:
            got = self.attempt("pull", lambda: pull_pack(str(self.root), text, self.out, 1))
        elif int(self.rng.integers(4)) == 0:
            got = self.attempt("pull", lambda: pull(str(self.root), self.out, views=2, blocks=[0, 2], jobs=1)) and None
        else:
            got = self.attempt("pull", lambda: pull(str(self.root), self.out, jobs=1))
        if "pull" in self.refused and any((self.out / name).exists() for name in ROOTS):
            raise Fault("a refused pull leaves a manifest", "")
        if {p.name for p in self.out.parent.iterdir()} - before - {self.out.name}:
            raise Fault("a file outside --out", "beside it")
        if got is not None:
            self._pack(self.out) if text is not None else self._store(self.out)
        if self.name == "pack-publication" and (self.root / PACK).exists():
            self.attempt("publish", lambda: publish_pack(self.root, str(self.out.with_name("again")), "digits", Licences()))

    def _labels(self) -> None:
        files = labels_path(self.root, self.name)
        source = open_source(str(self.bases / IMAGES))
        skip = bool(self.rng.integers(2))

        def read() -> object:
            reader = open_reader(LABELS[self.name], files, given(self.out.parent))
            return import_labels(reader, source, self.out, 0, skip_missing=skip)

        if self.attempt("import", read) is None:
            if left := [p.name for p in self.out.parent.iterdir()]:
                raise Fault("a refused import leaves files", ", ".join(left))
            return
        self.step = "verify"
        faults = [f"{c.name}: {c.failures[:1]}" for c in verify_store(self.out) if c.failed]
        if faults:
            raise Fault("an import that does not verify", "; ".join(faults))
        self._replay(Store(self.out), None)


def _label(store: LabelStore, sample: int, view: int) -> int:
    dense = store.kind.collate([store.label_of(sample, view)], store.settings.num_classes).dense()[0].numpy()
    total = float(dense.sum(dtype=np.float64))
    if not (np.isfinite(dense).all() and (dense >= 0).all() and abs(total - 1) < 1e-3):
        raise Fault("labels that are no distribution", f"sum {total}")
    return zlib.crc32(dense.tobytes())


def data_of(bases: Path, name: str) -> Data:
    """The data of a base, read as those of a damaged one are; of labels of others none, as nothing in them can be checked."""
    trial = Trial(bases, name, bases / name, bases / "none", True, Data(), np.random.default_rng(0))
    if name in STORES + IMPORTED:
        store: LabelStore = Store(bases / name)
    elif name in (*PACKS, "pack-publication"):
        shards = open_pack(bases / name)
        assert shards is not None
        store = PackedStore(shards)
    elif name == "publication":
        store = Store(bases / "mixed")
    else:
        return trial.original
    replayable = store.settings.origin is None or store.settings.origin.replay != "none"
    return trial._data(
        store, ReinforcedDataset(store, None if store.images is not None else bases / IMAGES) if replayable else None
    )
