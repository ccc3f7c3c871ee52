"""A kill harness: every command that writes is killed, interrupted, stopped, raced and given full disks at random moments.

    python tests/fuzz/kills.py --kills 1000 --seed 1 --minutes 60

Afterwards nothing that was committed may be lost or half seen, and the same command must end well with equal bytes; where all
is there already, it may say so. Which moment a signal meets depends on the machine: a seed gives a plan, not a moment.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import timm
import torch

from tests.fuzz.bases import prepared
from tests.fuzz.commands import COMMANDS, OTHER_ENGINES, Run, digests, look, out_of, start, workers_of
from tests.fuzz.mutate import memory
from tests.fuzz.pool import run_all
from tests.fuzz.report import Report
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
    "no space",
)
"""`full disk`: no file may be longer than some bytes; `no space`: the file system is small."""
SHARES = {"train": 1, "generate": 2} | dict.fromkeys(OTHER_ENGINES, 1)
"""Of the kills, by command; others have 3, as they take less time."""
ALL = COMMANDS | OTHER_ENGINES
FULL = ("full disk", "no space")
PATIENCE, TRIES, PAGE = 120.0, 4, os.sysconf("SC_PAGE_SIZE")
_NEW_MOUNTS = 0x00020000  # CLONE_NEWNS of linux/sched.h
__all__ = ["Kills", "main", "timm"]


class Kills:
    """The kills of a run. The undisturbed result and duration of each command are measured at first use.

    Args:
        bases: Folder of the bases.
        work: Folder to work in.
        seed: Of the kills.
        mounts: Whether small file systems may be mounted.
        commands: Names of the commands that are killed.
    """

    def __init__(
        self, bases: Path, work: Path, seed: int, mounts: bool = False, commands: tuple[str, ...] = tuple(ALL)
    ) -> None:
        self.bases, self.work, self.seed, self.mounts = bases, work, seed, mounts
        self.names = [name for name in commands for _ in range(SHARES.get(name, 3))]

    def reference(self, name: str, workers: int) -> dict[str, Any]:
        """What the command writes if nothing happens to it, and in how many seconds; measured once for all processes."""
        kept = self.work / f"{name}-{workers}.json"
        if not kept.exists():
            place = Path(tempfile.mkdtemp(dir=self.work))
            begin = time.monotonic()
            code, said = _end(start(ALL[name](self.bases, out_of(name), workers), place, place / "said"))
            seconds = time.monotonic() - begin
            if code:
                raise Fault("an undisturbed command fails", said)
            pages = sum(1 + p.lstat().st_size // PAGE for p in (place / out_of(name)).rglob("*"))
            found = {"files": digests(place / out_of(name)), "seconds": seconds, "pages": pages}
            kept.with_suffix(f".{os.getpid()}").write_text(json.dumps(found))
            kept.with_suffix(f".{os.getpid()}").rename(kept)
            shutil.rmtree(place)
        told: dict[str, Any] = json.loads(kept.read_text())
        return told

    def run(self, number: int) -> dict[str, object]:
        """One kill: what was done to which command, and the fault if there was one; `met`: the command was running then."""
        rng = np.random.default_rng([self.seed, number])
        name = self.names[int(rng.integers(len(self.names)))]
        act = ACTS[int(rng.integers(len(ACTS)))]
        act = act if self.mounts or act != "no space" else "full disk"
        act = "KILL worker" if act == "full disk" and "ray" in name else act  # Ray itself writes larger files
        workers = 0 if act == "full disk" else int(act == "KILL worker" or rng.integers(2))
        wanted = self.reference(name, workers)
        share = float(rng.uniform())
        about: dict[str, object] = {"command": name, "act": act, "workers": workers}
        for attempt in range(TRIES):  # a command that had ended before the signal is run again, with an earlier one
            place = Path(tempfile.mkdtemp(dir=self.work))
            room = place / "room"
            room.mkdir()
            try:
                if act == "no space":
                    _mount(room, max(2, int(rng.uniform(0, 1.1) * wanted["pages"])))
                about |= {"moment": round(share * wanted["seconds"] / 2**attempt, 3)}
                about |= self._kill(rng, about, room, wanted)
            except Fault as fault:
                return about | {"kind": fault.kind, "trace": str(fault)[-5000:]}
            finally:
                if act == "no space":
                    subprocess.run(["umount", "-l", room], check=False)
                shutil.rmtree(place, ignore_errors=True)
            if about["met"]:
                break
        return about

    def _kill(self, rng: np.random.Generator, about: dict[str, Any], room: Path, wanted: dict[str, Any]) -> dict[str, object]:
        name, act, files, said_in = about["command"], about["act"], wanted["files"], room.with_name("said")
        arguments, out = ALL[name](self.bases, out_of(name), about["workers"]), room / out_of(name)
        met = False
        for again in range(1 + int(rng.integers(3) == 0)):
            met |= self._disturb(rng, act, arguments, room, about["moment"] / (1 + again))
            kept = look(name, out, files)
            whole = files.items() <= (digests(out) if out.exists() else {}).items()
            if whole:
                break
        if act == "no space":
            _mount(room, 1 << 14, again=True)
        code, said = _end(start(arguments, room, said_in))
        if code and not (whole and "error:" in said):
            raise Fault("the same command does not end well", said)
        if "race" in act and not out.exists():
            raise Fault("nothing was written", said)
        if (found := _differences(digests(out), files)) and not code:
            raise Fault("other bytes in the end", found)
        if lost := [path for path, node in kept.items() if (out / path).stat().st_ino != node]:
            raise Fault("what was committed was written again", ", ".join(lost[:3]))
        if not code and (left := sorted({p.name for p in room.iterdir()} - {out_of(name).name})):
            raise Fault("something is left beside --out", ", ".join(left))
        return {"met": met, "committed": len(kept)}

    def _disturb(self, rng: np.random.Generator, act: str, arguments: list[object], room: Path, moment: float) -> bool:
        """Run the command and do what is to be done to it; whether that met a running command."""
        limit = int(rng.integers(300, 20_000)) if act == "full disk" else None
        first = start(arguments, room, room.with_name("said"), limit)
        met = True
        if act == "race":
            time.sleep(moment * float(rng.integers(2)) / 2)
            met = _runs(first.pid)
            other = start(arguments, room, room.with_name("said2"))
            ends = [_end(first), _end(other)]
        else:
            if act not in FULL:
                time.sleep(moment)
                met = _signal(rng, act, first.pid)
            ends = [_end(first)]
            met &= act not in FULL or bool(ends[0][0])
        for code, said in ends:
            if "Traceback" in said or "Exception ignored" in said:
                raise Fault(f"a traceback after {act}", said)
            deadly = {-int(signal.Signals[f"SIG{act.split()[0]}"])} if act.split()[0] in ("KILL", "TERM") else set[int]()
            if code not in {0, 1, 2, 130} | deadly:
                raise Fault(f"code {code} after {act}", said)
            if code in (1, 2) and "error:" not in said:
                raise Fault("code 1 and no error", said)
            if act == "STOP" and code:
                raise Fault("stopped and continued, and fails", said)
        return met


def _runs(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def _signal(rng: np.random.Generator, act: str, pid: int) -> bool:
    """Send the signal; whether there was someone to get it."""
    what, _, whom = act.partition(" ")
    number = signal.Signals[f"SIG{what}"]
    if not _runs(pid):
        return False
    try:
        if whom == "worker":
            workers: list[int] = []
            until = time.monotonic() + 5
            while not workers and time.monotonic() < until and _runs(pid):
                time.sleep(0.005)
                workers = workers_of(pid)
            if not workers:
                return False
            os.kill(workers[int(rng.integers(len(workers)))], number)
        elif whom == "group":
            os.killpg(pid, number)
        else:
            os.kill(pid, number)
        if what == "STOP":
            time.sleep(float(rng.uniform(0.01, 0.3)))
            os.kill(pid, signal.SIGCONT)
    except (ProcessLookupError, OSError):
        return False  # it has ended
    return True


def own_mounts() -> bool:
    """From now on what this process mounts is seen by it and its children alone; False: it may not mount."""
    kernel = ctypes.CDLL(None)
    if not hasattr(kernel, "unshare") or kernel.unshare(_NEW_MOUNTS):
        return False
    return not subprocess.run(["mount", "--make-rprivate", "/"], check=False, capture_output=True).returncode


def _mount(room: Path, pages: int, again: bool = False) -> None:
    """A file system of so many pages; `again`: it is mounted already, and gets another size."""
    how = f"{'remount,' if again else ''}size={pages * PAGE}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", room], check=True)


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


def harness(
    kills: int, seed: int, minutes: float, processes: int, work: Path, first: int = 0, commands: tuple[str, ...] = tuple(ALL)
) -> Iterator[dict[str, object]]:
    """As many kills as asked for, not counting those that met no running command; and all faults."""
    bases = prepared(work)
    (work / "kills").mkdir()
    until, done = time.time() + 60 * minutes, 0
    one = Kills(bases, work / "kills", seed, own_mounts(), commands).run
    for result in run_all(one, itertools.count(first), processes, until, 10 * PATIENCE, limited=False):
        yield result
        done += bool(result.get("met"))
        if done >= kills:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--command", choices=ALL, action="append", help="only this one; may be repeated")
    parser.add_argument("--report", type=Path, help="a JSON line per fault")
    given = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(given.seed, "kills", 100, given.report, lambda result: f"{result['kind']}; {result.get('command')}")
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        os.environ |= {"REINFORCE_CACHE": f"{work}/cache", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
        os.environ["TMPDIR"] = work  # what killed commands leave
        names = tuple(given.command or ALL)
        results = harness(given.kills, given.seed, given.minutes, given.processes, Path(work), given.first, names)
        return report.all(results, _kinds)


def _kinds(result: dict[str, object]) -> list[str]:
    return (
        [f"{result.get(key)}" for key in ("command", "act")]
        + ["met a running command" if result.get("met") else "met none"]
        + ["after something was committed"] * bool(result.get("committed"))
    )


if __name__ == "__main__":
    sys.exit(main())
