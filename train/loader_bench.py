"""Loader bench: views per second of one decoding process: timm's loader, fresh views and replayed views of the same files."""

from __future__ import annotations

import io
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from timm.data import FastCollateMixup, ImageDataset, create_loader

from reinforce.bench.rounds import Run
from reinforce.errors import UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate, limit_source
from reinforce.labels.codecs import NAMED_CODECS
from reinforce.policy import Policy
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.drawn_labels import HardLabels
from reinforce.replay.epoch_views import FreshViews, ReplayedViews, Views
from reinforce.replay.loader import batch_plan, batches, partners
from reinforce.settings import Settings, SourceInfo
from reinforce.sources.folder import ImageFolder
from reinforce.sources.source import Source
from reinforce.teachers.random_teacher import random_teacher
from reinforce.views.decode import decode
from reinforce.views.pixels import ViewMaker
from reinforce.views.policy_text import parse_policy

CLASSES = 1000
VIEWS = 12
_NUMBERS = {3: "three", 4: "four"}
_AT_ONCE = 64
_RA = {"auto_augment": "rand-m7-mstd0.5-inc1"}
_TIMM: dict[str, dict[str, Any]] = {
    "rrc": {},
    "rrc-ra": _RA,
    "three-augment": {"auto_augment": "3a", "color_jitter": 0.3},
    "usi": _RA,
}
"""What timm's `create_loader` is given for a policy of ours, beside size and interpolation."""

POLICIES = tuple(_TIMM)


class _Files:
    """A reader in the sense of timm: the images of an indexed folder, repeated `rounds` times."""

    def __init__(self, source: Source, rounds: int) -> None:
        self.source, self.rounds = source, rounds

    def __len__(self) -> int:
        return self.rounds * len(self.source)

    def __getitem__(self, index: int) -> tuple[IO[bytes], int]:
        return open(self.source.where(index % len(self.source)), "rb"), 0


def contenders(data: Path, policy: str, size: int, batch_size: int, images: int, scratch: Path) -> dict[str, Run]:
    """The loaders to compare.

    Args:
        data: Image folder.
        policy: `rrc`, `rrc-ra`, `three-augment` or `usi`: timm's loader has these too.
        size: Height and width of a view in pixels.
        batch_size: Views in a batch.
        images: Least number of views in a round.
        scratch: An empty folder, in which stores are made; their labels come from a small random model of 1000 classes.

    Returns:
        Functions from the number of a round to views per second, measured from the first batch to the last; each uses one
        decoding process.
    """
    if policy not in _TIMM:
        raise UsageError(f"timm's loader has no policy {policy!r}.", expected=f"{', '.join(POLICIES[:-1])} or {POLICIES[-1]}")
    source = limit_source(ImageFolder.open(data), images)
    packed = pack(source, scratch / "packed", 256)
    chosen = parse_policy(policy)
    rounds = -(-images // len(source))
    mix, options = chosen.mix, {"color_jitter": 0.0, **_TIMM[policy]}
    if mix is not None:
        options["collate_fn"] = FastCollateMixup(mix.mixup, mix.cutmix, num_classes=CLASSES)
    theirs = create_loader(
        ImageDataset(str(data), reader=_Files(source, rounds)),
        (3, size, size),
        batch_size,
        is_training=True,
        interpolation="bicubic",
        num_workers=1,
        pin_memory=False,
        device=torch.device("cpu"),
        **options,
    )
    together = 4 if mix is None else mix.repeats  # views that are mixed with others' views share their partners by so many
    unknown = HardLabels(np.full(len(source), -1))
    fresh = FreshViews(source, np.arange(len(source)), unknown, chosen, size, CLASSES)
    replayed = ReplayedViews(_labelled(source, chosen, size, scratch / "labels"))
    smaller = ReplayedViews(_labelled(packed, chosen, size, scratch / "packed-labels"))
    return {
        "timm": lambda number: rate(theirs),
        "fresh views": _ours(fresh, batch_size, rounds),
        "replay": _ours(replayed, batch_size, rounds),
        f"replay, {_NUMBERS[together]} views per decode": _ours(replayed, batch_size, rounds, repeats=together),
        "replay, images packed at 256 px": _ours(smaller, batch_size, rounds),
        f"generate, {_AT_ONCE} views per decode": lambda number: _making(source, replayed, images),
        "decoding alone": lambda number: _decoding(source, rounds),
    }


def rate(loader: Iterable[Sequence[Any]]) -> float:
    """Views per second from the first batch to the last."""
    started, count = 0.0, 0
    for batch in loader:
        if started:
            count += len(batch[0])
        else:
            started = time.perf_counter()
    return count / (time.perf_counter() - started)


def _ours(views: Views, batch_size: int, rounds: int, repeats: int = 1) -> Run:
    def run(number: int) -> float:
        views.set_epoch(number, repeats)
        shape = (0, number, len(views), batch_size, partners(views.mixing), repeats)
        plan = [batch for _ in range(repeats) for batch in batch_plan(*shape)]
        return rate(batches(views, plan * rounds, workers=1))

    return run


def _making(source: Source, views: ReplayedViews, images: int) -> float:
    """What stage one does before the teacher: read, hash, decode, draw and make all views, and their witness."""
    settings = views.dataset.store.settings.model_copy(update={"views": _AT_ONCE, "stripe_views": _AT_ONCE})
    maker, count = ViewMaker(source, settings), -(-images // _AT_ONCE)
    started = time.perf_counter()
    made = sum(len(maker[index % len(source)].pixels) for index in range(count))
    return made / (time.perf_counter() - started)


def _decoding(source: Source, rounds: int) -> float:
    started = time.perf_counter()
    for index in range(rounds * len(source)):
        decode(source.read(index % len(source)))
    return rounds * len(source) / (time.perf_counter() - started)


def pack(source: Source, out: Path, shorter: int) -> Source:
    """The same images as JPEGs of quality 92 whose shorter side has at most `shorter` pixels."""
    for index, path in enumerate(source.places):
        image = Image.fromarray(decode(source.read(index)))
        scale = shorter / min(image.size)
        if scale < 1:
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=92)
        target = (out / path).with_suffix(".jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.getvalue())
    return ImageFolder.open(out)


def _labelled(source: Source, policy: Policy, size: int, out: Path) -> ReinforcedDataset:
    """A store over `source` whose teacher is a small model with random weights; to read its labels costs as much as others."""
    teacher = random_teacher("test_resnet", num_classes=CLASSES, size=size, device=torch.device("cpu"))
    settings = Settings(
        source=SourceInfo(kind="folder", num_samples=len(source), class_names=[], index_sha256=source.index_sha256()),
        teachers=teacher.infos,
        precision="fp32",
        policy=policy,
        size=size,
        views=VIEWS,
        seed=0,
        codec=NAMED_CODECS["sqrt"].to_dict(),
        num_classes=CLASSES,
        block_size=512,
    )
    unlabelled = replace(source, labels=None, class_names=())
    generate(unlabelled, teacher, settings, out, Execution(workers=1))
    return ReinforcedDataset(out, unlabelled)
