"""Demo: shows what Reinforce is for, on the 1,797 real handwritten digits of scikit-learn, in a few minutes on two cores.

The teacher learns from 1,000 labelled digits. A user has this teacher, but only 100 digits. The same small student is trained
on these 100 digits twice, for the same number of epochs: on hard labels (plain), and by replay of views with the teacher's
labels.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from reinforce.errors import UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.codecs import parse_codec
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.settings import Settings, SourceInfo
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.train.compare import compare_modes
from reinforce.train.config import TrainConfig
from reinforce.train.loop import train
from reinforce.train.recipe import load_recipe
from reinforce.train.run import BEST
from reinforce.verification.summary import summarise
from reinforce.verification.verify import require, verify_labels, verify_pixels, verify_store
from reinforce.views.policy_text import parse_policy

# Digits lose their meaning when mirrored or cut small.
POLICY = "rrc-ra:scale=0.5-1,hflip=0,m=5"
SIZE, VIEWS = 32, 40
TEACHER, STUDENT = "resnet10t", "test_resnet"
TEACHER_IMAGES, STUDENT_IMAGES = 1000, 100
TEACHER_EPOCHS, STUDENT_EPOCHS = 15, 80


def run_demo(out: Path, seeds: list[int], say: Callable[[str], None]) -> dict[str, Any]:
    """Delete `out` and run the demo in it; returns accuracies, bytes per view and speeds, all measured in this run."""
    shutil.rmtree(out, ignore_errors=True)
    say(f"writing digits as {SIZE}x{SIZE} PNGs to {out}/images")
    write_digits(out / "images")
    folder = {name: ImageFolder.open(out / "images" / name) for name in ("teacher", "train", "val")}

    say(f"training the teacher, {TEACHER}, on {TEACHER_IMAGES} labelled digits")
    recipe = load_recipe("kd", {"epochs": TEACHER_EPOCHS, "batch_size": 64, "lr": 2e-3, "warmup_epochs": 2, "crop_pct": 1.0})
    teacher_config = TrainConfig(
        student=TEACHER,
        data=folder["teacher"].location,
        out=out / "teacher",
        recipe=recipe,
        mode="plain",
        size=SIZE,
        policy=POLICY,
        val=folder["val"].location,
    )
    teacher_top1 = train(teacher_config)["last"]["top1"]

    say(f"generating {VIEWS} views of each of the student's {STUDENT_IMAGES} digits")
    spec = TeacherSpec(TEACHER, out / "teacher" / BEST)
    source, names = folder["train"], list(folder["train"].class_names)
    teacher = load_teacher([spec], size=SIZE, class_names=names, class_map=None, device=torch.device("cpu"), precision="fp32")
    settings = Settings(
        source=SourceInfo(kind="folder", num_samples=len(source), class_names=names, index_sha256=source.index_sha256()),
        teachers=teacher.infos,
        precision="fp32",
        policy=parse_policy(POLICY),
        size=SIZE,
        views=VIEWS,
        seed=0,
        codec=parse_codec("sqrt").to_dict(),
        num_classes=len(names),
        block_size=50,
    )
    generate(source, teacher, settings, out / "labels", Execution(workers=0))

    say("verifying files, pixels and labels")
    dataset = ReinforcedDataset(out / "labels", source)
    checks = [*verify_store(out / "labels"), *verify_pixels(dataset, None, workers=0), verify_labels(dataset, teacher, 200, 64)]
    require(checks)

    say(f"training the student, {STUDENT}, {STUDENT_EPOCHS} epochs, replayed and plain, {len(seeds)} seeds each")
    recipe = load_recipe("kd", {"epochs": STUDENT_EPOCHS, "batch_size": 50, "lr": 4e-3, "warmup_epochs": 2, "crop_pct": 1.0})
    config = TrainConfig(
        student=STUDENT,
        data=source.location,
        out=out / "students",
        recipe=recipe,
        labels=out / "labels",
        val=folder["val"].location,
        workers=0,
        save_every=0,
    )
    rows = compare_modes(config, seeds, modes=("replay", "plain"), on_run=say)
    return {
        "teacher_top1": teacher_top1,
        "bytes_per_view": summarise(out / "labels")["bytes_per_view"],
        "checks": {c.name: [c.total - c.failed, c.total] for c in checks},
        "views_checked": len(dataset) * dataset.store.settings.views,
        "rows": rows,
    }


def table(result: dict[str, Any]) -> str:
    """The result as text for people."""
    lines = [
        (
            f"student {STUDENT}, {STUDENT_IMAGES} training digits, {STUDENT_EPOCHS} epochs; "
            f"teacher {TEACHER}: {result['teacher_top1']:.1f} % top-1"
        ),
        "| mode | top-1 % | lowest to highest | img/s | bytes per view |",
        "|---|---|---|---|---|",
    ]
    sizes = result["bytes_per_view"]
    stored = f"{sizes['labels']:.1f} labels + {sizes['params']:.1f} params"
    for row in result["rows"]:
        top1, rate = row["top1"], row["images_per_second"]["value"]
        size = stored if row["mode"] == "replay" else "-"
        lines.append(f"| {row['mode']} | {top1['value']:.1f} | {top1['low']:.1f} to {top1['high']:.1f} | {rate:.0f} | {size} |")
    replay, plain = (r["top1"]["value"] for r in result["rows"])
    verdict = "the replayed student wins" if replay > plain else "the replayed student does not win here"
    lines.append(f"{verdict}: {replay:.1f} % against {plain:.1f} %; all {result['views_checked']} views replayed byte for byte")
    return "\n".join(lines)


def write_digits(root: Path) -> None:
    """Write scikit-learn's digits (1,797 grey 8x8 images) as RGB PNGs in three disjoint folders: teacher, train and val.

    Raises:
        UsageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError("The demo needs scikit-learn for its images.", fix="pip install 'reinforce[demo]'") from None
    digits = load_digits()
    grey = np.clip(digits.images * 255 / 16, 0, 255).astype(np.uint8)
    train_end = TEACHER_IMAGES + STUDENT_IMAGES
    for i, (pixels, label) in enumerate(zip(grey, digits.target, strict=True)):
        part = "teacher" if i < TEACHER_IMAGES else "train" if i < train_end else "val"
        folder = root / part / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(folder / f"{i:04d}.png")
