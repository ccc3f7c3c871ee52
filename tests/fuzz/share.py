"""A short share of the fuzzers, for the tests; `s3`: of that one. One process and one set of bases, as imports take long."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from tests.fuzz.kills import ALL, harness
from tests.fuzz.mutate import fuzz, memory
from tests.fuzz.power import cuts
from tests.fuzz.s3 import attacks


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        os.environ |= {"REINFORCE_CACHE": f"{folder}/cache", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
        work = Path(folder)
        if sys.argv[1:] == ["s3"]:
            results = list(attacks(6, 3, 5, 2, work, names=("publish", "pull")))
        else:
            quick = tuple(name for name in ALL if "ray" not in name)
            kills = harness(3, 4, 5, 2, work, commands=quick)
            results = [*fuzz(30, 3, 5, 2, work), *kills, *cuts(("pack", "pull"), 0, 5, 2, work, most=3)]
    faults = [result for result in results if "kind" in result or result.get("faults")]
    for fault in faults:
        print(fault)
    print(f"{len(results)} results, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
