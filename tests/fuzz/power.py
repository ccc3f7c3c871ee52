"""Power cuts: what a command writes, syncs and renames is recorded; every state that a cut may leave is opened and continued.

    python tests/fuzz/power.py --minutes 10

The model: a file has the bytes of its last sync, and what was written since may be there, be gone, or be torn; a folder has the
entries of its last sync, and of the changes since any may be there. Renames are whole.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import stat
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch

from reinforce.cli.main import main as reinforce
from tests.fuzz.bases import prepared
from tests.fuzz.commands import COMMANDS, digests, look, out_of
from tests.fuzz.mutate import memory
from tests.fuzz.pool import run_all
from tests.fuzz.trial import Fault

Entries = dict[str, tuple[int, bool]]
"""Of a folder: name to number of the inode, and whether it is a folder."""
Image = dict[str, bytes | None]
"""Path to bytes; None: a folder."""
WAYS = (
    "all is there",
    "nothing but what is synced",
    "unsynced files are empty",
    "unsynced files are torn",
    "unsynced files are zeros",
    "any",
    "any",
)


@dataclass
class Moment:
    """The files after a call: folders by inode, bytes of files by inode, and of both what is synced."""

    call: str
    folders: dict[int, Entries]
    files: dict[int, bytes]
    synced_folders: dict[int, Entries]
    synced_files: dict[int, bytes]


@dataclass
class Recorder:
    """Records what happens below a folder, at calls of `os` that sync, rename and remove; between two, anything is written."""

    root: Path
    moments: list[Moment] = field(default_factory=list)

    def __post_init__(self) -> None:
        folders, _ = self._scan()
        self.start = self.root.stat().st_ino
        self.synced_folders = folders
        self.synced_files: dict[int, bytes] = {}

    def _scan(self) -> tuple[dict[int, Entries], dict[int, bytes]]:
        folders: dict[int, Entries] = {}
        files: dict[int, bytes] = {}
        for folder, names, others in os.walk(self.root):
            with contextlib.suppress(FileNotFoundError):
                entries = folders.setdefault(Path(folder).stat().st_ino, {})
                for name in names + others:
                    with contextlib.suppress(FileNotFoundError):
                        path = Path(folder, name)
                        number = path.stat().st_ino
                        entries[name] = (number, path.is_dir())
                        if not path.is_dir():
                            files[number] = path.read_bytes()
        return folders, files

    def note(self, call: str) -> None:
        self.moments.append(Moment(call, *self._scan(), dict(self.synced_folders), dict(self.synced_files)))

    def synced(self, handle: int) -> None:
        about = os.fstat(handle)
        if stat.S_ISDIR(about.st_mode):
            folders, _ = self._scan()
            self.synced_folders[about.st_ino] = folders.get(about.st_ino, {})
        else:
            self.synced_files[about.st_ino] = Path(f"/proc/self/fd/{handle}").read_bytes()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Calls of `os` are noted, before and after, while the context lasts."""
        originals = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")}

        def noting(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                self.note(f"before {name}")
                result = original(*arguments, **options)
                if name == "fsync":
                    self.synced(arguments[0])
                self.note(f"{name} {arguments[0]}")
                return result

            return call

        for name, original in originals.items():
            setattr(os, name, noting(name, original))
        try:
            yield
        finally:
            for name, original in originals.items():
                setattr(os, name, original)


def image(moment: Moment, start: int, way: str, rng: np.random.Generator) -> Image:
    """What is on the disk after a cut at this moment."""
    made: Image = {}

    def entries(number: int) -> Entries:
        now, sure = moment.folders.get(number, {}), moment.synced_folders.get(number, {})
        if way == "nothing but what is synced":
            return sure
        if way != "any":
            return now
        changed = sorted(name for name in now.keys() | sure.keys() if now.get(name) != sure.get(name))
        kept = {name: sure[name] for name in sure if name not in changed}
        for name in changed:
            found = (now if rng.integers(2) else sure).get(name)
            if found is not None:
                kept[name] = found
        return kept

    def content(number: int) -> bytes:
        now, sure = moment.files.get(number), moment.synced_files.get(number)
        if now is None or now == sure or way == "all is there":
            return now if now is not None else sure or b""
        if way == "nothing but what is synced":
            return sure or b""
        choices = {
            "unsynced files are empty": b"",
            "unsynced files are torn": now[: len(now) // 2],
            "unsynced files are zeros": bytes(len(now)),
        }
        return (
            choices.get(way)
            or (now, b"", now[: int(rng.integers(len(now) + 1))], bytes(len(now)))[int(rng.integers(4)) if way == "any" else 1]
        )

    def walk(number: int, path: str) -> None:
        for name, (inner, folder) in sorted(entries(number).items()):
            place = f"{path}{name}"
            made[place] = None if folder else content(inner)
            if folder:
                walk(inner, f"{place}/")

    walk(start, "")
    return made


def run(arguments: list[object], place: Path) -> tuple[int, str]:
    """A command in this process."""
    said, sys.argv = io.StringIO(), ["reinforce", *map(str, arguments)]
    with contextlib.chdir(place), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            reinforce()
        except SystemExit as done:
            return int(done.code or 0), said.getvalue()
    return 0, said.getvalue()


class Cuts:
    """Every power cut of every command; piece of work i is command i."""

    def __init__(self, bases: Path, work: Path, names: tuple[str, ...], seed: int, most: int | None = None) -> None:
        self.bases, self.work, self.names, self.seed, self.most = bases, work, names, seed, most

    def command(self, number: int) -> dict[str, object]:
        name = self.names[number]
        arguments = COMMANDS[name](self.bases, out_of(name), 0)
        place = self.work / name
        place.mkdir(parents=True)
        recorder = Recorder(place)
        with recorder.recording():
            code, said = run(arguments, place)
        assert code == 0, said
        recorder.note("done")
        wanted = digests(place / out_of(name))
        rng = np.random.default_rng([self.seed, number])
        seen: set[int] = set()
        found = Counter[str]()
        todo = [(moment, way) for moment in recorder.moments for way in WAYS]
        if self.most is not None:
            todo = [todo[int(i)] for i in rng.choice(len(todo), min(self.most, len(todo)), replace=False)]
        todo += [(recorder.moments[-1], way) for way in WAYS]
        traces: list[str] = []
        for moment, way in todo:
            made = image(moment, recorder.start, way, rng)
            key = hash(tuple(sorted(made.items())))
            done = moment.call == "done"
            if key in seen and not done:
                continue
            seen.add(key)
            try:
                self._try(name, arguments, made, wanted, done)
            except Fault as fault:
                found[f"{fault.kind}; {name}"] += 1
                traces.append(f"{moment.call}; {way}: {fault}"[:1500])
            except Exception as error:  # noqa: BLE001 - any error but ours is a finding
                found[f"raises {type(error).__name__}; {name}"] += 1
                traces.append(f"{moment.call}; {way}: {error!r}"[:1500])
        return {"command": name, "calls": len(recorder.moments), "states": len(seen), "faults": dict(found), "traces": traces}

    def _try(self, name: str, arguments: list[object], made: Image, wanted: dict[str, str], done: bool) -> None:
        place = Path(tempfile.mkdtemp(dir=self.work))
        out = place / out_of(name)
        try:
            for path, content in made.items():
                if content is None:
                    (place / path).mkdir(parents=True, exist_ok=True)
                else:
                    (place / path).write_bytes(content)
            there = digests(out) if out.exists() else {}
            if done and (lost := [path for path in wanted if there.get(path) != wanted[path]]):
                raise Fault("what was said to be done is lost", f"{lost[0]}; {len(there)} files are there")
            look(name, out, wanted)
            whole = wanted.items() <= there.items()
            code, said = run(arguments, place)
            if code and not (whole and "error:" in said):
                raise Fault("the same command does not end well", said)
            if not code and digests(out) != wanted:
                raise Fault("other bytes in the end", ", ".join([min(digests(out).items() ^ wanted.items())[0]]))
        finally:
            shutil.rmtree(place, ignore_errors=True)


def cuts(
    names: tuple[str, ...], seed: int, minutes: float, processes: int, work: Path, most: int | None = None
) -> Iterator[dict[str, object]]:
    """Record each command and try the states; `most`: as many of each command, chosen at random."""
    bases = prepared(work)
    until = time.time() + 60 * minutes
    yield from run_all(
        Cuts(bases, work / "cuts", names, seed, most).command, range(len(names)), processes, until, 3600, limited=False
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--most", type=int, help="as many states of each command, chosen at random; default: all")
    parser.add_argument("--command", choices=COMMANDS, action="append")
    given = parser.parse_args()
    torch.set_num_threads(1)
    states, faults = 0, 0
    with tempfile.TemporaryDirectory(dir=memory()) as work:
        os.environ |= {"REINFORCE_CACHE": f"{work}/cache", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
        names = tuple(given.command or COMMANDS)
        for result in cuts(names, given.seed, given.minutes, given.processes, Path(work), given.most):
            if "kind" in result:
                print(result["kind"], result["trace"])
                faults += 1
                continue
            found: Any = result["faults"]
            print(f"{result['command']}: {result['calls']} moments, {result['states']} states, {sum(found.values())} faults")
            for kind, count in found.items():
                print(f"{count:6}  {kind}")
            traces: Any = result["traces"]
            for trace in traces[:5]:
                print(trace)
            states += int(str(result["states"]))
            faults += sum(found.values())
    print(f"{states} states, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
