"""Stage one: the labels are the teacher's, whatever the batches, the workers, and the state of the images."""

from __future__ import annotations

import errno
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import reinforce.views.pixels
from reinforce import ReinforcedDataset
from reinforce.errors import LabelError, StoreError, TeacherError, UsageError
from reinforce.generation.block_labels import block_samples
from reinforce.generation.generate import Execution, generate, limit_source
from reinforce.labels.topk import TopK
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import committed_blocks
from reinforce.store.store import Store, read_manifest
from reinforce.teachers.teacher import TeacherSpec, load_teacher
from reinforce.views.pixels import ViewMaker
from reinforce.views.policy_text import parse_policy
from tests.conftest import CLASSES, SIZE, TEACHER, Cli, make_settings, picture

SECOND = "test_efficientnet"  # its mean and std are not those of TEACHER
WNIDS = {"n01440764": 0, "n03445777": 574, "n03888257": 701}


def save_weights(path: Path, name: str, classes: int, seed: int) -> Path:
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=classes)
    head = model.get_classifier()
    with torch.no_grad():
        head.weight.mul_(20)  # labels that are not all alike
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def second_weights(tmp_path_factory) -> Path:
    return save_weights(tmp_path_factory.mktemp("second") / "second.safetensors", SECOND, len(CLASSES), 1)


@pytest.fixture(scope="module")
def imagenet_weights(tmp_path_factory) -> Path:
    return save_weights(tmp_path_factory.mktemp("imagenet") / "imagenet.safetensors", TEACHER, 1000, 2)


@pytest.fixture(scope="module")
def wnid_images(tmp_path_factory) -> Path:
    """Two images of each of three ImageNet classes, in folders named by WordNet id."""
    root = tmp_path_factory.mktemp("wnids") / "train"
    for c, wnid in enumerate(WNIDS):
        (root / wnid).mkdir(parents=True)
        for i in range(2):
            picture(10 * c + i).save(root / wnid / f"{i}.png")
    return root


class ExactTeacher:
    """A stand-in whose answer for a view depends on nothing but the view, to the last bit; notes its batches."""

    def __init__(self, teacher: Any) -> None:
        self.infos = teacher.infos
        self.batches: list[int] = []

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        assert images.dtype == torch.uint8
        self.batches.append(len(images))
        mass = images.to(torch.int64).sum(dim=(2, 3)).double() + 1  # one class per channel
        return (mass / mass.sum(dim=1, keepdim=True)).float()


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in pq.read_table(out / "samples.parquet").to_pylist()}


def by_hand(name: str, weights: Path, pixels: torch.Tensor, mean: float | tuple, std: float | tuple) -> torch.Tensor:
    """Logits as a reader of timm's documentation would compute them."""
    state = load_file(weights)
    head = timm.get_pretrained_cfg(name).classifier
    model = timm.create_model(name, num_classes=len(state[f"{head}.weight"])).eval()
    model.load_state_dict(state)
    mean, std = (torch.tensor(v).reshape(1, -1, 1, 1) for v in (mean, std))
    with torch.no_grad():
        return model((pixels.float() / 255 - mean) / std)


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


# Labels


@pytest.mark.parametrize("batch_size", [16, 100])
def test_records_are_the_teachers_answers_on_the_views_batch_by_batch(images, teacher, tmp_path, batch_size) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher)
    generate(source, teacher, settings, tmp_path / "out", Execution(batch_size, workers=0))
    maker, store = ViewMaker(source, settings), Store(tmp_path / "out")
    for block in range(settings.num_blocks):
        samples = block_samples(settings, block)
        views = torch.cat([maker[s].pixels for s in samples])
        probs = torch.cat([teacher(batch) for batch in views.split(batch_size)]).numpy()
        for row, own in enumerate(np.split(probs, len(samples))):
            assert bytes(store.block(block).record(row)) == TopK(2).encode(own)
        params = np.stack([maker[s].params for s in samples])
        assert np.array_equal(store.block(block).params(), params)


