"""Labels of others come in as what they are, ours go out for their loaders; nothing in a file is run, bad ones are refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reinforce.errors import ReinforceError, StoreError, UsageError
from reinforce.generation.generate import Execution, generate
from reinforce.labels.sparse import SparseLabels
from reinforce.peers.ml_dr import OPS, op_of, slot_of
from reinforce.peers.pickle_reader import read_pickle
from reinforce.peers.torch_file import read_torch
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from reinforce.verification.verify import require, verify_store
from reinforce.views.params import OP_SLOT_BASE, Field, Op
from reinforce.views.policy_text import parse_policy
from tests.conftest import CLASSES, Cli, make_settings

VIEWS = 3


def saved(value: object, **options: object) -> bytes:
    sink = io.BytesIO()
    torch.save(value, sink, **options)
    return sink.getvalue()


def dense(store: Store, sample: int) -> np.ndarray:
    return SparseLabels.stack(store.labels_of(sample), store.settings.num_classes).dense().numpy()


def top(rng: np.random.Generator, k: int = 2) -> tuple[list[float], list[int]]:
    """Unsorted, as ml-dr has them."""
    ids = rng.permutation(3)[:k]
    probs = rng.dirichlet(np.ones(k)) * 0.9
    return probs.tolist(), ids.tolist()


def write_ml_dr(path: Path, source: ImageFolder, erased: bool, skip: tuple[int, ...] = ()) -> dict[int, list]:
    """What the published archives look like, in no particular order."""
    from PIL import Image

    rng, made = np.random.default_rng(0), {}
    with tarfile.open(path, "w:gz") as tar:
        for index in rng.permutation(len(source)).tolist():
            if index in skip:
                continue
            width, height = Image.open(io.BytesIO(source.read(index))).size
            views = []
            for _ in range(VIEWS):
                h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
                box = (int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w)
                params: list = [box, bool(rng.integers(2))]
                if erased:
                    ops = [(int(rng.integers(14)), 0.27 * float(rng.choice([-1, 1]))) for _ in range(2)]
                    params += [ops, (10, 20, 30, 40) if rng.integers(2) else None]
                views.append({"params": params, "prob": top(rng)})
            made[index] = views
            add(tar, f"labels/{index}.pth.tar", saved((index, views), pickle_protocol=4))
        config = {"reinforce": {"image_augmentation": {}, "num_samples": VIEWS, "topk": 2}}
        add(tar, "labels/config.pth.tar", saved(config, pickle_protocol=4))
    return made


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


# The formats


@pytest.mark.parametrize("erased", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_imagenet_plus_comes_in(erased: bool, workers: int, images: Path, tmp_path: Path, cli: Cli) -> None:
    source = ImageFolder.open(images)
    made = write_ml_dr(tmp_path / "labels.tar.gz", source, erased, skip=(4,))
    out = tmp_path / "out"
    code, text, err = cli(
        "import",
        "imagenet-plus",
        tmp_path / "labels.tar.gz",
        "--data",
        images,
        "--num-classes",
        3,
        "--workers",
        workers,
        "--out",
        out,
    )
    assert code == 0, err
    assert "23 samples x 3 views, 1 without labels, 0 corrupt" in text
    assert "pixels are not the teacher's" in text
    store = Store(out)
    require(verify_store(out))
    assert store.settings.origin.format == "imagenet-plus"
    assert store.settings.policy.name == ("imagenet-plus-ra-re" if erased else "imagenet-plus-rrc")
    assert store.samples.reasons == {4: "no labels were imported for it"}
    for index, views in made.items():
        assert store.samples.key(index) == source.keys[index]
        assert store.samples.labels[index] == source.label(index)
        for view, (wrote, label) in enumerate(zip(views, dense(store, index), strict=True)):
            row, spec = store.params_of(index, view), store.spec
            assert tuple(row[:4]) == wrote["params"][0]
            assert spec.read(row, Field.HFLIP, 0) == wrote["params"][1]
            if erased:
                assert [int(s[0]) for s in spec.ops(row)] == [int(OPS[op]) for op, _ in wrote["params"][2]]
                box = tuple(spec.read(row, f, 0) for f in range(Field.ERASE_TOP, Field.ERASE_SEED))
                assert box == (wrote["params"][3] or (0, 0, 0, 0))
            probs, ids = wrote["prob"]
            assert np.allclose(label[ids], probs, atol=1e-3)
            rest = [c for c in range(3) if c not in ids]
            assert np.allclose(label[rest], (1 - sum(probs)) / len(rest), atol=1e-3)


def test_what_was_imported_trains_and_says_what_it_is(images: Path, tmp_path: Path, cli: Cli) -> None:
    write_ml_dr(tmp_path / "labels.tar.gz", ImageFolder.open(images), True)
    out = tmp_path / "out"
    assert (
        cli("import", "imagenet-plus", tmp_path / "labels.tar.gz", "--data", images, "--num-classes", 3, "--out", out)[0] == 0
    )
    code, text, _ = cli("inspect", out)
    assert code == 0
    assert "imported from imagenet-plus; pixels by torchvision" in text
    assert "weights not known" in text
    code, text, _ = cli("verify", out, "--data", images, "--views", 5, "--workers", 0)
    assert code == 0, text
    train = ("--student", "test_vit", "--student-kwargs", "img_size=224", "--epochs", 1, "--batch-size", 8, "--workers", 0)
    code, text, err = cli("train", "--data", images, "--labels", out, *train, "--out", tmp_path / "run")
    assert code == 0, err
    assert "labels imported from imagenet-plus: pixels are not exactly those that the teacher saw" in text
    code, _, err = cli("train", "--mode", "online", "--data", images, "--labels", out, *train, "--out", tmp_path / "run2")
    assert code == 2
    assert "not known well enough" in err
    code, text, _ = cli("publish", out, "--to", tmp_path / "pub" / "x")
    assert code == 0
    assert "replay: approximate" in (tmp_path / "pub" / "x" / "README.md").read_text()
    assert cli("pack", out, "--data", images, "--out", tmp_path / "shards")[0] == 0
    assert cli("verify", tmp_path / "shards")[0] == 0
    images_now = ReinforcedDataset(out, images)
    image, label, _ = images_now[0]
    assert image.shape == (3, 224, 224)
    assert float(label.sum()) == pytest.approx(1)


FKD_LABELS = {
    "hard": lambda rng: torch.tensor(rng.integers(0, 3, VIEWS)),
    "smoothing": lambda rng: torch.tensor(np.stack([rng.integers(0, 3, VIEWS), rng.uniform(0.5, 0.9, VIEWS)], axis=1)),
    "marginal": lambda rng: torch.tensor(
        np.stack([np.stack([ids, probs]) for probs, ids in (top(rng) for _ in range(VIEWS))]), dtype=torch.float32
    ),
    "full": lambda rng: torch.tensor(rng.dirichlet(np.ones(3), VIEWS), dtype=torch.float32),
}


@pytest.mark.parametrize("variant", FKD_LABELS)
@pytest.mark.parametrize("tail", ["uniform", "renorm"])
def test_fkd_comes_in(variant: str, tail: str, images: Path, tmp_path: Path, cli: Cli) -> None:
    rng, source, made = np.random.default_rng(1), ImageFolder.open(images), {}
    for key in source.keys:
        coords = np.stack([rng.uniform(0, 0.3, VIEWS), rng.uniform(0, 0.3, VIEWS), *rng.uniform(0.3, 0.7, (2, VIEWS))], axis=1)
        made[key] = (coords, rng.integers(0, 2, VIEWS).astype(bool), FKD_LABELS[variant](rng))
        path = tmp_path / "fkd" / f"{key}.tar"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(saved([torch.tensor(coords, dtype=torch.float32), torch.tensor(made[key][1]), made[key][2]]))
    out = tmp_path / "out"
    options = ("--num-classes", 3, "--tail", tail, "--teacher", "somebody", "--size", 64, "--workers", 0)
    code, _, err = cli("import", "fkd", tmp_path / "fkd", "--data", images, *options, "--out", out)
    assert code == 0, err
    store = Store(out)
    require(verify_store(out))
    assert store.settings.origin.options == {"tail": tail, "size": 64}
    assert store.settings.teachers[0].name == "somebody"
    for sample in range(24):
        coords, flip, label = made[store.samples.key(sample)]
        width, height = store.samples.width_height[sample].tolist()
        decoded = dense(store, sample)
        for view in range(VIEWS):
            row = store.params_of(sample, view)
            assert np.abs(row[:4] - coords[view] * np.array([height, width, height, width])).max() <= 0.51
            assert store.spec.read(row, Field.HFLIP, 0) == flip[view]
            if variant == "full":
                assert np.allclose(decoded[view], label[view], atol=0.08)
            elif variant == "hard":
                assert decoded[view][int(label[view])] == pytest.approx(1)
            elif variant == "smoothing":
                wanted = 1.0 if tail == "renorm" else float(label[view][1])
                assert decoded[view][int(label[view][0])] == pytest.approx(wanted, abs=1e-3)
            else:
                ids, probs = label[view].numpy()
                wanted = probs / probs.sum() if tail == "renorm" else probs
                assert np.allclose(decoded[view][ids.astype(int)], wanted, atol=1e-3)


def write_tinyvit(root: Path, keys: list[str], epochs: int = 2, k: int = 2) -> dict[tuple[int, str], tuple]:
    rng, made = np.random.default_rng(2), {}
    for epoch in range(epochs):
        folder = root / f"logits_top{k}_epoch{epoch}"
        folder.mkdir(parents=True)
        for rank, part in enumerate(np.array_split(rng.permutation(keys), 2)):
            with open(folder / f"rank{rank}-values.bin", "wb") as values:
                for key in part:
                    probs, ids = top(rng, k)
                    made[epoch, str(key)] = (probs, ids)
                    values.write(struct.pack(f"<i{k}h{k}e", int(rng.integers(2**31)), *ids, *probs))
            (folder / f"rank{rank}-keys.txt").write_text("".join(f"{key}.JPEG\n" for key in part))
    return made


def test_tinyvit_comes_in_as_labels_without_views(images: Path, tmp_path: Path, cli: Cli) -> None:
    source = ImageFolder.open(images)
    made = write_tinyvit(tmp_path / "tiny", [f"/disk/of/theirs/{key}" for key in source.keys])
    made = {(epoch, "/".join(key.split("/")[-2:])): label for (epoch, key), label in made.items()}
    out = tmp_path / "out"
    options = ("--num-classes", 3, "--workers", 0)
    code, text, err = cli("import", "tinyvit", tmp_path / "tiny", "--data", images, *options, "--out", out)
    assert code == 0, err
    assert "no views to replay" in text
    store = Store(out)
    require(verify_store(out))
    for sample in range(24):
        for epoch, label in enumerate(dense(store, sample)):
            probs, ids = made[epoch, store.samples.key(sample)]
            assert np.allclose(label[ids], probs, atol=2e-3)
    for call in (lambda: ReinforcedDataset(out, images), lambda: ReinforcedDataset(out, images, check=False)):
        with pytest.raises(UsageError, match="cannot be shown"):
            call()
    train = ("--student", "test_vit", "--student-kwargs", "img_size=224", "--epochs", 1, "--batch-size", 8, "--workers", 0)
    code, _, err = cli("train", "--data", images, "--labels", out, *train, "--out", tmp_path / "run")
    assert code == 2
    assert "a fork of timm" in err


@pytest.mark.parametrize("axes", ["hw", "wh"])
def test_relabel_comes_in_as_label_maps(axes: str, images: Path, tmp_path: Path, cli: Cli) -> None:
    rng, source, made = np.random.default_rng(3), ImageFolder.open(images), {}
    with tarfile.open(tmp_path / "maps.tar", "w") as tar:
        for key in source.keys:
            ids = np.stack([rng.permutation(6)[:5] for _ in range(15 * 15)]).T.reshape(5, 15, 15)
            made[key] = np.stack([rng.normal(5, 2, (5, 15, 15)), ids]).astype(np.float32)
            add(tar, f"relabel/{key}.pt", saved(torch.tensor(made[key])))
    out = tmp_path / "out"
    options = ("--num-classes", 6, "--axes", axes, "--workers", 0)
    code, _, err = cli("import", "relabel", tmp_path / "maps.tar", "--data", images, *options, "--out", out)
    assert code == 0, err
    store = Store(out)
    require(verify_store(out))
    for sample in range(24):
        scores, ids = made[store.samples.key(sample)]
        found = store.map_of(sample)
        order = (1, 2, 0) if axes == "hw" else (2, 1, 0)
        assert np.allclose(found.scores, scores.transpose(order), atol=0.01)
        assert np.array_equal(found.class_ids, ids.transpose(order))
    train = ("--recipe", "relabel", "--policy", "rrc", "--student", "test_vit", "--student-kwargs", "img_size=32", "--size", 32)
    more = ("--epochs", 1, "--batch-size", 8, "--no-amp", "--workers", 0, "--out", tmp_path / "run", "--task-loss-weight", 0)
    code, _, err = cli("train", "--data", images, "--labels", out, *train, *more)
    assert code == 0, err


# Out again


@pytest.mark.parametrize(("kind", "policy"), [("ml-dr", "imagenet-plus-rrc"), ("ml-dr", "imagenet-plus-ra-re"), ("fkd", "fkd")])
def test_what_goes_out_comes_in_again_the_same(kind, policy, images: Path, teacher, tmp_path: Path, cli: Cli) -> None:
    source, size = ImageFolder.open(images), 224 if policy.endswith("re") else 32
    changes = {"policy": parse_policy(policy), "size": size, "codec": {"name": "topk", "k": 2}, "views": 2}
    generate(source, teacher, make_settings(source, teacher, **changes), tmp_path / "a", Execution(16, 0))
    code, text, err = cli("export", tmp_path / "a", "--format", kind, "--topk", 2, "--out", tmp_path / "files")
    assert code == 0, err
    assert "2 likeliest classes" in text
    name = {"ml-dr": "imagenet-plus"}.get(kind, kind)
    options = ("--num-classes", 3, "--size", size, "--workers", 0)
    code, _, err = cli("import", name, tmp_path / "files", "--data", images, *options, "--out", tmp_path / "b")
    assert code == 0, err
    before, after = Store(tmp_path / "a"), Store(tmp_path / "b")
    assert before.spec.fields == after.spec.fields
    for sample in range(24):
        assert np.allclose(dense(before, sample), dense(after, sample), atol=1e-3)
        for view in range(2):
            mine, theirs = before.params_of(sample, view), after.params_of(sample, view)
            if kind == "ml-dr":
                ours = [i for i, f in enumerate(before.spec.fields) if f < OP_SLOT_BASE]
                if before.spec.read(mine, Field.ERASE_HEIGHT, 1):
                    assert np.array_equal(mine[ours], theirs[ours])
                assert np.abs(mine - theirs).max() <= 2, "but for the last bit of an angle"
            else:
                assert np.array_equal(mine, theirs)


def test_ops_survive_the_way_there_and_back() -> None:
    for number, op in enumerate(OPS):
        magnitude = {Op.POSTERIZE: 6.0, Op.SOLARIZE: 178.0, Op.TRANSLATE_X: -31.0, Op.TRANSLATE_Y: 17.0, Op.ROTATE: -9.0}.get(
            op, 0.27
        )
        if op in (Op.NONE, Op.AUTO_CONTRAST, Op.EQUALIZE):
            magnitude = 0.0
        back = op_of(slot_of(number, magnitude))
        assert back[0] == number
        assert back[1] == pytest.approx(magnitude, abs=1e-4)


def test_views_that_another_loader_cannot_show_do_not_go_out(images: Path, teacher, tmp_path: Path, cli: Cli) -> None:
    source = ImageFolder.open(images)
    generate(source, teacher, make_settings(source, teacher, views=1), tmp_path / "a", Execution(16, 0))
    for kind in ("ml-dr", "fkd"):
        code, _, err = cli("export", tmp_path / "a", "--format", kind, "--out", tmp_path / "files")
        assert code == 2
        assert "policy rrc-ra cannot be written" in err
        assert not (tmp_path / "files").exists()


# Nothing is run


class Evil:
    def __init__(self, call: object, *arguments: object) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("call", [os.system, eval, exec, open, __import__, getattr, bytearray, print])
def test_a_call_in_a_file_is_refused_and_not_made(call, protocol: int, images: Path, tmp_path: Path, cli: Cli) -> None:
    witness = tmp_path / "witness"
    argument = {os.system: f"touch {witness}", eval: f"open({str(witness)!r}, 'w')", exec: f"open({str(witness)!r}, 'w')"}
    content = saved((0, Evil(call, argument.get(call, str(witness)))), pickle_protocol=protocol)
    with pytest.raises(StoreError, match="A pickle is refused"):
        read_torch(content)
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "0.pth.tar").write_bytes(content)
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")
    code, _, err = cli("import", "imagenet-plus", tmp_path / "files", *options)
    assert code == 1
    assert "nothing in it was run" in err
    assert not witness.exists()
    assert not (tmp_path / "out").exists()


def test_plain_data_is_read_as_torch_reads_it() -> None:
    rng = np.random.default_rng(0)
    value = (5, [{"params": [[(1, 2), True], None, -1.5, 2**40, "text", b"bytes"], "prob": ([0.5] * 3, [1, 2, 3])}] * 3)
    for protocol in (2, 4):
        assert read_torch(saved(value, pickle_protocol=protocol)) == value
    tensors = [
        torch.rand(3, 4),
        torch.rand(6)[::2],
        torch.arange(5),
        torch.rand(2, 3).half().T,
        torch.tensor(True),
        torch.empty(0, 3),
    ]
    for tensor, array in zip(tensors, read_torch(saved(tensors)), strict=True):
        assert np.array_equal(array, tensor.numpy())
        assert array.dtype == tensor.numpy().dtype
    scalars = [np.float64(0.25), np.int64(7), np.float32(1.5)]
    assert read_torch(saved(scalars)) == [0.25, 7, 1.5]
    array = rng.random((3, 2))
    assert np.array_equal(read_torch(saved({"a": array}))["a"], array)


def test_a_tensor_that_unfolds_is_refused() -> None:
    for tensor in (torch.zeros(1).expand(1 << 40), torch.zeros(2).expand(1 << 20, 2)):
        with pytest.raises(StoreError, match="past the end"):
            read_torch(saved(tensor))


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_damaged_pickle_is_refused_or_is_data(data) -> None:
    content = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(StoreError):
        read_pickle(bytes(content))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_noise_is_no_pickle(content: bytes) -> None:
    with contextlib.suppress(StoreError):
        read_pickle(content)


with zipfile.ZipFile(io.BytesIO(saved((3, [{"a": [1.5, "b", (1, 2)], "c": np.float64(1)}]), pickle_protocol=4))) as _archive:
    SAMPLE = _archive.read(next(n for n in _archive.namelist() if n.endswith("data.pkl")))


def test_a_memo_of_gigabytes_costs_nothing() -> None:
    """The library's own unpickler would make room for two thousand million entries here."""
    assert read_pickle(b"\x80\x02K\x01r\xff\xff\xff\x7f.") == 1


