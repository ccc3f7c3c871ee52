"""A kill harness: every command that writes is killed, interrupted, stopped, raced and given full disks at random moments.

    python tests/fuzz/kills.py --kills 1000 --seed 1 --minutes 60

Afterwards nothing that was committed may be lost or half seen, and the same command must end well with equal bytes; where all
is there already, it may say so. Which moment a signal meets depends on the machine: a seed gives a plan, not a moment.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import timm
import torch

from tests.fuzz.bases import prepared
from tests.fuzz.commands import COMMANDS, Run, digests, look, out_of, start
from tests.fuzz.mutate import memory
from tests.fuzz.pool import run_all
from tests.fuzz.trial import Fault

ACTS = (
    "KILL group",
    "KILL group",
    "KILL",
    "KILL worker",
    "TERM",
    "TERM group",
    "INT",
    "INT group",
    "STOP",
    "race",
    "full disk",
)
SHARES = {"train": 1, "generate": 2}
"""Of the kills, by command; others have 3, as they take less time."""
PATIENCE = 120.0
__all__ = ["Kills", "main", "timm"]


class Kills:
    """The kills of a run. The undisturbed result and duration of each command are measured at first use."""

    def __init__(self, bases: Path, work: Path, seed: int, commands: tuple[str, ...] = tuple(COMMANDS)) -> None:
        self.bases, self.work, self.seed = bases, work, seed
        self.names = [name for name in commands for _ in range(SHARES.get(name, 3))]

    def reference(self, name: str) -> dict[str, Any]:
        """What the command writes if nothing happens to it, and in how many seconds; measured once for all processes."""
        kept = self.work / f"{name}.json"
        if not kept.exists():
            place = Path(tempfile.mkdtemp(dir=self.work))
            begin = time.monotonic()
            code, said = _end(start(COMMANDS[name](self.bases, out_of(name), 0), place, place / "said"))
            if code:
                raise Fault("an undisturbed command fails", said)
            found = {"files": digests(place / out_of(name)), "seconds": time.monotonic() - begin}
            kept.with_suffix(f".{os.getpid()}").write_text(json.dumps(found))
            kept.with_suffix(f".{os.getpid()}").rename(kept)
            shutil.rmtree(place)
        told: dict[str, Any] = json.loads(kept.read_text())
        return told

    def run(self, number: int) -> dict[str, object]:
        """One kill: what was done to which command, and the fault if there was one."""
        rng = np.random.default_rng([self.seed, number])
        name = self.names[int(rng.integers(len(self.names)))]
        act = ACTS[int(rng.integers(len(ACTS)))]
        workers = 0 if act == "full disk" else int(act == "KILL worker" or rng.integers(2))
        reference = self.reference(name)
        place = Path(tempfile.mkdtemp(dir=self.work))
        arguments, out = COMMANDS[name](self.bases, out_of(name), workers), place / out_of(name)
        moment = float(rng.uniform(0, 1.1 + workers)) * reference["seconds"]
        about: dict[str, object] = {"command": name, "act": act, "workers": workers, "moment": round(moment, 3)}
        try:
            for again in range(1 + int(rng.integers(3) == 0)):
                about |= self._disturb(rng, act, arguments, place, moment / (1 + again))
                kept = look(name, out, reference["files"])
                whole = reference["files"].items() <= (digests(out) if out.exists() else {}).items()
                if whole:
                    break
            about["committed"] = len(kept)
            code, said = _end(start(arguments, place, place / "said"))
            if code and not (whole and "error:" in said):
                raise Fault("the same command does not end well", said)
            if "race" in act and not out.exists():
                raise Fault("nothing was written", said)
            if (found := _differences(digests(out), reference["files"])) and not code:
                raise Fault("other bytes in the end", found)
            if lost := [path for path, node in kept.items() if (out / path).stat().st_ino != node]:
                raise Fault("what was committed was written again", ", ".join(lost[:3]))
            if not code and (left := sorted({p.name for p in place.iterdir()} - {out_of(name).name, "said", "said2"})):
                raise Fault("something is left beside --out", ", ".join(left))
        except Fault as fault:
            return about | {"kind": fault.kind, "trace": str(fault)[-5000:]}
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return about

    def _disturb(
        self, rng: np.random.Generator, act: str, arguments: list[object], place: Path, moment: float
    ) -> dict[str, object]:
        limit = int(rng.integers(300, 20_000)) if act == "full disk" else None
        first = start(arguments, place, place / "said", limit)
        if act == "race":
            time.sleep(moment * float(rng.integers(2)) / 2)
            other = start(arguments, place, place / "said2")
            ends = [_end(first), _end(other)]
        else:
            if act != "full disk":
                time.sleep(moment)
                _signal(rng, act, first.pid)
            ends = [_end(first)]
        for code, said in ends:
            if "Traceback" in said or "Exception ignored" in said:
                raise Fault(f"a traceback after {act}", said)
            allowed = {0, 1, 2, 130} | {
                -int(signal.Signals[f"SIG{act.split()[0]}"]) for _ in "x" if act.split()[0] in ("KILL", "TERM")
            }
            if code not in allowed:
                raise Fault(f"code {code} after {act}", said)
            if code in (1, 2) and "error:" not in said:
                raise Fault("code 1 and no error", said)
            if act == "STOP" and code:
                raise Fault("stopped and continued, and fails", said)
        return {"codes": [code for code, _ in ends]}


def _signal(rng: np.random.Generator, act: str, pid: int) -> None:
    what, _, whom = act.partition(" ")
    number = signal.Signals[f"SIG{what}"]
    try:
        if whom == "worker":
            workers = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            until = time.monotonic() + 5
            while not workers and time.monotonic() < until and Path(f"/proc/{pid}/task/{pid}/children").exists():
                time.sleep(0.005)
                workers = [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
            if workers:
                os.kill(workers[int(rng.integers(len(workers)))], number)
        elif whom == "group":
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
        if what == "STOP":
            time.sleep(float(rng.uniform(0.01, 0.3)))
            os.kill(pid, signal.SIGCONT)
    except (ProcessLookupError, OSError):
        return  # it has ended


def _end(run: Run) -> tuple[int, str]:
    """Wait for the end; a command that goes on and on is a fault, and its whole group is killed."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            code, said = run.end()
            _kill_rest(run.pid)
            return code, said
        time.sleep(0.01)
    _kill_rest(run.pid)
    _, said = run.end()
    raise Fault("does not end", said)