def test_the_number_of_workers_changes_no_byte(images, store, teacher, tmp_path) -> None:
    source = ImageFolder.open(images)
    for workers in (1, 3):  # `store` was made by none
        out = tmp_path / str(workers)
        generate(source, teacher, make_settings(source, teacher), out, Execution(16, workers))
        assert content(out) == content(store)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_another_batch_size_gives_the_same_labels_within_rounding_and_the_same_pixels(
    images, store, teacher, tmp_path, batch_size
) -> None:
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(batch_size, workers=0))
    here, there = Store(tmp_path / "out"), Store(store)
    for sample in range(len(source)):
        for (ids, probs, rest, _), (other_ids, other_probs, other_rest, _) in zip(
            here.labels_of(sample), there.labels_of(sample), strict=True
        ):
            assert ids.tolist() == other_ids.tolist()
            assert np.allclose(probs, other_probs, atol=1e-3)
            assert abs(rest - other_rest) < 2e-3
    for block in range(here.settings.num_blocks):
        assert np.array_equal(here.block(block).params(), there.block(block).params())
        assert np.array_equal(here.block(block).probes(), there.block(block).probes())


def test_regrouping_into_batches_gives_every_view_its_own_answer_and_never_crosses_a_block(images, teacher, tmp_path) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher)
    views_of_block = [settings.views * len(block_samples(settings, b)) for b in range(settings.num_blocks)]
    assert views_of_block == [35, 35, 35, 15]
    reference: dict[str, bytes] = {}
    for batch_size in (1, 4, 7, 35, 1000):
        exact = ExactTeacher(teacher)
        generate(source, exact, settings, tmp_path / str(batch_size), Execution(batch_size, workers=0))
        made = content(tmp_path / str(batch_size))
        reference = reference or made
        assert made == reference
        expected = [min(batch_size, n - start) for n in views_of_block for start in range(0, n, batch_size)]
        assert exact.batches == expected


def test_regrouping_survives_images_that_cannot_be_used(own_images, teacher, tmp_path) -> None:
    for name in ("apple/000.jpg", "apple/003.png", "apple/006.jpg", "cheese/007.png"):  # first, middle, last of their blocks
        (own_images / name).write_bytes(b"no image")
    source = ImageFolder.open(own_images)
    exact = ExactTeacher(teacher)
    for batch_size in (1, 3, 16):
        out = tmp_path / str(batch_size)
        generate(source, exact, make_settings(source, teacher), out, Execution(batch_size, workers=0))
        assert content(out) == content(tmp_path / "1")
    maker, store = ViewMaker(source, make_settings(source, teacher)), Store(tmp_path / "16")
    for sample in store.ok_samples.tolist():
        block, row = divmod(sample, 7)
        assert bytes(store.block(block).record(row)) == TopK(2).encode(exact(maker[sample].pixels).numpy())


@pytest.mark.parametrize("policy", ["none", "rrc", "rrc:interpolation=random,hflip=1", "rrc-ra:scale=0.25-1,m=9"])
def test_every_policy_is_replayed_as_it_was_generated(images, weights, tmp_path, cli, policy) -> None:
    code, _, err = cli(
        "generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--out", tmp_path / "out",
        "--policy", policy, "--size", 40, "--views", 4, "--block-size", 10, "--workers", 1, "--codec", "topk:1", "--seed", 8,
    )  # fmt: skip
    assert code == 0, err
    dataset = ReinforcedDataset(tmp_path / "out", images)
    settings = dataset.store.settings
    assert settings.policy == parse_policy(policy)
    maker = ViewMaker(ImageFolder.open(images), settings)
    different = set()
    for index in range(len(dataset)):
        pixels = maker[index].pixels
        assert torch.equal(pixels, torch.stack([dataset.replay(index, view) for view in range(4)]))
        different.add(any(not torch.equal(pixels[0], other) for other in pixels[1:]))
    assert different == {policy != "none"}
    teacher = load_teacher(
        [TeacherSpec(TEACHER, weights)],
        size=40,
        class_names=list(CLASSES),
        class_map=None,
        device=torch.device("cpu"),
        precision="fp32",
    )
    assert_labels_are(tmp_path / "out", images, teacher)


@pytest.mark.parametrize("views", [1, 6])
def test_an_image_is_decoded_once_for_all_its_views(images, teacher, tmp_path, monkeypatch, views) -> None:
    decoded: Counter[bytes] = Counter()
    real = reinforce.views.pixels.decode

    def counting(encoded: bytes) -> np.ndarray:
        decoded[encoded] += 1
        return real(encoded)

    monkeypatch.setattr(reinforce.views.pixels, "decode", counting)
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher, views=views), tmp_path / "out", Execution(16, workers=0))
    assert len(decoded) == len(source)
    assert set(decoded.values()) == {1}


