"""A short share of all three, for the tests: one process and one set of bases, as imports take most of the time."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch

from tests.fuzz.kills import harness
from tests.fuzz.mutate import fuzz, memory
from tests.fuzz.power import cuts


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=memory()) as folder:
        os.environ |= {"REINFORCE_CACHE": f"{folder}/cache", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
        work = Path(folder)
        results = [*fuzz(30, 3, 5, 2, work), *harness(3, 4, 5, 2, work), *cuts(("pack", "pull"), 0, 5, 2, work, most=3)]
    faults = [result for result in results if "kind" in result or result.get("faults")]
    for fault in faults:
        print(fault)
    print(f"{len(results)} results, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
