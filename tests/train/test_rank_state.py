"""Several processes have one state: what is measured is what is saved, and what is saved is all that a resumed run needs."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from reinforce.sources.folder import ImageFolder
from reinforce.train.checkpoint import load_checkpoint
from reinforce.train.evaluate import Validation
from reinforce.train.run import BEST, LAST
from tests.conftest import CLASSES, SIZE
from tests.train.conftest import CPU_RANK, differences, metrics_of
from tests.train.torchrun import run, torchrun

pytestmark = [pytest.mark.process, pytest.mark.slow]

BATCH_NORM = {"student": "test_resnet", "epochs": 2, "lr": 0.01, "warmup_epochs": 0}


@pytest.mark.parametrize("model_ema", [False, True], ids=["student", "average"])
def test_the_saved_weights_alone_score_what_two_processes_reported(
    images: Path, store: Path, val: Path, tmp_path: Path, model_ema: bool
) -> None:
    code, said, _ = run(2, [images, store, val], tmp_path / "run", **BATCH_NORM, model_ema=model_ema, model_ema_decay=0.7)
    assert code == 0, said
    line = max(reversed(metrics_of(tmp_path / "run")), key=lambda line: line["ema_top1" if model_ema else "top1"])
    student = timm.create_model("test_resnet", num_classes=len(CLASSES)).eval()
    student.load_state_dict(load_file(tmp_path / "run" / BEST))
    mean, std = (255 * torch.tensor(student.pretrained_cfg[k]).view(1, 3, 1, 1) for k in ("mean", "std"))
    validation = Validation(ImageFolder.open(val), list(CLASSES), len(CLASSES), SIZE, 0.875)
    found = validation.evaluate(lambda images: student((images.float() - mean) / std), CPU_RANK, 9, 0)
    reported = {k: line[("ema_" if model_ema else "") + k] for k in found}
    assert found == pytest.approx(reported, rel=1e-5)


def test_statistics_are_averaged_as_timm_averages_them(tmp_path: Path) -> None:
    (tmp_path / "averages.py").write_text(STATISTICS)
    done = torchrun(2, tmp_path / "averages.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["equal"] * 2


STATISTICS = """
import copy
import timm
import torch
from timm.utils.distributed import distribute_bn
from reinforce.train.ranks import joined
with joined("cpu") as ranks:
    torch.manual_seed(0)
    each_step = timm.create_model("test_efficientnet").train()
    at_the_end = copy.deepcopy(each_step)
    torch.manual_seed(ranks.rank)
    for step in range(3):
        images = torch.randn(4 + ranks.rank, 3, 32, 32)
        each_step(images), at_the_end(images)
        ranks.average_statistics(each_step)
    own = {k: v.clone() for k, v in at_the_end.named_buffers()}
    distribute_bn(at_the_end, 2, reduce=True)
    a, b = dict(each_step.named_buffers()), dict(at_the_end.named_buffers())
    assert any(not torch.allclose(own[k], b[k]) for k in b)
    assert all(torch.allclose(a[k], b[k]) for k in b)
    print("equal\\n", end="", flush=True)
"""


@pytest.mark.parametrize("student", ["test_vit", "test_efficientnet"])
def test_two_processes_that_are_stopped_and_resumed_end_like_undisturbed_ones(
    images: Path, store: Path, val: Path, tmp_path: Path, student: str
) -> None:
    """With dropout, so that the random state of each process counts; stopped by a crash in the middle of an epoch."""
    given = {
        **BATCH_NORM,
        "student": student,
        "save_every": 1,
        "batch_size": 6,
        "drop": 0.3,
        "drop_path": 0.2,
        "model_ema": True,
    }
    given |= {"model_ema_decay": 0.7}
    code, said, _ = run(2, [images, store, val], tmp_path / "whole", **given)
    assert code == 0, said
    code, said, _ = run(2, [images, store, val], tmp_path / "broken", **given, die=[1, 7])
    assert code != 0
    state = load_checkpoint(tmp_path / "broken" / LAST)
    assert (state["epoch"], state["step"]) == (1, 2)
    code, said, seen = run(2, [images, store, val], tmp_path / "broken", **given, resume=True)
    assert code == 0, said
    assert [len(steps) for steps in seen] == [2, 2]
    assert differences(tmp_path / "whole", tmp_path / "broken") == []
