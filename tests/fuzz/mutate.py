"""A mutation fuzzer: damaged stores, packs, publications and labels of others must be refused, or give the data that they had.

    python tests/fuzz/mutate.py --cases 20000 --seed 1 --minutes 60

A case is made from its seed and number alone: `--only 1234` runs one case again, here, with `--keep` for its files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from tests.fuzz.bases import TARGETS, make_bases, prepared
from tests.fuzz.damage import FILES, Rng
from tests.fuzz.pool import run_all
from tests.fuzz.rehash import rehash
from tests.fuzz.report import Report
from tests.fuzz.structure import STRUCTURES
from tests.fuzz.trial import ROOTS, Data, Fault, Trial, data_of


def damage(rng: Rng, root: Path) -> list[str]:
    """Spoil a folder in one to three ways."""
    said: list[str] = []
    for _ in range(1 + int(rng.integers(4) == 0) + int(rng.integers(8) == 0)):
        for _ in range(20):
            ways = STRUCTURES if rng.integers(2) else FILES
            done = ways[int(rng.integers(len(ways)))](rng, root)
            if done is not None:
                said.append(done)
                break
    return said


def _shape(root: Path) -> dict[str, tuple[int, int]]:
    return {p.as_posix(): (s.st_size, s.st_mtime_ns) for p in root.rglob("*") for s in (p.lstat(),) if not p.is_dir()}


class Cases:
    """The cases of a run. Attributes: the folder of the bases, and the data in each."""

    def __init__(self, bases: Path, work: Path, seed: int, only: tuple[str, ...] = TARGETS) -> None:
        self.bases, self.work, self.seed, self.targets = bases, work, seed, only
        self.data: dict[str, Data] = {}

    def run(self, number: int) -> dict[str, object]:
        """Make the case and try it: what was refused and what passed, or the fault."""
        rng = np.random.default_rng([self.seed, number])
        name = self.targets[int(rng.integers(len(self.targets)))]
        place = self.work / f"{os.getpid()}"
        shutil.rmtree(place, ignore_errors=True)
        root = place / "given" / name
        root.parent.mkdir(parents=True)
        shutil.copytree(self.bases / name, root, copy_function=os.link)
        if name not in self.data:
            self.data[name] = data_of(self.bases, name)
        said = damage(rng, root)
        again = bool(rng.integers(2))
        if again:
            rehash(root)
        trusted = not again and all(_same(root / r, self.bases / name / r) for r in ROOTS)
        about: dict[str, object] = {"target": name, "damage": said, "rehashed": again}
        trial = Trial(self.bases, name, root, place / "written" / "out", trusted, self.data[name], rng)
        before = _shape(place)
        told = {}
        with contextlib.chdir(place), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                trial.run()
            except Fault as fault:
                told = {"kind": fault.kind, "trace": str(fault)}
            except BaseException as error:
                error.add_note(json.dumps(about | {"step": trial.step}))
                raise
        after = {path: shape for path, shape in _shape(place).items() if not path.startswith((place / "written").as_posix())}
        if after != before and not told:
            told = {"kind": "a file outside --out", "trace": ", ".join(sorted(after.items() ^ before.items())[:1][0][:1])}
        return about | told | {"step": trial.step, "refused": len(trial.refused), "passed": len(trial.passed)}


def memory() -> Path | None:
    """A folder in memory, if there is one: a disk that syncs takes most of the time of small cases."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) and shutil.disk_usage(shared).free > 1 << 30 else None


def _same(one: Path, other: Path) -> bool:
    if not other.exists():
        return not one.exists() or one.name not in ROOTS
    return one.is_file() and one.read_bytes() == other.read_bytes()


def signature(result: dict[str, object]) -> str:
    """Kind of a fault and the innermost place of ours in its trace: what counts as one finding."""
    frames = re.findall(r'File "[^"]*/((?:reinforce|train|cli)/[^"]+)", line (\d+), in (\S+)', str(result.get("trace", "")))
    where = f" at {frames[-1][0]}:{frames[-1][2]}" if frames else ""
    return f"{result['kind']}{where}"


def fuzz(cases: int, seed: int, minutes: float, processes: int, work: Path, first: int = 0) -> Iterator[dict[str, object]]:
    """Run cases, as many as there is time for."""
    bases = prepared(work)
    before = _shape(bases)
    yield from run_all(
        Cases(bases, work / "cases", seed).run, range(first, first + cases), processes, time.time() + 60 * minutes
    )
    assert _shape(bases) == before, "a case changed a base"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, help="run this case alone, in this process")
    parser.add_argument("--keep", type=Path, help="with --only: a new folder for bases and case")
    parser.add_argument("--report", type=Path, help="a JSON line per fault")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.only is not None:
        work = given.keep or Path(tempfile.mkdtemp(dir=memory()))
        (work / "bases").mkdir(parents=True)
        make_bases(work / "bases")
        print(json.dumps(Cases(work / "bases", work, given.seed).run(given.only), indent=2))
        return 0
    report = Report(given.seed, "cases", 500, given.report, signature)
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        os.environ["REINFORCE_CACHE"] = f"{work}/cache"
        results = fuzz(given.cases, given.seed, given.minutes, given.processes, Path(work), given.first)
        told = {"refused": "refused in some step", "rehashed": "hashes recomputed"}
        return report.all(results, lambda result: [said for key, said in told.items() if result.get(key)])


if __name__ == "__main__":
    sys.exit(main())
