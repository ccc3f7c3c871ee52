"""A short share of the fuzzers; and what they count as a fault is found by them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tests.fuzz.trial
from reinforce.errors import BusyError, StoreError
from reinforce.locks import new_folder
from reinforce.verification.summary import summarise
from tests.fuzz.commands import digests, look
from tests.fuzz.damage import FILES
from tests.fuzz.mutate import signature
from tests.fuzz.pool import OVER, run_all
from tests.fuzz.power import WAYS, Moment, image
from tests.fuzz.rehash import rehash
from tests.fuzz.structure import STRUCTURES
from tests.fuzz.trial import Data, Fault, Trial
from tests.verification.damage import failed, flip

pytestmark = pytest.mark.unit


@pytest.mark.process
@pytest.mark.slow
def test_a_short_share_has_no_faults() -> None:
    run = subprocess.run([sys.executable, Path(__file__).with_name("share.py")], capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"^[1-9]\d* results, 0 faults\n$", run.stdout, re.MULTILINE)


@pytest.mark.network
@pytest.mark.process
@pytest.mark.slow
def test_a_short_share_of_the_attacks_on_s3_has_no_faults() -> None:
    arguments = [sys.executable, str(Path(__file__).with_name("share.py")), "s3"]
    run = subprocess.run(arguments, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "6 results, 0 faults" in run.stdout


def _sleep(_: int) -> dict[str, object]:
    time.sleep(60)
    return {}


def _grow(_: int) -> dict[str, object]:
    return {"bytes": len(bytes(3 << 30))}


def _die(_: int) -> dict[str, object]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


@pytest.mark.process
@pytest.mark.parametrize(
    ("work", "kind"),
    [(_sleep, "hangs"), (_grow, OVER), (_die, "died by SIGKILL"), (lambda n: {"n": 1 // n}, "raises ZeroDivisionError")],
)
def test_work_that_hangs_grows_dies_or_raises_is_told_and_the_next_goes_on(
    work: Callable[[int], dict[str, object]], kind: str
) -> None:
    results = {
        r["number"]: r for r in run_all(lambda n: {"fine": n} if n else work(n), range(3), 1, time.time() + 60, seconds=1)
    }
    assert [results[n].get("kind") for n in range(3)] == [kind, None, None]
    assert (
        signature({"kind": kind, "trace": 'File "/x/reinforce/files.py", line 3, in remove'})
        == f"{kind} at reinforce/files.py:remove"
    )


@pytest.mark.parametrize("way", [*FILES, *STRUCTURES], ids=lambda way: way.__name__)
def test_damage_is_done_again_from_its_number(
    way: Callable[..., str | None], own_store: Path, store: Path, tmp_path: Path
) -> None:
    said = way(np.random.default_rng(5), own_store)
    assert (said is None) == (digests(own_store) == digests(store) and not any(p.is_symlink() for p in own_store.rglob("*")))


def test_new_hashes_hide_damage_from_the_hashes_and_from_nothing_else(own_store: Path) -> None:
    flip(own_store / "blocks" / "000001.zarr" / "probes" / "c" / "0")
    assert failed(own_store) == {"files": 1}
    rehash(own_store)
    assert failed(own_store) == {"files": 0, "samples": 0, "params": 0, "labels": 0}


def test_data_that_differ_and_pass_are_a_fault(
    own_store: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(
        images.parent, "store", own_store, tmp_path / "out", True, Data(hard={"apple/000": 1}), np.random.default_rng(0)
    )
    monkeypatch.setattr(tests.fuzz.trial, "IMAGES", images.name)
    with pytest.raises(Fault, match="silent: other samples or views of labels"):
        trial.run()
    assert {"verify", "inspect", "open"} <= set(trial.passed)


def test_what_a_cut_leaves_is_seen_by_whoever_looks(own_store: Path, store: Path) -> None:
    wanted = digests(store)
    assert look("generate", own_store, wanted)
    record = own_store / "blocks" / "000001.zarr" / "records" / "c" / "0"
    content = record.read_bytes()
    record.write_bytes(content[:-1])
    with pytest.raises(Fault, match="half of a file is seen"):
        look("generate", own_store, wanted)
    record.unlink()
    with pytest.raises(Fault, match="half of a block is seen"):
        look("generate", own_store, wanted)


def test_a_cut_takes_what_is_not_synced() -> None:
    """A file 3, synced when it had two bytes, in a folder 2 that its parent 1 has not yet synced; and a file 4 of no sync."""
    folders = {1: {"new": (2, True)}, 2: {"a": (3, False), "b": (4, False)}}
    moment = Moment("replace", folders, {3: b"long", 4: b"text"}, {1: {}, 2: {"a": (3, False)}}, {3: b"lo"})
    rng = np.random.default_rng(0)
    made = {way: image(moment, 1, way, rng) for way in WAYS}
    assert made["all is there"] == {"new": None, "new/a": b"long", "new/b": b"text"}
    assert made["nothing but what is synced"] == {}
    assert made["unsynced files are torn"] == {"new": None, "new/a": b"lo", "new/b": b"te"}
    assert made["unsynced files are zeros"]["new/b"] == bytes(4)
    assert {len(image(moment, 1, "any", rng)) for _ in range(50)} == {0, 2, 3}


def test_a_missing_file_is_named_by_inspect(own_store: Path) -> None:
    """Found by the fuzzer: a FileNotFoundError."""
    (own_store / "blocks" / "000001.zarr" / "sha256" / "zarr.json").unlink()
    with pytest.raises(StoreError, match=re.escape("blocks/000001.zarr/sha256/zarr.json cannot be read")):
        summarise(own_store)


def test_a_folder_is_made_by_one_writer_at_a_time(tmp_path: Path) -> None:
    """Found by the kill harness: two exports wrote into one temporary folder, and the first to end left half of it as whole."""
    with new_folder(tmp_path / "new" / "out") as staging:
        (staging / "a").write_text("first")
        with pytest.raises(BusyError, match="is being written"), new_folder(tmp_path / "new" / "out"):
            pass
    assert {p.name for p in (tmp_path / "new").iterdir()} == {"out"}
    with pytest.raises(StoreError, match="holds other files"), new_folder(tmp_path / "new" / "out"):
        pass
    assert (tmp_path / "new" / "out" / "a").read_text() == "first"