def test_a_teacher_that_answers_nan_is_refused_and_nothing_of_it_is_committed(images, teacher, tmp_path) -> None:
    source = ImageFolder.open(images)
    answers = ExactTeacher(teacher)

    def broken(batch: torch.Tensor) -> torch.Tensor:
        probs = answers(batch)
        return probs * float("nan") if len(answers.batches) > 3 else probs  # in the second block

    broken.infos = teacher.infos
    with pytest.raises(LabelError, match="hold NaN or infinity"):
        generate(source, broken, make_settings(source, teacher), tmp_path / "out", Execution(16, workers=0))
    assert committed_blocks(tmp_path / "out") == {0}
    assert [p.name for p in (tmp_path / "out" / "blocks").iterdir()] == ["000000.zarr"]
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_progress_counts_every_image_once_also_when_it_goes_on(images, teacher, tmp_path) -> None:
    source = ImageFolder.open(images)
    told: list[tuple[int, int]] = []

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done == 18:
            raise StopError

    settings, execution = make_settings(source, teacher), Execution(16, workers=0)
    with pytest.raises(StopError):
        generate(source, teacher, settings, tmp_path / "out", execution, stop)
    assert told == [(i, 24) for i in range(19)]
    told.clear()
    generate(source, teacher, settings, tmp_path / "out", execution, lambda done, total: told.append((done, total)))
    assert told == [(i, 24) for i in range(14, 25)]  # two blocks of seven were there


# Images that cannot be used


