"""Labels through the whole product, whichever codec stores them: generated, measured, verified, shown, learnt from."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reinforce import ReinforcedDataset
from reinforce.bench.codec_bench import load_probs
from reinforce.errors import DataError, SettingsError, UsageError
from reinforce.generation.block_labels import MEASURE_EVERY, block_samples
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.labels.codecs import NAMED_CODECS, parse_codec
from reinforce.labels.fidelity import measure
from reinforce.labels.sparse import SparseLabels
from reinforce.settings import Settings
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import Block
from reinforce.store.store import Store, read_manifest
from reinforce.teachers.teacher import Teacher
from reinforce.verification.verify import verify_labels, verify_store
from reinforce.views.pixels import ViewMaker
from tests.conftest import SIZE, TEACHER, Cli, make_settings

pytestmark = pytest.mark.unit


def settings_of(source: ImageFolder, teacher: Teacher, codec: str) -> Settings:
    return make_settings(source, teacher, codec=parse_codec(codec).to_dict())


@pytest.fixture(scope="module")
def sqrt_store(images: Path, teacher: Teacher, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = ImageFolder.open(images), tmp_path_factory.mktemp("sqrt") / "labels"
    generate(source, teacher, settings_of(source, teacher, "sqrt"), out, Execution(16, workers=0))
    return out


def answers(teacher: Teacher, maker: ViewMaker, samples: np.ndarray) -> np.ndarray:
    """What the teacher said of a block, in the batches that `generate` makes of it: float32 `[S, V, C]`."""
    views = torch.cat([maker[s].pixels for s in samples])
    probs = torch.cat([teacher(batch) for batch in views.split(16)]).numpy()
    return probs.reshape(len(samples), -1, probs.shape[1])


@pytest.mark.parametrize("tier", NAMED_CODECS)
def test_a_record_is_all_views_of_a_sample_through_the_codec(images: Path, teacher: Teacher, tmp_path: Path, tier: str) -> None:
    source = ImageFolder.open(images)
    settings = settings_of(source, teacher, tier)
    generate(source, teacher, settings, tmp_path / "out", Execution(16, workers=0))
    store, maker = Store(tmp_path / "out"), ViewMaker(source, settings)
    assert store.codec == NAMED_CODECS[tier]
    for block in range(settings.num_blocks):
        samples = block_samples(settings, block)
        for row, probs in enumerate(answers(teacher, maker, samples)):
            assert bytes(store.block(block).record(row)) == NAMED_CODECS[tier].encode(probs)
    assert not any(check.failed for check in verify_store(tmp_path / "out"))


def test_what_the_codec_loses_is_measured_while_the_truth_is_at_hand(images: Path, teacher: Teacher, sqrt_store: Path) -> None:
    source, store = ImageFolder.open(images), Store(sqrt_store)
    settings, maker = store.settings, ViewMaker(source, store.settings)
    expected = np.full((24, 3), np.nan, np.float32)
    for block in range(settings.num_blocks):
        samples = block_samples(settings, block)
        for sample, probs in zip(samples, answers(teacher, maker, samples), strict=True):
            if sample % MEASURE_EVERY == 0:
                lost = measure(store.codec, store.codec.encode(probs), probs)
                expected[sample] = np.round([lost.kl.mean(), lost.top1_bias.mean(), lost.image_bias], 6)
    stored = np.concatenate([store.block(b).label_error() for b in range(settings.num_blocks)])
    assert np.array_equal(stored, expected, equal_nan=True)
    statistics = store.manifest.statistics
    means = np.nanmean(expected.astype(np.float64), axis=0)
    assert statistics.codec_samples == 2  # samples 0 and 16 of 24
    assert [statistics.codec_kl, statistics.codec_top1_bias, statistics.codec_image_bias] == pytest.approx(means, abs=1e-9)
    assert statistics.codec_kl is not None
    assert statistics.codec_kl > 0


def test_inspect_says_what_the_codec_lost(sqrt_store: Path, cli: Cli) -> None:
    code, text, _ = cli("inspect", sqrt_store)
    assert code == 0
    statistics = read_manifest(sqrt_store).statistics
    (line,) = [line for line in text.splitlines() if line.startswith("codec error ")]
    assert f"KL {statistics.codec_kl:.4f} nats" in line
    assert f"bias of an image {statistics.codec_image_bias:.4f}" in line
    assert "on all views of 2 samples" in line
    assert "codec       sqrt\n" in text
    assert json.loads(cli("inspect", sqrt_store, "--json")[1])["statistics"]["codec_kl"] == statistics.codec_kl


def test_nothing_is_said_where_nothing_was_measured(own_images: Path, teacher: Teacher, tmp_path: Path, cli: Cli) -> None:
    for name in ("apple/000.jpg", "cheese/000.jpg"):  # samples 0 and 16
        (own_images / name).write_bytes(b"no image")
    source = ImageFolder.open(own_images)
    manifest = generate(source, teacher, settings_of(source, teacher, "sqrt"), tmp_path / "out", Execution(16, workers=0))
    assert (manifest.statistics.codec_samples, manifest.statistics.codec_kl) == (0, None)
    assert "codec error" not in cli("inspect", tmp_path / "out")[1]


def test_the_teacher_gives_the_stored_labels_again_up_to_the_codecs_error(
    images: Path, teacher: Teacher, sqrt_store: Path
) -> None:
    dataset = ReinforcedDataset(sqrt_store, images)
    check = verify_labels(dataset, teacher, views=12, batch_size=16)
    assert (check.failed, check.total) == (0, 1)
    assert "over 15 views" in check.note  # three whole records of five
    stored, own = (float(check.note.split(word)[1].split()[0].strip(",")) for word in ("stored)", "own error"))
    assert stored == pytest.approx(own, rel=1e-3)
    assert own > 1e-5


def test_another_teacher_is_found_behind_the_codecs_error(images: Path, teacher: Teacher, sqrt_store: Path) -> None:
    class Duller(Teacher):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            probs: torch.Tensor = teacher(images) ** 0.8
            return probs / probs.sum(dim=1, keepdim=True)

    check = verify_labels(ReinforcedDataset(sqrt_store, images), Duller(), views=60, batch_size=16)
    assert check.failed == 1


def test_a_data_set_item_is_the_decoded_label(images: Path, sqrt_store: Path) -> None:
    dataset = ReinforcedDataset(sqrt_store, images)
    for index in (0, 5, 23):
        _, soft, _ = dataset[index]
        label = dataset.store.label_of(index, dataset.view_of(index))
        assert torch.equal(soft, SparseLabels.stack([label], 3).dense()[0])
        assert abs(float(soft.sum()) - 1) < 1e-6


@pytest.mark.process
def test_a_student_learns_from_it(images: Path, sqrt_store: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli(
        "train", "--student", "test_resnet", "--data", images, "--labels", sqrt_store, "--epochs", 1, "--batch-size", 8,
        "--workers", 1, "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["loss"] > 0


@pytest.mark.parametrize("codec", ["sqrt-tiny", "sqrt:0.05", "topk:3"])
def test_another_codec_on_the_same_output_is_refused(
    images: Path, weights: Path, teacher: Teacher, sqrt_store: Path, codec: str, cli: Cli
) -> None:
    source = ImageFolder.open(images)
    with pytest.raises(SettingsError, match="codec"):
        generate(source, teacher, settings_of(source, teacher, codec), sqrt_store, Execution(16, workers=0))


def test_sqrt_is_what_generate_does_when_nothing_is_said(images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    line = ["generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE, "--views", 2]
    assert cli(*line, "--workers", 0, "--out", tmp_path / "out")[0] == 0
    assert read_manifest(tmp_path / "out").settings.codec == {"name": "sqrt", "delta": 0.1}


def test_a_forged_measurement_is_damage(sqrt_store: Path) -> None:
    block = Block(sqrt_store / "blocks" / "000000.zarr", 7, 5, len(Store(sqrt_store).manifest.params_fields))
    assert block.label_error().shape == (7, 3)


# bench codec


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.fixture
def logits(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    values = rng.normal(0, 3, (6, 1, 50)) + rng.normal(0, 1.5, (6, 8, 50))
    np.savez_compressed(tmp_path / "logits.npz", logits=values.astype(np.float16))
    return tmp_path / "logits.npz"


def test_bench_codec_measures_every_tier_and_topk_both_ways(logits: Path, cli: Cli) -> None:
    code, text, err = cli("bench", "codec", "--logits", logits, "--json")
    assert code == 0, err
    result = json.loads(text)
    names = [(row["codec"], row["remainder"]) for row in result["rows"]]
    both = [(f"topk:{k}", how) for k in (5, 10, 20) for how in ("spread", "dropped")]
    assert names == [(tier, "spread") for tier in NAMED_CODECS] + both
    assert result["conditions"]["images"] == 6
    rows = dict(zip(names, result["rows"], strict=True))
    assert rows["topk:5", "spread"]["bytes_per_view"] == 20
    assert rows["topk:5", "dropped"]["kl"] is None  # what the teacher holds possible has probability zero
    assert rows["topk:5", "dropped"]["top1_bias"] > 0.001
    assert rows["sqrt-near", "spread"]["kl"] < rows["sqrt-tiny", "spread"]["kl"]
    code, text, _ = cli("bench", "codec", "--logits", logits, "--codec", "topk:5", "--codec", "sqrt:0.3")
    assert code == 0
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:5]] == ["topk:5", "topk:5", "sqrt:0.3"]
    assert "| topk:5 | dropped | 20.00 | inf | inf |" in text
    assert "| 100.00 % |" in text.splitlines()[2]


def test_what_bench_codec_prints_is_so(logits: Path, cli: Cli) -> None:
    probs, _ = load_probs(logits)
    codec = parse_codec("sqrt")
    records = [codec.encode(p) for p in probs]
    row = json.loads(cli("bench", "codec", "--logits", logits, "--codec", "sqrt", "--json")[1])["rows"][0]
    lost = [measure(codec, record, p) for record, p in zip(records, probs, strict=True)]
    assert row["bytes_per_view"] == sum(map(len, records)) / 48
    assert row["kl"] == pytest.approx(np.mean([fidelity.kl for fidelity in lost]))
    assert row["image_bias"] == pytest.approx(np.mean([fidelity.image_bias for fidelity in lost]))
    assert row["same_top"] == 1
    every = np.concatenate([SparseLabels.stack(codec.decode_all(r, 8, 50), 50).dense().double().numpy() for r in records])
    truth = np.concatenate(probs).astype(np.float64)
    softer = (truth * np.log(truth)).sum(axis=1) - (every * np.log(every)).sum(axis=1)
    assert row["entropy_bias"] == pytest.approx(softer.mean(), rel=1e-3)
    dense = SparseLabels.stack(codec.decode_all(records[0], 8, 50), 50).dense().double().numpy()
    true = probs[0] / probs[0].sum(axis=1, keepdims=True)
    assert lost[0].kl == pytest.approx((true * np.log(true / dense)).sum(axis=1), rel=1e-5)
    assert lost[0].total_variation == pytest.approx(np.abs(true - dense).sum(axis=1) / 2, rel=1e-5)


def test_a_temperature_is_found_for_a_mean_top1(logits: Path) -> None:
    for target in (0.3, 0.9):
        probs, about = load_probs(logits, views=4, top1=target)
        assert probs.shape == (6, 4, 50)
        assert probs.max(axis=-1).mean() == pytest.approx(target, abs=1e-3)
        assert about["mean_top1"] == pytest.approx(target, abs=1e-3)
    with pytest.raises(UsageError, match=r"No temperature gives a mean top-1 probability of 0\.01"):
        load_probs(logits, top1=0.01)


def test_bench_codec_makes_up_labels_of_any_number_of_classes(logits: Path, cli: Cli) -> None:
    code, text, err = cli("bench", "codec", "--classes", 300, "--views", 3, "--codec", "topk:10", "--json")
    assert code == 0, err
    result = json.loads(text)
    assert {"logits": "made up", "images": 8, "views": 3, "classes": 300}.items() <= result["conditions"].items()
    assert result["rows"][0]["same_top"] == 1
    assert 0.1 < result["conditions"]["mean_top1"] < 0.9
    for both in ([], ["--logits", logits, "--classes", 300], ["--classes", 300, "--top1", 0.5]):
        code, text, err = cli("bench", "codec", *both)
        assert (code, text) == (2, "")
        assert "What to encode is not clear" in err


def write_torn(path: Path) -> None:
    np.savez(path, logits=np.zeros((1, 2, 3)))
    path.write_bytes(path.read_bytes()[:-30])


@pytest.mark.parametrize(
    "write",
    [
        lambda p: p.write_bytes(b"no npz"),
        lambda p: p.write_bytes(b""),
        lambda p: np.savez(p, other=np.zeros((1, 2, 3))),
        lambda p: np.savez(p, logits=np.zeros((2, 3))),
        lambda p: np.savez(p, logits=np.zeros((1, 2, 3), np.int64)),
        lambda p: np.savez(p, logits=np.full((1, 2, 3), np.nan)),
        lambda p: np.savez(p, logits=np.array([{"a": 1}], object)),
        lambda p: p.write_bytes(npy(np.zeros((1, 2, 3)))),
        write_torn,
        lambda p: np.savez(p, logits=np.zeros((0, 2, 3))),
        lambda p: None,
    ],
)
def test_a_file_without_logits_is_refused_in_words(tmp_path: Path, cli: Cli, write: Any) -> None:
    path = tmp_path / "logits.npz"
    write(path)
    with pytest.raises(DataError, match="holds no logits"):
        load_probs(path)
    code, text, err = cli("bench", "codec", "--logits", path)
    assert (code, text) == (1, "")
    assert "holds no logits" in err
    assert "np.savez_compressed" in err
