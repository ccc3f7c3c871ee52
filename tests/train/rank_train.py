"""One process of a run under torchrun, for tests: trains, and writes which samples and views it saw in each step.

Usage: rank_train.py IMAGES LABELS VAL OUT SEEN [key=value ...]; SEEN is a folder. Keys are fields of the recipe or of the run,
`die=[rank, step]`, which ends that process there, `signal=[rank, step]`, which asks it to stop, and `stop=[rank, step]`, which
is Ctrl-C. SEEN also gets `RANK-waits.json`: how many sums over all ranks each step waited for.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from reinforce.errors import ReinforceError
from reinforce.replay.epoch_views import Item, ReplayedViews
from reinforce.replay.targets import Targets
from reinforce.train.config import TrainConfig
from reinforce.train.loop import train
from reinforce.train.recipe import Recipe, load_recipe
from reinforce.train.tasks import ReplayTask, StudentTask


def main(arguments: list[str]) -> None:
    images, labels, val, out, seen = map(Path, arguments[:5])
    given = {k: json.loads(v) for k, v in (item.split("=", 1) for item in arguments[5:])}
    recipe = {"epochs": 2, "batch_size": 8, **{k: v for k, v in given.items() if k in Recipe.model_fields}}
    rest = {k: v for k, v in given.items() if k not in Recipe.model_fields and k not in ("die", "signal", "stop")}
    steps: list[list[list[int]]] = []
    items, forward = ReplayedViews.items, ReplayTask.forward
    current: list[list[int]] = []
    all_reduce, waits = dist.all_reduce, dict[int, int]()
    rank = int(os.environ.get("RANK", "0"))

    def noting_items(self: ReplayedViews, index: int, size: int | None = None) -> list[Item]:
        current.append([int(self.dataset.samples[index]), self.dataset.view_of(index)])
        return items(self, index, size)

    def noting_forward(self: StudentTask, input: torch.Tensor, target: Targets) -> dict[str, torch.Tensor]:
        steps.append(list(current))
        current.clear()
        if given.get("die") == [rank, len(steps)]:
            os._exit(3)
        if given.get("stop") == [rank, len(steps)]:
            os.kill(os.getppid(), signal.SIGINT)  # Ctrl-C at torchrun, which tells every process
        if given.get("signal") == [rank, len(steps)]:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, input, target)

    def noting_sum(*args: Any, **options: Any) -> Any:
        if not options.get("async_op") and steps:
            waits[len(steps) - 1] = waits.get(len(steps) - 1, 0) + 1
        return all_reduce(*args, **options)

    ReplayedViews.items = noting_items  # type: ignore[method-assign]
    ReplayTask.forward = noting_forward  # type: ignore[method-assign]
    dist.all_reduce = noting_sum
    torch.set_num_threads(1)
    rest = {"student": "test_vit", "workers": 0, **rest}
    config = TrainConfig(data=images, labels=labels, val=val, out=out, recipe=load_recipe("kd", recipe), **rest)
    try:
        train(config)
    except ReinforceError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    finally:
        (seen / f"{rank}.json").write_text(json.dumps(steps))
        (seen / f"{rank}-waits.json").write_text(json.dumps([waits.get(step, 0) for step in range(len(steps))]))


if __name__ == "__main__":
    main(sys.argv[1:])