def spoil(images: Path) -> dict[str, tuple[str, str]]:
    """Spoil an indexed folder in the ways of real life: status and a word of the reason, by key."""
    whole = (images / "apple" / "001.jpg").read_bytes()
    (images / "apple" / "001.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "apple" / "002.jpg").write_bytes(bytes(range(256)) * 4)
    (images / "apple" / "003.png").write_bytes((images / "apple" / "003.png").read_bytes()[:100])
    (images / "bread" / "000.jpg").write_bytes(b"")
    (images / "bread" / "001.jpg").write_bytes(b"\xff\xd8\xff garbage")
    (images / "bread" / "002.jpg").unlink()
    (images / "cheese" / "004.jpg").unlink()
    (images / "cheese" / "004.jpg").mkdir()
    (images / "cheese" / "005.jpg").unlink()
    (images / "cheese" / "005.jpg").symlink_to(images / "cheese" / "005.jpg")
    return {
        "apple/001": ("corrupt", "truncated"),
        "apple/002": ("corrupt", "cannot identify image file"),
        "apple/003": ("corrupt", "cannot be decoded"),
        "bread/000": ("corrupt", "cannot identify image file"),
        "bread/001": ("corrupt", "cannot be decoded"),
        "bread/002": ("missing", "No such file or directory"),
        "cheese/004": ("missing", "Is a directory"),
        "cheese/005": ("missing", "symbolic links"),
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_become_rows_with_a_reason_and_all_others_are_labelled(
    own_images, store, teacher, tmp_path, cli, workers
) -> None:
    source = ImageFolder.open(own_images)
    expected = spoil(own_images)  # behind the back of the index
    out = tmp_path / "out"
    manifest = generate(source, teacher, make_settings(source, teacher), out, Execution(16, workers))
    assert manifest.counts.model_dump() == {"ok": 16, "missing": 3, "corrupt": 5}
    rows, clean = rows_of(out), Store(store)
    assert list(rows) == list(source.keys)
    for index, (key, row) in enumerate(rows.items()):
        status, word = expected.get(key, ("ok", None))
        assert row["status"] == status
        assert (row["reason"] is None) == (word is None)
        assert word is None or word in row["reason"]
        assert "object at 0x" not in (row["reason"] or "")  # equal runs give equal bytes
        assert (row["sha256"] is None) == (status == "missing")
        assert (row["width"] is None) == (row["height"] is None) == (status != "ok")
        assert (row["label"], row["block"], row["row"]) == (source.label(index), *divmod(index, 7))
    opened = Store(out)
    for index, key in enumerate(source.keys):
        block, row = divmod(index, 7)
        if key in expected:
            assert len(opened.block(block).record(row)) == 0
            assert not opened.block(block).params()[row].any()
            assert opened.block(block).probes()[row] == 0
        else:
            assert np.array_equal(opened.block(block).params()[row], clean.block(block).params()[row])
            assert opened.block(block).probes()[row] == clean.block(block).probes()[row]
            for (ids, probs, *_), (_, other, *_) in zip(opened.labels_of(index), clean.labels_of(index), strict=True):
                assert len(ids) == 2
                assert np.allclose(probs, other, atol=1e-3)
    code, text, _ = cli("inspect", out)
    assert code == 0
    assert "samples     16 ok, 3 missing, 5 corrupt" in text
    for key, (_, word) in expected.items():
        line = next(line for line in text.splitlines() if line.startswith("not ok") and f"{key}: " in line)
        assert word in line
    code, text, _ = cli("inspect", out, "--json")
    assert json.loads(text)["not_ok"].keys() == expected.keys()
    assert json.loads(text)["counts"] == {"ok": 16, "missing": 3, "corrupt": 5}
    dataset = ReinforcedDataset(out, source)
    assert len(dataset) == 16
    code, text, err = cli("verify", out, "--data", own_images, "--views", 20, "--workers", 0)
    assert code == 0, text + err
    assert "ok     images and probes: 16 of 16" in text


def test_a_disk_that_fails_while_it_is_read_counts_as_missing(images, teacher, tmp_path, monkeypatch) -> None:
    source = ImageFolder.open(images)
    real = ImageFolder.read

    def failing(self: ImageFolder, index: int) -> bytes:
        if index == 9:
            raise OSError(errno.EIO, "Input/output error")
        return real(self, index)

    monkeypatch.setattr(ImageFolder, "read", failing)
    manifest = generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(16, workers=0))
    assert manifest.counts.model_dump() == {"ok": 23, "missing": 1, "corrupt": 0}
    assert rows_of(tmp_path / "out")[source.keys[9]]["reason"] == "Input/output error"


def test_the_command_says_how_many_images_were_bad(own_images, weights, tmp_path, cli) -> None:
    (own_images / "bread" / "004.jpg").write_bytes(b"garbage")
    (own_images / "bread" / "005.jpg").unlink()
    (own_images / "bread" / "005.jpg").symlink_to("nowhere")
    arguments = ["generate", "--data", own_images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE]
    code, text, err = cli(*arguments, "--views", 2, "--workers", 1, "--out", tmp_path / "out")
    assert code == 0, err
    assert "22 samples x 2 views, 1 missing, 1 corrupt images" in text
    code, text, _ = cli(*arguments, "--views", 2, "--workers", 1, "--out", tmp_path / "json", "--json")
    assert code == 0
    assert json.loads(text)["counts"] == {"ok": 22, "missing": 1, "corrupt": 1}


def test_a_folder_in_which_no_image_can_be_read_is_an_error(teacher, tmp_path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(3):
        (tmp_path / "images" / f"{i}.jpg").write_bytes(b"garbage")
    source = ImageFolder.open(tmp_path / "images")
    with pytest.raises(StoreError, match="No sample could be read"):
        generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(16, workers=0))


def test_a_very_long_image_does_not_end_the_run(own_images, teacher, tmp_path) -> None:
    Image.new("RGB", (700, 1), "red").save(own_images / "apple" / "008.png")  # 25 200 pixels wide where its height fits
    source = ImageFolder.open(own_images)
    settings = make_settings(source, teacher, policy=parse_policy("none"))
    manifest = generate(source, teacher, settings, tmp_path / "out", Execution(16, workers=0))
    assert manifest.counts.ok >= 24


def test_a_stray_file_among_the_blocks_does_not_spoil_the_end_of_the_run(images, teacher, tmp_path) -> None:
    (tmp_path / "out" / "blocks").mkdir(parents=True)
    (tmp_path / "out" / "blocks" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    source = ImageFolder.open(images)
    try:
        generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(16, workers=0))
    except StoreError:  # refused in words, before any work
        assert committed_blocks(tmp_path / "out") == set()


def test_a_run_killed_while_its_first_file_was_half_written_goes_on(images, store, teacher, tmp_path) -> None:
    (tmp_path / "out" / "blocks").mkdir(parents=True)
    (tmp_path / "out" / ".lock").write_text("process 1 on here\n")
    (tmp_path / "out" / ".job.json.partial").write_text('{"schema_ver')
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), tmp_path / "out", Execution(16, workers=0))
    assert content(tmp_path / "out") == content(store)