def test_files_that_unfold_or_are_of_another_kind_are_refused() -> None:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(50 << 20))
    for content, match in ((sink.getvalue(), "is compressed"), (b"\x80\x02}.", "no zip"), (b"", "no zip")):
        with pytest.raises(StoreError, match=match):
            read_torch(content)
    legacy = saved([1], _use_new_zipfile_serialization=False)
    with pytest.raises(StoreError, match="no zip"):
        read_torch(legacy)


# What cannot be


def ml_dr(tmp_path: Path, views: object, index: object = 0) -> Path:
    folder = tmp_path / "files"
    folder.mkdir(exist_ok=True)
    (folder / f"{index}.pth.tar").write_bytes(saved((index, views)))
    return folder


GOOD = {"params": [(0, 0, 9, 9), False], "prob": ([0.5, 0.2], [1, 0])}


@pytest.mark.parametrize(
    ("view", "match"),
    [
        ({**GOOD, "params": [(0, 0, 999, 9), False]}, "not within its image"),
        ({**GOOD, "params": [(-1, 0, 9, 9), False]}, "not within its image"),
        ({**GOOD, "params": [(0, 0, 0, 9), False]}, "not within its image"),
        ({**GOOD, "params": [(0, 0, 2**70, 9), False]}, "Labels of a view are damaged"),
        ({**GOOD, "params": [(0, 0, 9), False]}, "Labels of a view are damaged"),
        ({**GOOD, "params": [(0, 0, 9, 9)]}, "params of 1 parts"),
        ({**GOOD, "params": [7, [(0, 0, 9, 9)] * 2, [False] * 2, 0.3, None]}, "an M\\* variant"),
        ({**GOOD, "params": [None, (0, 0, 9, 9), False, None, None]}, "an M\\* variant"),
        ({**GOOD, "params": "text"}, "views without params"),
        ({**GOOD, "prob": ([0.5, 0.2], [1, 3])}, "class ids 1 to 3"),
        ({**GOOD, "prob": ([0.5, 0.2], [1, -1])}, "class ids -1 to 1"),
        ({**GOOD, "prob": ([0.5, 0.2], [1, 1])}, "a class twice"),
        ({**GOOD, "prob": ([0.5, float("nan")], [1, 0])}, "NaN"),
        ({**GOOD, "prob": ([0.9, 0.9], [1, 0])}, "sum to 1.8"),
        ({**GOOD, "prob": ([0.5, -0.1], [1, 0])}, "lowest probability -0.1"),
        ({**GOOD, "prob": ([0.5], [1, 0])}, "other lengths"),
        ({"params": [(0, 0, 9, 9), False, [(14, 0.1), (0, 0.0)], None], "prob": GOOD["prob"]}, "Labels of a view are damaged"),
        ({"params": [(0, 0, 9, 9), False, [(1, float("inf")), (0, 0.0)], None], "prob": GOOD["prob"]}, "are damaged"),
    ],
)
def test_labels_that_cannot_be_are_refused(view, match: str, images: Path, tmp_path: Path, cli: Cli) -> None:
    files = ml_dr(tmp_path, [view])
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")
    code, _, err = cli("import", "imagenet-plus", files, *options)
    assert code in (1, 2)
    assert __import__("re").search(match, err), err
    assert not (tmp_path / "out").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".partial")], "nothing half-written"


