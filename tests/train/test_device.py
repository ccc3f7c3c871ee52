"""A step on a device that works by itself: once the batch is there, nothing is copied to it, nothing read back.

The device is torch's `meta`, which computes shapes and holds no values: whatever asks it for one fails, as it would wait on a
GPU, and a tensor that comes from elsewhere is seen.
"""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reinforce.labels.sparse import SparseLabel, SparseLabels, Tail
from reinforce.replay.targets import Targets
from reinforce.train.losses import LossWeights
from reinforce.train.ranks import Ranks
from reinforce.train.recipe import load_recipe
from reinforce.train.step import Stepper
from reinforce.train.step_bench import a_batch
from reinforce.train.tasks import ReplayTask

pytestmark = pytest.mark.unit

META = torch.device("meta")
CLASSES = 10


class Crossings(TorchDispatchMode):
    """Notes the operations that have tensors on both sides, the device's and the host's."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, torch.Tensor) and t.numel()]
        if len({t.device.type for t in given}) > 1:
            self.names.append(str(func))
        return result


def mixed(targets: Targets) -> Targets:
    return Targets(targets.hard, targets.soft, targets.hard.flip(0), torch.full((len(targets.hard),), 0.5))


@pytest.mark.parametrize("weights", [
    LossWeights(),
    LossWeights(task=0.5, smoothing=0.1),
    LossWeights(distill_type="hard", alpha=0.5, alpha_ramp=2.0),
    LossWeights(discriminator=0.3),
    LossWeights(task=1.0, cosub=True),
], ids=["soft", "hard labels too", "deit", "discriminator", "cosub"])  # fmt: skip
@pytest.mark.parametrize("mixing", [False, True], ids=["alone", "mixed"])
def test_a_step_copies_nothing_to_its_device_and_reads_nothing_back(weights: LossWeights, mixing: bool) -> None:
    student = timm.create_model("test_resnet", num_classes=CLASSES).to(META)
    task, ranks = ReplayTask(student, weights, META), Ranks(0, 1, META)
    stepper = Stepper(task, load_recipe("kd", {"amp": False, "batch_size": 4, "clip_grad": 1.0}), 10, ranks)
    task.train()
    images, targets = a_batch(4, 32, CLASSES)
    images, targets = images.to(META), (mixed(targets) if mixing else targets).to(META)
    for update in range(2):
        with Crossings() as crossings:
            stepper.begin(update)
            stepper.accumulate(images, targets, 1.0, True)
            stepper.finish(update)
        assert crossings.names == []


def test_tail_weights_are_powers_of_two_to_the_bit() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    label = SparseLabel(
        torch.zeros(0).long().numpy(), torch.zeros(0).numpy(), 1.0, Tail(levels.long().numpy(), levels.numpy(), 1.0)
    )
    found = SparseLabels.stack([label], 257).dense()[0]
    expected = torch.cat([0.5 ** levels.clamp(max=63).double(), torch.ones(1).double()])
    assert torch.equal(found[:256] / found[256], expected[:256].float())