def test_a_damaged_block_that_is_removed_as_the_error_advises_is_made_again(images, store, own_store, teacher) -> None:
    path = own_store / "blocks" / "000001.zarr"
    (path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"Block 000001\.zarr is damaged") as error:
        Store(own_store).block(1)
    assert f"remove {path} and run the same `reinforce generate` again" in str(error.value)
    shutil.rmtree(path)
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher), own_store, Execution(16, workers=0))
    assert content(own_store) == content(store)


# Unlabelled folders


def test_an_unlabelled_folder_gets_the_classes_of_the_teacher(images, imagenet_weights, tmp_path, cli) -> None:
    flat, out = tmp_path / "flat", tmp_path / "out"
    flat.mkdir()
    for i, path in enumerate(sorted(images.rglob("*.*"))):
        shutil.copy(path, flat / f"{i:02d}{path.suffix}")
    code, text, err = cli(
        "generate", "--data", flat, "--teacher", TEACHER, "--teacher-weights", imagenet_weights, "--out", out,
        "--size", SIZE, "--views", 2, "--workers", 0, "--block-size", 9, "--codec", "topk:10",
    )  # fmt: skip
    assert code == 0, err
    assert "hard label" not in text
    manifest = read_manifest(out)
    assert manifest.settings.num_classes == 1000
    assert manifest.settings.source.class_names == []
    assert manifest.statistics.hard_label_agreement is None
    assert {row["label"] for row in rows_of(out).values()} == {None}
    assert [label for _, _, label in ReinforcedDataset(out, flat)] == [-1] * 24
    mean_std = timm.get_pretrained_cfg(TEACHER).mean, timm.get_pretrained_cfg(TEACHER).std
    assert_labels_are(out, flat, lambda views: by_hand(TEACHER, imagenet_weights, views, *mean_std).softmax(dim=1))
    assert "1000, without hard labels" in cli("inspect", out)[1]


# Ensembles


def test_two_teachers_are_the_mean_of_their_softmaxes_each_with_its_own_mean_and_std(
    images, weights, second_weights, tmp_path, cli
) -> None:
    code, _, err = cli(
        "generate", "--data", images, "--teacher", TEACHER, "--teacher", SECOND, "--teacher-weights", weights,
        "--teacher-weights", second_weights, "--out", tmp_path / "out", "--size", SIZE, "--views", 3, "--codec", "topk:2",
        "--workers", 0, "--block-size", 9,
    )  # fmt: skip
    assert code == 0, err
    first, second = timm.get_pretrained_cfg(TEACHER), timm.get_pretrained_cfg(SECOND)
    assert (first.mean, first.std) != (second.mean, second.std)
    infos = read_manifest(tmp_path / "out").settings.teachers
    assert [(t.name, t.mean, t.std) for t in infos] == [(TEACHER, first.mean, first.std), (SECOND, second.mean, second.std)]

    def mean_of_two(views: torch.Tensor) -> torch.Tensor:
        one = by_hand(TEACHER, weights, views, first.mean, first.std).softmax(dim=1)
        two = by_hand(SECOND, second_weights, views, second.mean, second.std).softmax(dim=1)
        assert (one - two).abs().max() > 0.01  # the mean is neither of them
        return (one + two) / 2

    assert_labels_are(tmp_path / "out", images, mean_of_two)


