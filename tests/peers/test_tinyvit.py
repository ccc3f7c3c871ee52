"""TinyViT: keys of its writer find their images, in memory that does not grow with the epochs."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder as TorchvisionFolder

from reinforce.errors import StoreError
from reinforce.peers.epoch_files import EpochFiles
from reinforce.peers.places import Places, folder_order
from reinforce.peers.tinyvit import TinyVitReader
from reinforce.sources.folder import ImageFolder
from reinforce.store.store import Store
from tests.conftest import Cli, picture, write_folder
from tests.peers.label_files import dense, write_tinyvit

pytestmark = pytest.mark.unit


def test_a_number_counts_images_as_torchvision_does_whatever_the_order_of_the_source(
    images: Path, tmp_path: Path, cli: Cli
) -> None:
    source = ImageFolder.open(images)
    keys = [path.removeprefix(f"{images}/").rpartition(".")[0] for path, _ in TorchvisionFolder(str(images)).samples]
    made = write_tinyvit(tmp_path / "tiny", [str(i) for i in range(24)], suffix="")
    out, options = tmp_path / "out", ("--num-classes", 3, "--workers", 0)
    code, _, err = cli("import", "tinyvit", tmp_path / "tiny", "--data", images, *options, "--out", out)
    assert code == 0, err
    store = Store(out)
    for number, key in enumerate(keys):
        for epoch, label in enumerate(dense(store, source.keys.index(key))):
            probs, ids = made[epoch, str(number)]
            assert np.allclose(label[ids], probs, atol=2e-3)
    shuffled = source.take(np.random.default_rng(0).permutation(24).tolist())
    object.__setattr__(shuffled, "kind", "wds")  # shards have an order of their own
    assert [shuffled.keys[Places(shuffled, counted=True).find(i)] for i in range(24)] == keys
    assert Places(shuffled, counted=True).find(24) is None


def test_the_order_is_that_of_text_and_not_of_numbers(tmp_path: Path) -> None:
    names = ("n1/x_9", "n1/x_10", "n1/x_1", "n1/x_1-b", "n10/a", "n2/a", "n2/deep/b", "n2/z")
    for name in names:
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(0).save(path)
    theirs = [path.removeprefix(f"{tmp_path}/")[:-4] for path, _ in TorchvisionFolder(str(tmp_path)).samples]
    assert [names[i] for i in folder_order(names)] == theirs == list(ImageFolder.open(tmp_path).keys)
    assert theirs.index("n1/x_10") < theirs.index("n1/x_9")


def test_a_name_without_a_folder_finds_the_one_image_that_has_it(tmp_path: Path, cli: Cli) -> None:
    images = write_folder(tmp_path / "train", per_class=2)
    for path in sorted(images.rglob("*.jpg")):
        path.rename(path.with_name(f"{path.parent.name}_{path.name}"))
    names = [key.rpartition("/")[2] for key in ImageFolder.open(images).keys]
    made = write_tinyvit(tmp_path / "tiny", names, suffix="")
    options = ("--data", images, "--num-classes", 3, "--workers", 0)
    code, _, err = cli("import", "tinyvit", tmp_path / "tiny", *options, "--out", tmp_path / "out")
    assert code == 0, err
    store = Store(tmp_path / "out")
    for sample, name in enumerate(names):
        for epoch, label in enumerate(dense(store, sample)):
            probs, ids = made[epoch, name]
            assert np.allclose(label[ids], probs, atol=2e-3)
    shutil.copy(next((images / "apple").iterdir()), images / "cheese")
    code, _, err = cli("import", "tinyvit", tmp_path / "tiny", *options, "--out", tmp_path / "twice")
    assert (code, "2 images of this name" in err, "'cheese/apple_00" in err) == (1, True, True), err


def test_an_image_in_only_some_epochs_is_left_out_and_the_first_of_two_records_counts(tmp_path: Path) -> None:
    made = write_tinyvit(tmp_path, ["a", "b", "c"], epochs=3, suffix="")
    again = write_tinyvit(tmp_path / "more", ["c", "d"], epochs=1, suffix="")
    for end in ("keys.txt", "values.bin"):  # the sampler padded the last rank with an image that another one has
        parts = sorted((tmp_path / "more" / "logits_top2_epoch0").glob(f"*{end}"))
        (tmp_path / "logits_top2_epoch1" / f"rank10-{end}").write_bytes(b"".join(p.read_bytes() for p in parts))
    reader = TinyVitReader(tmp_path, 3, ["x"])
    found = {entry.which: entry.content for entry in reader.entries()}
    assert set(found) == {"a", "b", "c"}
    for key, content in found.items():
        record = reader.parse(content, 9, 9).record
        for epoch in range(3):
            label = reader.codec.decode(record, epoch, 3, 3)
            assert label.probs.max() == pytest.approx(max(made[epoch, key][0]), abs=2e-3)
    assert max(again[0, "c"][0]) != pytest.approx(max(made[1, "c"][0]), abs=2e-3)


def _epochs(root: Path, epochs: int, count: int) -> Path:
    rng = np.random.default_rng(0)
    keys = [f"n{i // 1000:08d}_{i}" for i in range(count)]
    for epoch in range(epochs):
        folder = root / str(epochs) / f"logits_top1_epoch{epoch}"
        folder.mkdir(parents=True)
        (folder / "rank0-keys.txt").write_text("".join(keys[i] + "\n" for i in rng.permutation(count)))
        (folder / "rank0-values.bin").write_bytes(bytes(4 + 4 * count * 2 - 4))
    return root / str(epochs)


def test_memory_does_not_grow_with_the_epochs(tmp_path: Path) -> None:
    count, peaks = 20_000, []
    for epochs in (2, 8):
        reader = TinyVitReader(_epochs(tmp_path, epochs, count), 3, ["x"])
        tracemalloc.start()
        entries = reader.entries()
        next(entries)
        peaks.append(tracemalloc.get_traced_memory()[1] / count)
        tracemalloc.stop()
        assert sum(1 for _ in entries) == count - 1
    chunk = 8 * 6 * 2  # the records themselves: bytes of six more epochs, twice
    assert peaks[1] - peaks[0] < chunk + 10, "bytes per image"
    assert peaks[1] < 400


@pytest.mark.parametrize("fault", ["values", "records", "wide", "text"])
def test_damaged_epochs_are_refused(fault: str, tmp_path: Path) -> None:
    write_tinyvit(tmp_path, ["a", "b", "c"], suffix="")
    keys = tmp_path / "logits_top2_epoch1" / "rank0-keys.txt"
    if fault == "values":
        keys.with_name("rank0-values.bin").unlink()
    elif fault == "records":
        keys.write_text(keys.read_text() + "d\n")
    elif fault == "wide":
        keys.write_bytes(b"x" * 5000)
    else:
        keys = tmp_path / "logits_top2_epoch0" / "rank0-keys.txt"
        for folder in tmp_path.iterdir():
            for file in folder.glob("*keys.txt"):
                file.write_bytes(file.read_bytes().replace(b"a", b"\xff"))
    with pytest.raises(StoreError, match="Labels of a view are damaged"):
        list(TinyVitReader(tmp_path, 3, ["x"]).entries())


@pytest.mark.parametrize("text", ["", "a", "a\n", "a\nbcd\n\ne", "a\r\nbc\r\n", "\n\n", "1\n22\n333"])
def test_lines_are_those_of_python(text: str, tmp_path: Path) -> None:
    (tmp_path / "rank0-keys.txt").write_bytes(text.encode())
    lines = text.splitlines()
    (tmp_path / "rank0-values.bin").write_bytes(bytes(12 * len(lines)))
    assert EpochFiles(tmp_path, 12).keys().tolist() == [line.encode() for line in lines]