def _kill_rest(group: int) -> None:
    """Workers of a killed process end by themselves, later; so that they do not disturb the next run, now."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _differences(found: dict[str, str], wanted: dict[str, str]) -> str:
    paths = sorted(path for path in found.keys() | wanted.keys() if found.get(path) != wanted.get(path))
    return ", ".join(f"{p}{'' if p in found else ' (missing)' if p in wanted else ''}" for p in paths[:5])


def harness(kills: int, seed: int, minutes: float, processes: int, work: Path, first: int = 0) -> Iterator[dict[str, object]]:
    bases = prepared(work)
    (work / "kills").mkdir()
    numbers, until = range(first, first + kills), time.time() + 60 * minutes
    yield from run_all(Kills(bases, work / "kills", seed).run, numbers, processes, until, 10 * PATIENCE, limited=False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--report", type=Path, help="a JSON line per fault")
    given = parser.parse_args()
    torch.set_num_threads(1)
    counts, faults, start_ = Counter[str](), Counter[str](), time.time()
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        os.environ |= {"REINFORCE_CACHE": f"{work}/cache", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
        for result in harness(given.kills, given.seed, given.minutes, given.processes, Path(work), given.first):
            counts["all"] += 1
            counts[f"{result.get('command')}"] += 1
            counts[f"{result.get('act')}"] += 1
            counts["after something was committed"] += bool(result.get("committed"))
            if "kind" in result:
                name = f"{result['kind']}; {result.get('command')}"
                faults[name] += 1
                if given.report:
                    with open(given.report, "a") as file:
                        file.write(json.dumps(result | {"seed": given.seed}, default=str) + "\n")
            if counts["all"] % 100 == 0:
                print(f"{counts['all']} kills, {sum(faults.values())} faults, {time.time() - start_:.0f} s", flush=True)
    print(f"seed {given.seed}: " + ", ".join(f"{n} {what}" for what, n in counts.items()) + f", {time.time() - start_:.0f} s")
    for name, count in faults.most_common():
        print(f"{count:6}  {name}")
    print(f"{sum(faults.values())} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
