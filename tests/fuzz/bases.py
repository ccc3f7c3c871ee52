"""Bases: small undamaged data sets of every kind, made once per run, from which the fuzzers make damaged ones."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.packs.pack import Options, pack
from reinforce.peers.formats import open_reader
from reinforce.peers.importer import import_labels
from reinforce.peers.reader import ReadOptions
from reinforce.sharing.publication import Licences
from reinforce.sharing.publish import publish
from reinforce.sharing.publish_pack import publish_pack
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher import Teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.views.policy_text import parse_policy
from tests.conftest import CLASSES, SIZE, TEACHER, make_settings, write_folder
from tests.fuzz.pool import run_all
from tests.labels.conftest import MAP_SIZE
from tests.peers.label_files import VIEWS, add, saved, top, write_ml_dr, write_tinyvit

IMAGES, WEIGHTS = "images", "teacher.safetensors"
STORES = ("store", "mixed", "maps")
"""Views with a witness; pairs; label maps."""
PACKS = ("pack", "mixed-pack", "one-way-pack", "maps-pack")
"""Shards with images and labels: the first has a witness."""
PUBLICATIONS = ("publication", "pack-publication")
LABELS = {"ml-dr": "imagenet-plus", "ml-dr-mixed": "imagenet-plus", "fkd": "fkd", "tinyvit": "tinyvit", "relabel": "relabel"}
"""Folders with files of others, and the format of each."""
IMPORTED = ("imported",)
"""Views that are mixed one way, without a witness."""
TARGETS = (*STORES, *IMPORTED, *PACKS, *PUBLICATIONS, *LABELS)
PER_CLASS, BLOCK, STORED_VIEWS = 3, 4, 4


def given(out: Path) -> ReadOptions:
    """The options with which the files of others are read."""
    return ReadOptions(len(CLASSES), None, SIZE, "uniform", "wh", out)


def write_weights(path: Path) -> None:
    torch.manual_seed(7)
    state = timm.create_model(TEACHER, num_classes=len(CLASSES)).state_dict()
    save_file({k: v * 3 if k.endswith("fc.weight") else v for k, v in state.items()}, path)


def teacher_of(root: Path) -> Teacher:
    spec = TeacherSpec(TEACHER, root / WEIGHTS)
    cpu = torch.device("cpu")
    return load_teacher([spec], size=SIZE, class_names=list(CLASSES), class_map=None, device=cpu, precision="fp32")


def make_bases(root: Path) -> dict[str, object]:
    """9 images in 3 blocks, 4 views in 2 stripes: one store alone, one with pairs, and all that is made from them."""
    torch.set_num_threads(1)
    source = ImageFolder.open(write_folder(root / IMAGES, PER_CLASS))
    write_weights(root / WEIGHTS)
    teacher = teacher_of(root)
    shape = {"views": STORED_VIEWS, "stripe_views": 2, "block_size": BLOCK}
    alone = make_settings(source, teacher, **shape)
    mixed = make_settings(source, teacher, **shape, policy=parse_policy("usi"), codec={"name": "sqrt", "delta": 0.1})
    generate(source, teacher, alone, root / "store", Execution(16, 0))
    generate(source, teacher, mixed, root / "mixed", Execution(16, 0))
    whole = {"views": 1, "block_size": BLOCK, "size": MAP_SIZE, "policy": parse_policy("whole")}
    generate(source, teacher, make_settings(source, teacher, **whole, codec={"name": "map", "k": 2}), root / "maps")
    pack(source, root / "store", root / "pack", Options(shard_bytes=12_000))
    pack(source, root / "mixed", root / "mixed-pack", Options(shard_bytes=12_000))
    pack(source, root / "maps", root / "maps-pack", Options(shard_bytes=12_000))
    licences = Licences(labels="cc-by-4.0", images="their owners'")
    publish(root / "mixed", str(root / "publication"), "digits", licences)
    publish_pack(root / "mixed-pack", str(root / "pack-publication"), "digits", licences)
    _write_labels(root, source)
    reader = open_reader("imagenet-plus", root / "ml-dr-mixed", given(root))
    import_labels(reader, source, root / "imported", workers=0)
    pack(source, root / "imported", root / "one-way-pack", Options(shard_bytes=12_000))
    return {"made": TARGETS}


def prepared(work: Path) -> Path:
    """The folder of the bases in `work`. They are made in a process of their own, as threads do not outlive a fork."""
    bases = work / "bases"
    if not bases.exists():
        bases.mkdir(parents=True)
        for made in run_all(lambda _: make_bases(bases), [0], 1, time.time() + 600, seconds=300, limited=False):
            assert "kind" not in made, made
    return bases


def _write_labels(root: Path, source: ImageFolder) -> None:
    for name in LABELS:
        (root / name).mkdir()
    write_ml_dr(root / "ml-dr" / "labels.tar.gz", source, erased=True)
    content = gzip.decompress((root / "ml-dr" / "labels.tar.gz").read_bytes())
    (root / "ml-dr" / "labels.tar.gz").write_bytes(gzip.compress(content, 1, mtime=0))
    rng = np.random.default_rng(4)
    for index in range(len(source)):
        views = [_mixed_view(rng, len(source)) for _ in range(VIEWS)]
        (root / "ml-dr-mixed" / f"{index}.pth.tar").write_bytes(saved((index, views), pickle_protocol=4))
    for key in source.keys:
        boxes = np.stack([*rng.uniform(0, 0.3, (2, VIEWS)), *rng.uniform(0.3, 0.7, (2, VIEWS))], axis=1)
        tops = [np.stack([ids, probs]) for probs, ids in (top(rng) for _ in range(VIEWS))]
        labels = torch.tensor(np.stack(tops), dtype=torch.float32)
        path = root / "fkd" / f"{key}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved([torch.tensor(boxes, dtype=torch.float32), torch.tensor(rng.integers(0, 2, VIEWS) > 0), labels]))
    write_tinyvit(root / "tinyvit", list(source.keys))
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for key in source.keys:
            ids = np.stack([rng.permutation(3)[:2] for _ in range(9)], axis=-1).reshape(2, 3, 3)
            add(
                tar, f"relabel/{key}.pt", saved(torch.tensor(np.stack([rng.normal(0, 3, (2, 3, 3)), ids]), dtype=torch.float32))
            )
    (root / "relabel" / "maps.tar").write_bytes(sink.getvalue())


def _mixed_view(rng: np.random.Generator, images: int) -> dict[str, object]:
    crops = [(int(rng.integers(4)), int(rng.integers(4)), int(rng.integers(8, 24)), int(rng.integers(8, 24))) for _ in range(2)]
    ops = [[(int(rng.integers(14)), 0.1), (0, 0.0)] for _ in range(2)]
    lam = float(rng.uniform(0, 0.5)) if rng.integers(2) else None
    box = [np.float64(0.5), 2, 3, 20, 21] if rng.integers(2) or lam is None else None
    params = [int(rng.integers(images)), crops, [bool(rng.integers(2)) for _ in range(2)], ops, [None, None], lam, box]
    return {"params": params, "prob": top(rng)}


def labels_path(root: Path, name: str) -> Path:
    """What `reinforce import` is given: the folder, or the one archive in it."""
    archives = {"ml-dr": "labels.tar.gz", "relabel": "maps.tar"}
    return root / archives[name] if name in archives else root
