"""What a machine may do to a command: pipes and devices in place of files, Ctrl-C at any moment, too little of anything."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Cli
from tests.cli.test_errors import GENERATE, TRAIN

pytestmark = pytest.mark.unit

PIPES = [
    (GENERATE.replace("{images}", "{root}/pipe.tar"), "a pipe or a device"),
    (GENERATE.replace("{images}", "{root}/pipe.parquet"), "a pipe or a device"),
    (GENERATE.replace("{images}", "/dev/zero"), "no image folder at"),
    (GENERATE.replace("{weights}", "{root}/pipe.safetensors"), "There is no weights file"),
    (f"{GENERATE} --class-map {{root}}/pipe.json", "class map"),
    (f"{TRAIN} --recipe {{root}}/pipe.toml", "There is no recipe"),
    (f"{TRAIN} --val {{root}}/pipe.tar", "a pipe or a device"),
    (f"{TRAIN} --resume".replace("{out}", "{root}"), "is no checkpoint of a training run"),
    ("inspect {root}", "samples.parquet is damaged"),
    ("export {root} --format fkd --out new", "samples.parquet is damaged"),
]
"""Pipes into which nobody writes, and a device that does not end, as each thing that a command may be given."""


@pytest.mark.timeout(30)
@pytest.mark.parametrize(("line", "found"), PIPES, ids=[line for line, _ in PIPES])
def test_nothing_waits_for_a_pipe(cli: Cli, places: dict[str, str], store: Path, line: str, found: str) -> None:
    root = Path(places["root"])
    shutil.copy(store / "manifest.json", root)
    (root / "blocks").symlink_to(store / "blocks")
    for name in (
        "pipe.tar",
        "pipe.parquet",
        "pipe.safetensors",
        "pipe.json",
        "pipe.toml",
        "last.safetensors",
        "samples.parquet",
    ):
        os.mkfifo(root / name)
    if "--resume" in line:
        (root / "manifest.json").unlink()
    said = cli(*line.format(**places).split())
    assert said.code in (1, 2)
    assert found in said.err
    assert not Path(places["out"]).exists()


INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise SystemError("a module that is compiled makes another error of it") from None

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
sys.argv = ["reinforce", *{arguments!r}]
from reinforce.cli.main import main
main()
"""


@pytest.mark.process
@pytest.mark.parametrize("module", ["reinforce.errors", "typer", "reinforce.cli.train", "reinforce.verification.summary"])
def test_a_command_is_interrupted_in_one_line_from_its_first_imports_on(module: str, tmp_path: Path) -> None:
    code = INTERRUPTED.format(module=module, arguments=["inspect", str(tmp_path)])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.strip().startswith("interrupted")
    assert done.stderr.strip().count("\n") == 0


HALF_MADE = """
import sys, reinforce.cli.app, reinforce.errors

class HalfMade:
    def __del__(self):
        raise AttributeError("no socket yet")

async def never():
    pass

def run(arguments):
    half, coroutine = HalfMade(), never()
    raise {error}

reinforce.cli.app.run = run
from reinforce.cli.main import main
main()
"""


@pytest.mark.process
@pytest.mark.parametrize(("error", "code"), [("KeyboardInterrupt", 130), ("SystemExit(130)", 130), ("MemoryError", 1)])
def test_what_was_half_made_says_nothing(error: str, code: int) -> None:
    """Found by the kill harness: Ctrl-C while zarr starts its event loop."""
    run = [sys.executable, "-c", HALF_MADE.format(error=error)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    assert done.stderr.strip().startswith(("interrupted", "error: There is not enough memory"))
    for word in ("Exception ignored", "Traceback", "never awaited"):
        assert word not in done.stderr


DROPPED = """
import os, signal, sys, time, reinforce.cli.app

class Destroyed:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def while_forking(now=[True]):
    if now:
        now.clear()
        signal.raise_signal(signal.SIGINT)

def fork():
    os.register_at_fork(after_in_parent=while_forking)
    if not os.fork():
        os._exit(0)

def run(arguments):
    {what}()
    time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler)
reinforce.cli.app.run = run
from reinforce.cli.main import main
main()
"""


@pytest.mark.process
@pytest.mark.parametrize("what", ["Destroyed", "fork"])
def test_an_interrupt_that_python_drops_comes_again(what: str) -> None:
    """Found by the kill harness: Ctrl-C while a worker is forked."""
    done = subprocess.run([sys.executable, "-c", DROPPED.format(what=what)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (130, "\ninterrupted\n")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            MemoryError("no room"),
            "error: There is not enough memory.\n  found:        MemoryError: no room, in command of inspect.py",
        ),
        (RuntimeError("can't start new thread"), "error: There is not enough memory."),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), "not enough memory"),
        (RuntimeError("could not create a primitive"), "error: There is not enough memory."),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "error: There is not enough memory."),
        (OSError(errno.EMFILE, "Too many open files", "x"), "error: This process may open no more files.\n  found:        Too"),
    ],
)
def test_what_the_machine_lacks_is_no_traceback(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, places: dict[str, str], error: Exception, said: str
) -> None:
    import reinforce.verification.summary

    def summarise(root: Path) -> None:
        raise error

    monkeypatch.setattr(reinforce.verification.summary, "summarise", summarise)
    told = cli("inspect", places["store"])
    assert told.code == 1
    assert said in told.err
    assert "next:" in told.err
