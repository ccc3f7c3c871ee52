"""Weights of more teachers, and what is read of labels that were generated, for several files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from safetensors.torch import save_file

from reinforce import ReinforcedDataset
from tests.conftest import CLASSES, SIZE, TEACHER, Cli

SECOND = "test_efficientnet"  # its mean and std are not those of TEACHER


def save_weights(path: Path, name: str, classes: int, seed: int) -> Path:
    torch.manual_seed(seed)
    model: Any = timm.create_model(name, num_classes=classes)
    head = model.get_classifier()
    with torch.no_grad():
        head.weight.mul_(20)  # labels that are not all alike
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def second_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("second") / "second.safetensors", SECOND, len(CLASSES), 1)


@pytest.fixture(scope="session")
def imagenet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("imagenet") / "imagenet.safetensors", TEACHER, 1000, 2)


def generate_wnids(cli: Cli, images: Path, weights: Path, out: Path, *more: object) -> tuple[int, str, str]:
    return cli(
        "generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--out", out, "--size", SIZE,
        "--views", 2, "--workers", 0, "--codec", "topk:2", *more,
    )  # fmt: skip


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in pq.read_table(out / "samples.parquet").to_pylist()}


def assert_labels_are(out: Path, images: Path, expected: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Every stored label is the top of `expected(views of the sample)`, to half precision."""
    dataset = ReinforcedDataset(out, images)
    for index in range(len(dataset)):
        views = torch.stack([dataset.replay(index, view) for view in range(dataset.views)])
        for probs, (ids, stored, remainder, _) in zip(
            expected(views).numpy(), dataset.store.labels_of(int(dataset.samples[index])), strict=True
        ):
            assert np.allclose(stored, probs[ids], rtol=2**-9, atol=2e-5)
            assert abs(remainder - (1 - probs[ids].sum())) < 2e-3
            assert np.delete(probs, ids).max(initial=0) <= probs[ids].min() + 2e-5
