"""A student and a random batch with its labels, for the tests of tasks and losses."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from reinforce.teachers.models import create
from tests.conftest import CLASSES, SIZE

CPU = torch.device("cpu")
C = len(CLASSES)


def student(name: str = "test_resnet", classes: int = C) -> torch.nn.Module:
    torch.manual_seed(0)
    return create(name, weights=None, size=SIZE, kwargs={"num_classes": classes}, pretrained=False)


def batch(rows: int = 6, classes: int = C, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, logits, soft labels (one of them certain) and hard labels."""
    rng = np.random.default_rng(seed)
    images = torch.from_numpy(rng.integers(0, 256, (rows, 3, SIZE, SIZE), dtype=np.uint8))
    logits = torch.from_numpy(rng.normal(0, 3, (rows, classes)).astype(np.float32))
    soft = torch.from_numpy(rng.dirichlet(np.full(classes, 0.4), rows).astype(np.float32))
    soft[0] = F.one_hot(torch.tensor(1), classes)
    return images, logits, soft, torch.from_numpy(rng.integers(0, classes, rows))
