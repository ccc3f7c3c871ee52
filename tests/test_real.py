"""With a real ImageNet teacher and real photographs, where they are at hand: the worked example of tests/bench in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REAL_DATA, run_cli

TEACHER = REAL_DATA / "weights" / "mobilenetv2_100_tf2_ptq_dequant.pth"
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not TEACHER.is_file(), reason="no real teacher and images beside the checkout"),
    pytest.mark.slow,
]
VIEWS_AGAIN = """
import sys, zlib, numpy as np
from reinforce.views.layout import pixel_spec
from reinforce.views.apply import apply
from reinforce.views.decode import decode
from reinforce.views.draw import draw
from reinforce.views.seeds import view_rng
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce import ReinforcedDataset
from torch.utils.data import DataLoader

store, source = Store(sys.argv[1]), ImageFolder.open(sys.argv[2])
dataset = ReinforcedDataset(sys.argv[1], source)
s = store.settings

class Views:  # replayed by three worker processes
    picks = [tuple(map(int, p)) for p in np.random.default_rng(11).integers(0, [len(dataset), s.views], (200, 2))]
    def __len__(self): return len(self.picks)
    def __getitem__(self, i): return zlib.crc32(dataset.replay(*self.picks[i]).numpy().tobytes())

equal = 0
for (index, view), replayed in zip(Views.picks, DataLoader(Views(), batch_size=None, num_workers=3)):
    position = source.keys.index(store.samples.keys[dataset.samples[index]])
    image = decode(source.read(position))
    params = draw(view_rng(s.seed, int(dataset.samples[index]), view), s.policy, s.size, image.shape[1], image.shape[0])
    equal += zlib.crc32(apply(image, params, pixel_spec(s.policy, s.size)).numpy().tobytes()) == replayed
print(equal)
"""


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("real") / "imagenette"
    done = run_cli(
        "generate", "--data", REAL_DATA / "imagenette" / "train", "--teacher", "mobilenetv2_100", "--teacher-weights", TEACHER,
        "--teacher-kwargs", "pad_type=same", "mean=0.5", "std=0.5", "--class-map", "auto", "--policy", "rrc-ra", "--size", 128,
        "--views", 4, "--limit", 100, "--block-size", 30, "--workers", 1, "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_a_label_map_of_the_real_teacher_knows_the_whole_images(tmp_path: Path) -> None:
    source, out = REAL_DATA / "imagenette" / "train", tmp_path / "maps"
    done = run_cli(
        "generate", "--labels", "map", "--data", source, "--teacher", "mobilenetv2_100", "--teacher-weights", TEACHER,
        "--teacher-kwargs", "pad_type=same", "mean=0.5", "std=0.5", "--class-map", "auto", "--size", 160, "--limit", 40,
        "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(run_cli("inspect", out, "--json").stdout)
    assert summary["statistics"]["hard_label_agreement"] > 0.8
    assert summary["statistics"]["codec_kl"] < 1e-4  # all ten classes are listed
    done = run_cli("verify", out, "--data", source, "--teacher-weights", TEACHER, "--views", 40)
    assert done.returncode == 0, done.stdout + done.stderr


def test_200_of_200_views_replay_in_a_fresh_process_with_other_workers(labels: Path) -> None:
    command: list[str | Path] = [sys.executable, "-W", "ignore", "-c", VIEWS_AGAIN, labels, REAL_DATA / "imagenette" / "train"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "200", done.stderr


def test_labels_are_the_teachers_up_to_the_codecs_own_error(labels: Path) -> None:
    done = run_cli("verify", labels, "--data", REAL_DATA / "imagenette" / "train", "--teacher-weights", TEACHER, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    checks = {c["name"]: c for c in json.loads(done.stdout)["checks"]}
    assert checks["images and probes"]["total"] == 100
    assert "codec's own error" in checks["labels against the teacher"]["note"]


def test_the_real_teacher_knows_most_views_of_its_own_classes(labels: Path) -> None:
    summary = json.loads(run_cli("inspect", labels, "--json").stdout)
    assert summary["statistics"]["hard_label_agreement"] > 0.7
    assert summary["statistics"]["codec_samples"] == 7  # every sixteenth of 100
    assert summary["statistics"]["codec_kl"] < 0.02
    assert summary["bytes_per_view"]["labels"] < 14  # four views of ten classes


def test_photographs_at_original_sizes_without_labels(tmp_path: Path) -> None:
    out = tmp_path / "labels"
    done = run_cli(
        "generate", "--data", REAL_DATA / "imagenet_sample", "--teacher", "mobilenetv2_100", "--teacher-weights", TEACHER,
        "--teacher-kwargs", "pad_type=same", "--size", 96, "--views", 2, "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run_cli("verify", out, "--data", REAL_DATA / "imagenet_sample", "--views", 100)
    assert done.returncode == 0, done.stdout
    assert "ok     stripes replayed: 50 of 50; 100 views of 286" in done.stdout
    assert "ok     images and probes: 143 of 143" in done.stdout