def test_a_process_that_dies_ends_the_import_in_words(images: Path, tmp_path: Path, cli: Cli, monkeypatch) -> None:
    write_ml_dr(tmp_path / "labels.tar.gz", ImageFolder.open(images), False)
    monkeypatch.setattr("reinforce.peers.importer._go", _die)
    options = ("--data", images, "--num-classes", 3, "--workers", 1, "--out", tmp_path / "out")
    code, _, err = cli("import", "imagenet-plus", tmp_path / "labels.tar.gz", *options)
    assert code == 1
    assert "A process that parses labels died" in err
    assert {p.name for p in tmp_path.iterdir()} == {"labels.tar.gz"}


def _die(position: int, content: bytes) -> None:
    os._exit(9)


def test_half_floats_that_sum_to_a_little_over_one_are_scaled(images: Path, tmp_path: Path, cli: Cli) -> None:
    files = ml_dr(tmp_path, [{**GOOD, "prob": ([0.7, 0.305], [1, 0])}])
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")
    assert cli("import", "imagenet-plus", files, *options)[0] == 0
    assert dense(Store(tmp_path / "out"), 0).min() >= 0


def test_labels_of_other_images_are_refused(images: Path, tmp_path: Path, cli: Cli) -> None:
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")
    code, _, err = cli("import", "imagenet-plus", ml_dr(tmp_path, [GOOD], 24), *options)
    assert (code, "image 24, and 24 images" in err) == (1, True)
    twice = tmp_path / "twice.tar"
    with tarfile.open(twice, "w") as tar:
        for folder in "ab":
            add(tar, f"{folder}/3.pth.tar", saved((3, [GOOD])))
    code, _, err = cli("import", "imagenet-plus", twice, *options)
    assert (code, "two files of labels" in err) == (1, True)
    (tmp_path / "fkd" / "apple").mkdir(parents=True)
    one = [torch.tensor([[0, 0, 0.5, 0.5]]), torch.tensor([True]), torch.tensor([1])]
    (tmp_path / "fkd" / "apple" / "nobody.tar").write_bytes(saved(one))
    code, _, err = cli("import", "fkd", tmp_path / "fkd", *options)
    assert (code, "'apple/nobody', and no such image" in err) == (1, True)
    code, _, err = cli("import", "fkd", tmp_path / "twice.tar", *options)
    assert code == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("kind", ["imagenet-plus", "fkd", "tinyvit", "relabel"])
