"""Fixtures that several files share: real images in a folder, a small timm teacher with fixed weights, a generated store."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import timm
import torch
import urllib3.util.connection  # noqa: F401 - its import binds a socket, to see whether there is IPv6
from PIL import Image
from safetensors.torch import save_file

from reinforce.cli import main
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.settings import Settings, SourceInfo
from reinforce.sources import retry
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher import Teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.views.policy_text import parse_policy

pytest_plugins = ["tests.kinds"]

TEACHER = "test_resnet"
CLASSES = ("apple", "bread", "cheese")
IMAGES_PER_CLASS = 8
SIZE = 32
REAL_DATA = Path(__file__).parents[2] / "shared" / "data"

torch.set_num_threads(1)  # two test processes on two cores
hypothesis.settings.register_profile("suite", deadline=None)  # no test is about how fast a machine is
hypothesis.settings.load_profile("suite")


def picture(index: int, width: int = 60, height: int = 48) -> Image.Image:
    """A small picture with edges, a gradient and texture; another one for every index."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([(x * (3 + c) + y * (5 - c) + 40 * index) % 256 for c in range(3)], axis=-1).astype(np.int64)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    pixels[top : top + height // 3, left : left + width // 3] = rng.integers(0, 256, 3)
    return Image.fromarray(np.clip(pixels + rng.integers(-12, 13, pixels.shape), 0, 255).astype(np.uint8))


def write_folder(root: Path, per_class: int = IMAGES_PER_CLASS, first: int = 0) -> Path:
    """A labelled folder of JPEGs and PNGs of different sizes."""
    for c, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            number = first + c * per_class + i
            image = picture(number, 40 + 7 * i, 36 + 5 * c)
            if i % 4 == 3:
                image.save(root / name / f"{i:03d}.png")
            else:
                image.save(root / name / f"{i:03d}.jpg", quality=90)
    return root


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Indexes and remote files are kept where nothing of the user's is."""
    os.environ["REINFORCE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session", autouse=True)
def _short_pauses() -> None:
    """No test waits seconds for a server of its own."""
    retry.PAUSE_S = 0.01


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images in 3 class folders. Shared: copy it before changing it."""
    return write_folder(tmp_path_factory.mktemp("images") / "train")


@pytest.fixture
def own_images(images: Path, tmp_path: Path) -> Path:
    """A copy of `images` that a test may change."""
    return Path(shutil.copytree(images, tmp_path / "own_images"))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the teacher, for 3 classes, random but fixed; scaled up so that its labels are not all alike."""
    torch.manual_seed(7)
    state = timm.create_model(TEACHER, num_classes=len(CLASSES)).state_dict()
    state = {k: v * 3 if k.endswith("fc.weight") else v for k, v in state.items()}
    path = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    save_file(state, path)
    return path


@pytest.fixture(scope="session")
def teacher(weights: Path) -> Teacher:
    """The teacher, loaded."""
    spec = TeacherSpec(TEACHER, weights)
    return load_teacher(
        [spec], size=SIZE, class_names=list(CLASSES), class_map=None, device=torch.device("cpu"), precision="fp32"
    )


def generate_line(images: Path, weights: Path) -> tuple[object, ...]:
    """Options of `generate`: the small teacher, two small views of each image."""
    return ("--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE, "--views", 2)


def make_settings(source: ImageFolder, teacher: Teacher, **changes: object) -> Settings:
    """Settings for a small store: 24 samples in blocks of 7, 5 views."""
    values = {
        "source": SourceInfo(
            kind="folder", num_samples=len(source), class_names=list(source.class_names), index_sha256=source.index_sha256()
        ),
        "teachers": teacher.infos,
        "precision": "fp32",
        "policy": parse_policy("rrc-ra"),
        "size": SIZE,
        "views": 5,
        "seed": 3,
        "codec": {"name": "topk", "k": 2},
        "num_classes": teacher.infos[0].num_classes,
        "block_size": 7,
    }
    return Settings(**{**values, **changes})


@pytest.fixture(scope="session")
def store(images: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete reinforced dataset of `images`. Shared: copy it before changing it."""
    out = tmp_path_factory.mktemp("store") / "labels"
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), out, Execution(batch_size=16, workers=0))
    return out


@pytest.fixture
def own_store(store: Path, tmp_path: Path) -> Path:
    """A copy of `store` that a test may change."""
    return Path(shutil.copytree(store, tmp_path / "own_store"))


def content(root: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def run_cli(*arguments: object, cwd: str | Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `reinforce` in a fresh process, as a user does."""
    command = [sys.executable, "-m", "reinforce.cli.main", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, timeout=240)


Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def interrupts() -> Iterator[None]:
    """A command leaves Ctrl-C and errors of finalisers ignored, as its process ends then; a test that ran one here does not."""
    before, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    yield
    sys.unraisablehook = hook
    if signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["reinforce", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as done:
            main.main()
        return (int(done.value.code or 0), *capsys.readouterr())

    return call