def test_mean_and_std_of_a_teacher_can_be_given_for_each(images, weights, tmp_path) -> None:
    kwargs: list[dict[str, Any]] = [{"mean": 0.2, "std": 0.3}, {"mean": "0.4/0.5/0.6", "std": "0.1/0.2/0.3"}]
    specs = [TeacherSpec(TEACHER, weights, k) for k in kwargs]
    both = load_teacher(
        specs, size=SIZE, class_names=list(CLASSES), class_map=None, device=torch.device("cpu"), precision="fp32"
    )
    views = ViewMaker(ImageFolder.open(images), make_settings(ImageFolder.open(images), both))[0].pixels
    one = by_hand(TEACHER, weights, views, 0.2, 0.3).softmax(dim=1)
    two = by_hand(TEACHER, weights, views, (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)).softmax(dim=1)
    assert (one - two).abs().max() > 0.01
    assert torch.allclose(both(views), (one + two) / 2, atol=1e-5)
    assert [i.kwargs for i in both.infos] == kwargs
    assert [i.mean for i in both.infos] == [(0.2, 0.2, 0.2), (0.4, 0.5, 0.6)]


def test_a_teacher_never_leaves_evaluation_mode(teacher) -> None:
    views = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = teacher(views)
    assert not teacher.train().training
    assert not any(m.training for m in teacher.modules())
    assert torch.equal(teacher(views), before)


# Class maps and numbers of classes


def generate_wnids(cli: Cli, images: Path, weights: Path, out: Path, *more: object) -> tuple[int, str, str]:
    return cli(
        "generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--out", out, "--size", SIZE,
        "--views", 2, "--workers", 0, "--codec", "topk:2", *more,
    )  # fmt: skip


@pytest.mark.parametrize("class_map", ["auto", [0, 574, 701], [999, 3, 3]])
def test_a_class_map_picks_the_teachers_classes_and_the_softmax_is_over_these(
    wnid_images, imagenet_weights, tmp_path, cli, class_map
) -> None:
    option, out = class_map, tmp_path / "out"
    if class_map != "auto":
        option = tmp_path / "map.json"
        option.write_text(json.dumps(class_map))
    code, _, err = generate_wnids(cli, wnid_images, imagenet_weights, out, "--class-map", option)
    assert code == 0, err
    picked = list(WNIDS.values()) if class_map == "auto" else class_map
    settings = read_manifest(out).settings
    assert settings.num_classes == 3
    assert (settings.teachers[0].num_classes, settings.teachers[0].class_map) == (1000, picked)
    config = timm.get_pretrained_cfg(TEACHER)
    assert_labels_are(
        out,
        wnid_images,
        lambda views: by_hand(TEACHER, imagenet_weights, views, config.mean, config.std)[:, picked].softmax(dim=1),
    )


@pytest.mark.parametrize(
    ("content", "code", "text"),
    [
        ("[0, 1]", 2, "2 entries"),
        ("[0, 1, 2, 3]", 2, "4 entries"),
        ('{"0": 1}', 2, "dict"),
        ("[0, 1.0, 2]", 2, "does not fit the data set"),
        ("[0, true, 2]", 2, "does not fit the data set"),
        ('["0", "1", "2"]', 2, "a JSON list of 3 numbers"),
        ("[0, 1,", 2, "cannot be read"),
        ("\xff\xfe", 2, "cannot be read"),
        (None, 2, "No such file"),
        ("[0, 1, 1000]", 1, "0 to 999"),
        ("[-1, 1, 2]", 1, "The class map names classes that test_resnet does not have"),
    ],
)
def test_a_class_map_that_does_not_fit_is_refused(wnid_images, imagenet_weights, tmp_path, cli, content, code, text) -> None:
    path = tmp_path / "map.json"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
    out = tmp_path / "out"
    found, _, err = generate_wnids(cli, wnid_images, imagenet_weights, out, "--class-map", path)
    assert found == code
    assert text in err
    assert not out.exists()


def test_an_automatic_class_map_wants_wordnet_ids(images, imagenet_weights, tmp_path, cli) -> None:
    code, _, err = generate_wnids(cli, images, imagenet_weights, tmp_path / "out", "--class-map", "auto")
    assert code == 2
    assert "--class-map auto does not know all class folders" in err
    assert "3 of 3, such as 'apple'" in err


def test_a_class_map_wants_classes(images, imagenet_weights, tmp_path, cli) -> None:
    flat = images / "apple"
    code, _, err = generate_wnids(cli, flat, imagenet_weights, tmp_path / "out", "--class-map", "auto")
    assert code == 2
    assert "--class-map needs a labelled data set" in err


