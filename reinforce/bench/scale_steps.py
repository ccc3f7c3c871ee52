"""Scale steps: what `reinforce bench scale` measures, each step in a process of its own.

`python -m reinforce.bench.scale_steps FOLDER STEP` does one step and prints what it took, as JSON. The teacher is a random
linear map of 4 x 4 mean colours: its time is not what is measured.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import torch

from reinforce.generation.block_labels import block_samples
from reinforce.generation.engine import Execution, planned
from reinforce.generation.generate import generate
from reinforce.labels.codecs import NAMED_CODECS
from reinforce.long_work import listen
from reinforce.packs.open_labels import packed
from reinforce.packs.pack import Options, pack
from reinforce.peers.formats import writer_of
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.replay.epoch_views import ReplayedViews
from reinforce.replay.loader import batch_plan, batches
from reinforce.settings import Settings, SourceInfo, TeacherInfo
from reinforce.sharing.publication import Licences
from reinforce.sharing.publish import publish
from reinforce.sharing.pull import pull
from reinforce.sources.open_source import open_source
from reinforce.sources.shards import Shards
from reinforce.sources.source import Source
from reinforce.store.block import block_path
from reinforce.store.folder_place import FolderPlace
from reinforce.store.store import Store
from reinforce.teachers.teacher import Teacher
from reinforce.verification.verify import require, verify_store
from reinforce.views.policy_text import parse_policy
from reinforce.views.seeds import choice_rng

VIEWS, SIZE, CLASSES, BATCH = 2, 32, 1000, 512
BATCHES = 20
"""Batches of the first epoch that are made; the others take as long."""
LICENCES = Licences(labels="not stated", images="not stated", teacher="not stated")
Said = dict[str, float]
"""Seconds since the step began, by the name of a row of the table."""


class _Silence:
    """The longest time in which nothing was told to whoever waits."""

    def __init__(self) -> None:
        self.at, self.longest = time.perf_counter(), 0.0

    def end(self, *_: object) -> None:
        """Something was told now."""
        now = time.perf_counter()
        self.at, self.longest = now, max(self.longest, now - self.at)


_SILENCE = _Silence()


class _ColourTeacher(Teacher):
    def __init__(self) -> None:
        super().__init__()
        half = (0.5, 0.5, 0.5)
        self.infos = [
            TeacherInfo(
                name="colours", kwargs={}, weights_sha256="0" * 64, num_classes=CLASSES, mean=half, std=half, class_map=None
            )
        ]
        self.device, self.precision = torch.device("cpu"), "fp32"
        self.weights = torch.from_numpy(choice_rng(0).normal(0, 1, (48, CLASSES)).astype(np.float32))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        colours = torch.nn.functional.adaptive_avg_pool2d(images.float() / 64, 4).flatten(1)
        return (colours @ self.weights).softmax(dim=-1)


def index(root: Path) -> Said:
    """Open the shards; the cache is empty the first time."""
    open_source(f"{root}/images")
    return {}


def settings_of(source: Source, block_size: int) -> Settings:
    """Settings of the data set that is generated."""
    return Settings(
        source=SourceInfo(
            kind=source.kind,
            num_samples=len(source),
            class_names=list(source.class_names),
            index_sha256=source.index_sha256(),
        ),
        teachers=_ColourTeacher().infos, precision="fp32", policy=parse_policy("rrc"), size=SIZE, views=VIEWS, seed=0,
        codec=NAMED_CODECS["sqrt"].to_dict(),
        num_classes=CLASSES,
        block_size=block_size,
    )  # fmt: skip


def _generate(root: Path, on_progress: Callable[[int, int], None]) -> None:
    source = open_source(f"{root}/images")
    settings = settings_of(source, _about(root)["block_size"])
    generate(source, _ColourTeacher(), settings, root / "labels", Execution(BATCH, 1), on_progress)


def killed(root: Path) -> Said:
    """Generate, until `kill -9` at a number of samples after which no further block can be committed."""
    started, (wanted, size) = time.perf_counter(), (_about(root)[name] for name in ("generated", "block_size"))
    first: list[float] = []

    def on_progress(done: int, total: int) -> None:
        _SILENCE.end()
        first.append(time.perf_counter() - started) if not first else None
        if done > wanted and (done - 1) % size == 0:
            _tell({"to the first sample": first[0]}, time.perf_counter() - started)
            os.kill(os.getpid(), signal.SIGKILL)

    _generate(root, on_progress)
    raise AssertionError("it should have been killed")


def copied(root: Path) -> Said:
    """All other blocks but the last one, as copies of those that were generated, each with the hashes of its own images.

    The images of a row are alike in all blocks but for a comment, so these are the blocks that would have been generated, but
    for the boxes of their views.
    """
    source = open_source(f"{root}/images")
    about = _about(root)
    settings = settings_of(source, about["block_size"])
    made = about["generated"] // about["block_size"]
    for number in range(made, settings.num_blocks - 1):
        path, samples = block_path(root / "labels", number), block_samples(settings, number)
        if path.is_dir():
            continue
        shutil.copytree(block_path(root / "labels", number % made), path, copy_function=os.link)
        contents = [source.read(s) for s in samples.tolist()]
        sha256 = b"".join(hashlib.sha256(content).digest() for content in contents)
        crc32c = b"".join(google_crc32c.value(content).to_bytes(4, "little") for content in contents)
        for chunk, own in ((path / "sha256/c/0/0", sha256), (path / "crc32c/c/0", crc32c)):
            chunk.unlink()
            chunk.write_bytes(own)
        next(FolderPlace(root / "labels").notes([planned(source, settings, number)]))
    return {}


def resumed(root: Path) -> Said:
    """Generate the last block, and finish."""
    started = time.perf_counter()
    at: list[float] = []

    def on_progress(done: int, total: int) -> None:
        _SILENCE.end()
        at.append(time.perf_counter() - started)

    _generate(root, on_progress)
    return {"to the first sample": at[0], "finish": time.perf_counter() - started - at[-1]}


def verified(root: Path) -> Said:
    """Check all files, the table, params and labels."""
    require(verify_store(root / "labels", _SILENCE.end))
    return {}


def epoch(root: Path) -> Said:
    """Open everything as `train` does, begin the first epoch, and make a few batches."""
    started = time.perf_counter()
    source = open_source(f"{root}/images")
    return _batches(_Opened(root / "labels", source), started)


class _Opened(ReinforcedDataset):
    """A data set that says when it was open, before 32 MB of its images are hashed, which are as many at any size."""

    at = 0.0

    def check(self) -> int:
        self.at = time.perf_counter()
        return super().check()


def _batches(dataset: _Opened, started: float) -> Said:
    opened = dataset.at - started
    views = ReplayedViews(dataset)
    views.set_epoch(0)
    plan = batch_plan(0, 0, len(views), BATCH, groups=views.groups)
    made = batches(views, plan[:BATCHES], workers=1)
    next(made)
    first = time.perf_counter() - started
    for _ in made:
        _SILENCE.end()
    return {"opening": opened, "to the first batch": first}


def packing(root: Path) -> Said:
    """Pack."""
    started, at = time.perf_counter(), list[float]()

    def on_progress(done: int, total: int) -> None:
        _SILENCE.end()
        if done and not at:
            at.append(time.perf_counter() - started)

    options = Options(shard_bytes=40_000_000)
    pack(open_source(f"{root}/images"), root / "labels", root / "pack", options, on_progress)
    return {"to the first shard or sample told": at[0]}


def opened_pack(root: Path) -> Said:
    """Open the pack as `train` does, and make a few batches."""
    started = time.perf_counter()
    source = Shards.open(f"{root}/pack/*.tar")
    indexed = time.perf_counter() - started
    store = packed(source)
    return {"index": indexed} | _batches(_Opened(store, source), started)


def published(root: Path) -> Said:
    """Publish to a folder."""
    publish(root / "labels", f"{root}/published", "scale", LICENCES, _SILENCE.end)
    return {}


def pulled(root: Path) -> Said:
    """Pull from that folder."""
    pull(f"{root}/published", root / "pulled", on_progress=_SILENCE.end)
    return {}


def exported(root: Path) -> Said:
    """Export to ml-dr, without writing the files."""
    for _ in writer_of("ml-dr")(Store(root / "pulled"), 10):
        _SILENCE.end()
    return {}


STEPS: dict[str, Callable[[Path], Said]] = {
    "index": index,
    "index again": index,
    "generate": killed,
    "copy": copied,
    "resume": resumed,
    "verify": verified,
    "epoch": epoch,
    "pack": packing,
    "open pack": opened_pack,
    "publish": published,
    "pull": pulled,
    "export": exported,
}
"""By name, in order; each needs the ones before it."""


def _about(root: Path) -> dict[str, int]:
    about: dict[str, int] = json.loads((root / "about.json").read_text())
    return about


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def _tell(said: Said, seconds: float) -> None:
    _SILENCE.end()
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    own = (_status("VmHWM") - _IMPORTED) / 1024
    told = {
        "seconds": seconds,
        "cpu_s": sum(os.times()[:4]) - _CPU,
        "memory_mb": own,
        "workers_mb": max(0, children - _IMPORTED) / 1024,
        "parts": said | {"longest silence": _SILENCE.longest},
    }
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _IMPORTED = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest memory is counted from here on
    listen(lambda name, unit: _SILENCE.end)
    _SILENCE = _Silence()
    _begin, _CPU = time.perf_counter(), sum(os.times()[:4])
    _said = STEPS[sys.argv[2]](Path(sys.argv[1]))
    _tell(_said, time.perf_counter() - _begin)
