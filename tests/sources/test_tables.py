"""Tables and arrays that are not images, or would not fit in memory, are refused."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reinforce.errors import SourceError
from reinforce.sources.open_source import open_source

pytestmark = pytest.mark.unit


def test_arrays_that_are_not_images_are_refused(tmp_path: Path) -> None:
    def refused(match: str, **arrays: Any) -> None:
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(SourceError, match=match):
            open_source(tmp_path / "a.npz")

    pixels = np.zeros((4, 8, 8, 3), np.uint8)
    refused("no array of images", y=np.arange(4))
    refused("float64", x=np.zeros((4, 8, 8, 3)))
    refused("no array of images", x=np.zeros((4, 8, 8, 2), np.uint8))
    refused("no class ids", x=pixels, y=np.arange(3))
    refused("no class ids", x=pixels, y=np.zeros(4))
    refused("not class ids", x=pixels, y=np.array([0, 1, -2, 1]))
    refused("unpickled", x=pixels, y=np.array([{}, 1, 2, 3], dtype=object))
    np.savez(tmp_path / "a.npz", x=pixels)
    with pytest.raises(SourceError, match="no array of images"):
        open_source(f"{tmp_path / 'a.npz'}#test")
    assert len(open_source(tmp_path / "a.npz")) == 4
    for side, flat, shape in ((32, (4, 3072), (4, 32, 32, 3)), (28, (4, 784), (4, 28, 28))):
        images = np.random.default_rng(side).integers(0, 256, shape, np.uint8)
        channels_first = images.transpose(0, 3, 1, 2) if images.ndim == 4 else images
        np.savez(tmp_path / "a.npz", data=channels_first.reshape(flat), labels=np.arange(4))
        assert np.array_equal(open_source(tmp_path / "a.npz").places, images)
    np.savez(tmp_path / "a.npz", images=pixels.transpose(0, 3, 1, 2))
    assert open_source(tmp_path / "a.npz").places.shape == pixels.shape


def test_an_npz_that_would_not_fit_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reinforce.sources.arrays.MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", bytes(8 << 20))
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    with pytest.raises(SourceError, match="arrays of more than"):
        open_source(tmp_path / "bomb.npz")


def test_tables_without_images_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def table(match: str, **columns: object) -> None:
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        with pytest.raises(SourceError, match=match):
            open_source(tmp_path / "a.parquet")

    table("no column of images", label=[1, 2])
    table("have a label", image=[b"1", b"2"], label=[1, None])
    table("not class ids", image=[b"1", b"2"], label=[1, -1])
    table("one key", image=[b"1", b"2"], key=["a", "a"])
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(SourceError, match="is not parquet"):
        open_source(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": [b"1" * 1000, None]}), tmp_path / "b.parquet")
    source = open_source(tmp_path / "b.parquet")
    assert source.keys == ("00000000", "00000001")
    with pytest.raises(OSError, match="no image in this row"):
        source.read(1)
    monkeypatch.setattr("reinforce.sources.parquet.MAX_GROUP_BYTES", 100)
    import reinforce.sources.parquet

    reinforce.sources.parquet._HELD.clear()
    with pytest.raises(OSError, match="a row group of"):
        source.read(0)
    pq.write_table(pa.table({"picture": [b"1"]}), tmp_path / "c.parquet")
    with pytest.raises(SourceError, match="different columns"):
        open_source(str(tmp_path / "{b,c}.parquet"))


def test_a_pipe_or_damage_in_place_of_an_npz_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(SourceError, match="no plain file"):
        open_source(tmp_path / "pipe.npz")
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(4 * 64 * 3, dtype=np.uint8).reshape(4, 8, 8, 3))
    whole = (tmp_path / "a.npz").read_bytes()
    for place in range(0, len(whole), 3):
        (tmp_path / "a.npz").write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            assert len(open_source(tmp_path / "a.npz")) == 4
        except SourceError:
            continue


@pytest.mark.process
def test_a_table_of_images_with_a_damaged_footer_does_not_end_the_process(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [b"1" * 50, b"2"], "label": [0, 1]}), tmp_path / "a.parquet", use_dictionary=False)
    whole = (tmp_path / "a.parquet").read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    child = os.fork()
    if not child:  # were the process ended, the tests would be too
        try:
            for place in range(footer, footer + 120):
                for value in (0, 1, 127, whole[place] ^ 0x15):
                    (tmp_path / "b.parquet").write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
                    with contextlib.suppress(SourceError, OSError):
                        open_source(tmp_path / "b.parquet").read(0)
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
