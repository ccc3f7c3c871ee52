"""FORMAT.md and the code say the same: tables of ids, byte vectors, array layouts."""

from __future__ import annotations

import base64
import json
import math
import re
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from reinforce.generation.block_labels import MEASURE_EVERY
from reinforce.labels import sqrt, sqrt_selection
from reinforce.labels.label_map import MapCodec
from reinforce.labels.sparse import MAX_LEVEL, SparseLabels
from reinforce.labels.topk import TopK
from reinforce.settings import Settings
from reinforce.store.manifest import Manifest
from reinforce.views.erase import noise
from reinforce.views.one_way import ONE_WAY_FIELDS, one_way_view
from reinforce.views.operations import OPERATIONS
from reinforce.views.params import OP_SLOT_BASE, OTHER_BASE, Field, Interpolation, PixelSpec
from reinforce.views.status import Status
from tests.labels import sqrt_by_the_page as page

pytestmark = pytest.mark.unit

PAGE = files("reinforce").joinpath("FORMAT.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_field_and_op_ids_are_those_of_the_page() -> None:
    rows = re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", section("Params"), re.MULTILINE)
    fields, ops = rows[: len(Field)], rows[len(Field) :]
    assert fields == [(str(f.value), f.name) for f in Field]
    assert ops == [(str(o.id), o.name) for o in OPERATIONS.values()]
    assert f"| {OP_SLOT_BASE} + 4 s | op slot s | op id |" in PAGE
    assert "1 bilinear, 2 bicubic" in PAGE
    assert (Interpolation.BILINEAR, Interpolation.BICUBIC) == (1, 2)
    assert "0 ok, 1 missing, 2 corrupt" in PAGE
    assert [s.name.lower() for s in Status] == ["ok", "missing", "corrupt"]


def test_the_noise_of_the_page_is_the_noise_of_the_code() -> None:
    block = section("Pixel contract").split("Vector: seed 12345, 2 rows, 3 columns")[1].split("```")[1]
    assert noise(12345, 2, 3).tobytes().hex() == "".join(block.split())


def test_the_one_way_mixture_of_the_page_is_that_of_the_code() -> None:
    block = section("Pixel contract").split("OTHER_LAM 21627, PASTE 1, 2, 2, 2:")[1].split("```")[1]
    crop = (0, 0, 4, 4)
    spec = PixelSpec(4, (1, 2, 3, 4, *ONE_WAY_FIELDS, *(OTHER_BASE + f for f in range(1, 5))))
    params = np.array([*crop, 7, 21627, 1, 2, 2, 2, *crop], np.int32)
    own, other = (np.full((4, 4, 3), value, np.uint8) for value in (200, 13))
    pixels = one_way_view(own, params, spec, {7: other}.__getitem__).numpy()
    assert pixels.tolist() == [np.array([int(v, 16) for v in block.split()]).reshape(4, 4).tolist()] * 3
    assert "| 128 + f | of the other view |" in PAGE
    assert "22 to 27 and of 129 to 132 MUST be there, and none of 16 to 21" in PAGE


def test_the_topk_vector_is_written_and_read() -> None:
    text = re.search(r"```\n([0-9a-f ]+)\n```", section("Records"))
    assert text is not None
    vector = bytes.fromhex(text[1])
    rows = np.array([[0.5, 0.25, 0.125, 0.125], [0, 0, 0.25, 0.75]], np.float32)
    assert TopK(2).encode(rows) == vector
    ids, probs, remainder, _ = TopK(2).decode(vector, 0, 2, 4)
    assert (ids.tolist(), probs.tolist(), remainder) == ([0, 1], [0.5, 0.25], 0.25)
    ids, probs, remainder, _ = TopK(2).decode(vector, 1, 2, 4)
    assert (ids.tolist(), probs.tolist(), remainder) == ([3, 2], [0.75, 0.25], 0.0)


def test_the_map_vector_is_written_and_read() -> None:
    part = section("Records").partition("### `map`")[2]
    vector = bytes.fromhex(re.findall(r"```\n([0-9a-f ]+)\n```", part)[0])
    logits = np.array([[[[4, 2, 1, 1], [0, 2, 0, 1]]]], np.float32)
    assert MapCodec(2).encode(logits) == vector
    label_map = MapCodec(2).read(vector, 4)
    assert label_map.class_ids.tolist() == [[[0, 1], [1, 3]]]
    assert label_map.scores.tolist() == [[[3, 1], [2, 1]]]
    ids, probs, remainder, _ = label_map.pool()
    odds = np.exp([1.5, 1.5, 0.5, 0])  # of classes 0, 1, 3 and 2, at the mean of both positions
    assert ids.tolist() == [0, 1, 3]
    assert np.allclose([*probs, remainder], odds / odds.sum(), atol=1e-6)


def test_the_sqrt_vector_is_written_and_read() -> None:
    part = section("Records").partition("### `sqrt`")[2].partition("### `map`")[0]
    dictionary, content, record, mark, *rest = re.findall(r"```\n(.+?)\n```", part, re.DOTALL)
    assert not rest
    assert base64.b64decode(dictionary) == sqrt.DICTIONARY
    rows = np.array([[0.5, 0.25, 0.125, 0.0625, 0.03125, 0.03125], [0, 0, 0.25, 0.75, 0, 0]], np.float32)
    codec = sqrt.Sqrt(0.1)
    for written in (bytes.fromhex(record), codec.encode(rows)):
        assert sqrt._CODER.decompress(written) == bytes.fromhex(content)
    first, second = codec.decode_all(bytes.fromhex(record), 2, 6)
    assert "places 2 3 0 1 4 5 in row 0 and 2 3 in row 1" in part
    assert (first.class_ids.tolist(), second.class_ids.tolist()) == ([2, 3, 0, 1, 4, 5], [2, 3])
    values = np.array([16, 4, 49, 25, 4, 4]) + np.array([-3, -3, 1, -3, -3, -3]) / 8
    assert np.allclose(first.probs, values / values.sum(), rtol=1e-6)
    assert first.remainder == 0
    step = 0.1 / 3
    assert second.remainder == pytest.approx(0.5 - 0.5 * math.sin(step) / step, rel=1e-9)
    assert np.allclose(second.probs, np.array([25 - 3 / 8, 81 + 1 / 8]) / 105.75 * (1 - second.remainder), rtol=1e-6)
    read = np.array(page.read(page.content_of(bytes.fromhex(record)), 0.1, 2, 6))
    ours = SparseLabels.stack([first, second], 6).dense().numpy()
    assert np.allclose(read, ours, atol=1e-7)
    row = np.array([[0.26, 0.27, 0.25, 0.22]], np.float32)
    assert page.content_of(codec.encode(row)) == bytes.fromhex(mark)
    values = np.array([25 - 3 / 8, 25 + 1 / 8, 25 - 3 / 8, 25 - 3 / 8])
    assert np.allclose(page.read(bytes.fromhex(mark), 0.1, 1, 4), values / values.sum(), rtol=1e-6)
    assert np.allclose(codec.decode(codec.encode(row), 0, 1, 4).probs, values / values.sum(), rtol=1e-6)
    assert first.tail.levels.tolist() == [41, 41, 1, 1, 41, 41]
    assert first.tail.floor == 2 ** (-0xA5 / 4)


def test_the_limits_of_sqrt_stand_on_the_page() -> None:
    part = section("Records").partition("### `sqrt`")[2]
    assert f"`{sqrt_selection.RATE} delta^2`" in part
    assert f"`2^-min(level, {MAX_LEVEL})`" in part
    assert f"zstd dictionary of {len(sqrt.DICTIONARY)} bytes" in part
    assert f"multiple of {MEASURE_EVERY}" in section("Blocks")


def test_every_manifest_key_stands_on_the_page() -> None:
    for key in Manifest.model_fields.keys() - {"settings"}:
        assert f"| `{key}` |" in section("Manifest")
    for name, field in Settings.model_fields.items():
        key = field.serialization_alias or name
        assert f"| `settings.{key}` |" in section("Manifest")


def test_arrays_on_disk_are_those_of_the_page(store: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", section("Blocks"), re.MULTILINE)
    block = store / "blocks" / "000000.zarr"
    assert sorted(p.name for p in block.iterdir() if p.is_dir()) == sorted(name for name, _ in rows)
    for name, dtype in rows:
        metadata = json.loads((block / name / "zarr.json").read_bytes())
        assert metadata["data_type"] == dtype
        assert metadata["zarr_format"] == 3
    table = [line.split("|")[1] for line in section("Samples").splitlines() if line.startswith("| `")]
    columns = re.findall(r"`(\w+)`", " ".join(table))
    assert pq.read_schema(store / "samples.parquet").names == columns