def test_a_teacher_with_another_number_of_classes_is_refused(images, imagenet_weights, tmp_path, cli) -> None:
    code, _, err = generate_wnids(cli, images, imagenet_weights, tmp_path / "out")
    assert code == 1
    assert "test_resnet has 1000 classes and the data set has 3" in err
    assert "--class-map auto" in err
    assert not (tmp_path / "out").exists()


def test_teachers_with_different_numbers_of_classes_are_refused(weights, imagenet_weights) -> None:
    specs = [TeacherSpec(TEACHER, weights), TeacherSpec(TEACHER, imagenet_weights)]
    with pytest.raises(TeacherError, match="The teachers do not have the same classes") as error:
        load_teacher(specs, size=SIZE, class_names=[], class_map=None, device=torch.device("cpu"), precision="fp32")
    assert "[3, 1000] classes" in str(error.value)


# Weights


def load(path: Path, **kwargs: Any) -> Any:
    return load_teacher(
        [TeacherSpec(TEACHER, path, kwargs)],
        size=SIZE,
        class_names=[],
        class_map=None,
        device=torch.device("cpu"),
        precision="fp32",
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model", "state_dict_ema"])
def test_weights_are_known_by_what_they_are_and_not_by_their_file(weights, teacher, tmp_path, suffix, wrapped) -> None:
    state, path = load_file(weights), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file({f"module.{k}": v for k, v in state.items()}, path)
    else:
        torch.save({wrapped: state, "epoch": 3} if wrapped else state, path)
    assert load(path).infos == teacher.infos


def test_weights_of_another_shape_are_refused(weights, imagenet_weights) -> None:
    with pytest.raises(TeacherError, match=r"The weights in .* do not fit the model") as error:
        load(weights, num_classes=5)
    width = load_file(weights)["fc.weight"].shape[1]
    assert f"fc.weight: [3, {width}] in the file, [5, {width}] in the model" in str(error.value)
    with pytest.raises(TeacherError, match="2 of another shape"):
        load(imagenet_weights, num_classes=3)


def test_weights_that_lack_a_tensor_or_have_one_too_many_are_refused(weights, tmp_path) -> None:
    state = load_file(weights)
    lacking = {k: v for k, v in state.items() if not k.startswith(("conv1", "layer4"))}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(TeacherError, match=rf"{len(state) - len(lacking)} missing \(conv1\.0\.weight, \.\.\.\)"):
        load(tmp_path / "lacking.safetensors")
    save_file({**state, "another.weight": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(TeacherError, match=r"1 unknown \(another.weight, \.\.\.\)"):
        load(tmp_path / "more.safetensors")


def test_weights_of_another_model_are_refused(second_weights) -> None:
    with pytest.raises(TeacherError, match=r"\d+ missing .*; \d+ unknown"):
        load(second_weights)


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth.tar", "weights.bin", "weights.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_arbitrary_objects_is_refused_and_never_run(
    weights, images, tmp_path, cli, recwarn, name, zipped
) -> None:
    marker, path = tmp_path / "was_run", tmp_path / name
    torch.save({**load_file(weights), "extra": Hostile(marker)}, path, _use_new_zipfile_serialization=zipped)
    code, _, err = generate_wnids(cli, images, path, tmp_path / "out")
    assert code == 1
    assert "cannot be read as weights" in err
    assert "a pickle with arbitrary objects, which is never loaded" in err
    assert not marker.exists()
    torch.load(shutil.copy(path, tmp_path / "copy.pt"), weights_only=False)
    assert marker.exists()  # it would have been


def hostile_states(state: dict[str, torch.Tensor]) -> Iterator[tuple[str, object]]:
    yield "a list", [torch.zeros(2)]
    yield "a tensor", torch.zeros(2)
    yield "nothing", {}
    yield "numbers", {"fc.weight": 1.0}
    yield "names that are numbers", {1: torch.zeros(2)}
    yield "a head without dimensions", {**state, "fc.weight": torch.tensor(1.0)}
    yield "no classes", {k: v[:0] if k.startswith("fc.") else v for k, v in state.items()}


@pytest.mark.parametrize("number", range(7))
def test_a_torch_file_that_holds_no_fitting_state_dict_is_refused(weights, tmp_path, number) -> None:
    what, hostile = list(hostile_states(load_file(weights)))[number]
    torch.save(hostile, tmp_path / "weights.pt")
    with pytest.raises((TeacherError, UsageError)) as error:
        load(tmp_path / "weights.pt")
    assert "weights.pt" in str(error.value) or "num_classes" in str(error.value), what


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_torch_file_is_refused_wherever_it_is_cut(weights, tmp_path, zipped) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(2), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(TeacherError, match=r"weights.pt cannot be read as weights|do not fit the model"):
            load(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_garbage_and_absent_weights_are_refused(tmp_path, name) -> None:
    with pytest.raises(TeacherError, match="There is no weights file"):
        load(tmp_path / name)
    for garbage in (b"", b"\0" * 100, b"\xff" * 100, b"text"):
        (tmp_path / name).write_bytes(garbage)
        with pytest.raises(TeacherError, match="cannot be read as weights"):
            load(tmp_path / name)


def test_a_teacher_without_classes_is_refused(weights, tmp_path) -> None:
    save_file({k: v for k, v in load_file(weights).items() if not k.startswith("fc.")}, tmp_path / "body.safetensors")
    with pytest.raises((TeacherError, UsageError)):
        load(tmp_path / "body.safetensors", num_classes=0)


@pytest.mark.parametrize("value", ["0", "-1", "a", "1/2", "1/1/0", "inf", "nan"])
def test_a_std_that_is_none_is_refused(weights, value) -> None:
    with pytest.raises(UsageError, match="is not valid"):
        load(weights, std=value)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("--teacher", "test_resnext"), 2, "timm has no model 'test_resnext'"),
        (("--teacher", TEACHER, "--teacher", TEACHER), 2, "2 teachers and 1 weights files"),
        (("--teacher", TEACHER, "--teacher-kwargs", "colour=red"), 2, "does not take these arguments"),
        (("--teacher", TEACHER, "--teacher-kwargs", "num_classes"), 2, "expected:     key=value"),
        (("--teacher", TEACHER, "--policy", "rcc"), 2, "There is no policy 'rcc'"),
        (("--teacher", TEACHER, "--codec", "topk:0"), 2, "Codec 'topk:0' is not valid"),
        (("--teacher", TEACHER, "--device", "tpu"), 2, "There is no device 'tpu'"),
        (("--teacher", TEACHER, "--data", "nowhere"), 1, "There is no image folder at nowhere"),
    ],
)
def test_what_is_asked_for_and_cannot_be_had_is_refused_before_anything_is_written(
    images, weights, tmp_path, cli, arguments, code, text
) -> None:
    found, _, err = cli(
        "generate", "--data", images, "--teacher-weights", weights, "--out", tmp_path / "out", "--size", SIZE, *arguments
    )
    assert found == code
    assert text in err
    assert not (tmp_path / "out").exists()


# Limit


def test_a_limit_gives_every_class_its_share(images) -> None:
    source = ImageFolder.open(images)
    for limit in range(1, 24):
        part = limit_source(source, limit)
        shares = [sum(label == c for label in part.labels or ()) for c in range(3)]
        assert len(part) == limit
        assert max(shares) - min(shares) <= 1
        assert len(set(part.keys)) == limit
        assert list(part.keys) == sorted(part.keys)
        assert part.class_names == source.class_names
    for limit in (24, 25, None):
        assert limit_source(source, limit) is source
    with pytest.raises(UsageError, match="--limit must be at least 1"):
        limit_source(source, 0)


def test_a_limited_run_labels_a_part_of_every_class_and_replays(images, weights, tmp_path, cli) -> None:
    out = tmp_path / "out"
    code, text, err = cli(
        "generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--out", out, "--size", SIZE,
        "--views", 2, "--workers", 0, "--limit", 7, "--block-size", 3,
    )  # fmt: skip
    assert code == 0, err
    assert "7 samples x 2 views" in text
    shares = Counter(key.split("/")[0] for key in rows_of(out))
    assert sorted(shares.values()) == [2, 2, 3]
    assert len(ReinforcedDataset(out, images)) == 7  # the whole folder serves
    code, text, _ = cli("verify", out, "--data", images, "--views", 14, "--workers", 0)
    assert code == 0, text
    assert "ok     views made anew: 14 of 14" in text