def test_nothing_there_is_said(kind: str, images: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "empty").mkdir()
    for files in (tmp_path / "empty", tmp_path / "nowhere"):
        code, _, err = cli("import", kind, files, "--data", images, "--out", tmp_path / "out")
        assert code == 1
        assert "There " in err


def test_hostile_archives_are_refused(images: Path, tmp_path: Path, cli: Cli) -> None:
    options = ("--data", images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out")

    def refused(path: Path, match: str) -> None:
        code, _, err = cli("import", "imagenet-plus", path, *options)
        assert code == 1
        assert match in err
        assert not (tmp_path / "out").exists()

    link = tarfile.TarInfo("0.pth.tar")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        tar.addfile(link)
    refused(tmp_path / "link.tar", "is no plain file")
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        file.write(long.tobuf())
        for _ in range(64):
            file.write(bytes(1 << 20))
    refused(tmp_path / "bomb.tar.gz", "a header of")
    huge = tarfile.TarInfo("0.pth.tar")
    huge.size = 1 << 40
    (tmp_path / "huge.tar").write_bytes(huge.tobuf() + bytes(1024))
    refused(tmp_path / "huge.tar", "is no plain file")
    write_ml_dr(tmp_path / "whole.tar.gz", ImageFolder.open(images), False)
    whole = (tmp_path / "whole.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "cut.tar.gz", "cannot be read")
    os.symlink("/etc/passwd", tmp_path / "0.pth.tar")
    (tmp_path / "folder").mkdir()
    (tmp_path / "0.pth.tar").rename(tmp_path / "folder" / "0.pth.tar")
    refused(tmp_path / "folder", "a link")


def test_an_image_that_is_broken_now_becomes_a_row(own_images: Path, tmp_path: Path, cli: Cli) -> None:
    source = ImageFolder.open(own_images)
    write_ml_dr(tmp_path / "labels.tar.gz", source, False)
    (own_images / "apple" / "002.jpg").write_bytes(b"\xff\xd8\xff broken")
    options = ("--data", own_images, "--num-classes", 3, "--workers", 0, "--out", tmp_path / "out", "--json")
    code, out, _ = cli("import", "imagenet-plus", tmp_path / "labels.tar.gz", *options)
    assert code == 0
    about = json.loads(out)
    assert (about["ok"], about["corrupt"], about["replay"]) == (23, 1, "approximate")
    require(verify_store(tmp_path / "out"))


def test_some_of_imagenets_classes_are_numbered_as_all_of_them(tmp_path: Path, images: Path, cli: Cli) -> None:
    from reinforce.teachers.class_map import imagenet_wnids

    wnids = imagenet_wnids()
    root = tmp_path / "images"
    for name, wnid in zip(CLASSES, (wnids[7], wnids[0], wnids[999]), strict=True):
        (root / wnid).mkdir(parents=True)
        (root / wnid / "a.jpg").write_bytes((images / name / "000.jpg").read_bytes())
    source = ImageFolder.open(root)
    (tmp_path / "files").mkdir()
    for i in range(3):
        (tmp_path / "files" / f"{i}.pth.tar").write_bytes(saved((i, [{**GOOD, "prob": ([0.5, 0.2], [999, 7])}])))
    code, _, err = cli("import", "imagenet-plus", tmp_path / "files", "--data", root, "--workers", 0, "--out", tmp_path / "out")
    assert code == 0, err
    store = Store(tmp_path / "out")
    require(verify_store(tmp_path / "out"))
    names = store.settings.source.class_names
    assert [names[label] for label in store.samples.labels] == [key.partition("/")[0] for key in source.keys]
    with pytest.raises(ReinforceError):
        ReinforcedDataset(tmp_path / "out", images)
