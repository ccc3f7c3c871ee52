"""Kinds of tests: none is without one, and a unit test that starts a process or opens a socket fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
HEAD = "import os, socket, subprocess, multiprocessing, threading, pytest\n"


def pytest_run(folder: Path, text: str, *options: str) -> tuple[int, str]:
    """Run pytest with these kinds on a file of tests."""
    (folder / "test_some.py").write_text(HEAD + text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n  unit\n  process\n  network\n")
    command = [sys.executable, "-m", "pytest", "-p", "tests.kinds", "-p", "no:cacheprovider", *options, "."]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_a_test_without_a_kind_or_with_two_stops_the_collection(tmp_path: Path) -> None:
    code, said = pytest_run(tmp_path, "def test_bare(): pass\n")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "test_some.py::test_bare: has no kind" in said
    code, said = pytest_run(tmp_path, "@pytest.mark.unit\n@pytest.mark.network\ndef test_two(): pass\n")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "test_some.py::test_two: is unit and something else" in said


OF_BOTH = """
pytestmark = pytest.mark.unit
def test_as_the_module(): pass
@pytest.mark.process
def test_of_its_own(): os.system("true")
"""


@pytest.mark.parametrize(("kind", "name"), [("unit", "test_as_the_module"), ("process", "test_of_its_own")])
def test_what_a_test_says_takes_the_place_of_what_its_module_says(kind: str, name: str, tmp_path: Path) -> None:
    code, said = pytest_run(tmp_path, OF_BOTH, "-m", kind, "-v")
    assert code == 0, said
    assert re.findall(r"::(\w+) PASSED", said) == [name]


REACHES = {
    "a_command": "subprocess.run(['true'])",
    "a_shell": "os.system('true')",
    "a_fork": "os.fork() or os._exit(0)",
    "a_forked_process": "multiprocessing.get_context('fork').Process(target=print).start()",
    "a_spawned_process": "multiprocessing.get_context('spawn').Process(target=print).start()",
    "a_pool": "multiprocessing.get_context('forkserver').Pool(1)",
    "a_worker": "import torch.utils.data as d; list(d.DataLoader([1], num_workers=1))",
    "a_server": "socket.create_server(('127.0.0.1', 0))",
    "a_client": "socket.create_connection(('127.0.0.1', 9))",
    "a_name": "socket.getaddrinfo('localhost', 80)",
    "a_caught_error": "\n  try: subprocess.run(['true'])\n  except BaseException: pass",
    "a_thread": "t = threading.Thread(target=os.system, args=['true']); t.start(); t.join()",
}
INSIDE = """
pytestmark = pytest.mark.unit
def test_threads_may_talk(): socket.socketpair()
def test_threads_may_run(): threading.Thread(target=print).start()
def test_a_loop_may_run():
  import asyncio; asyncio.run(asyncio.sleep(0))
@pytest.fixture
def child(): subprocess.run(['true'])
def test_fixtures_count_too(child): pass
"""


def test_a_unit_test_that_reaches_outside_fails(tmp_path: Path) -> None:
    tests = "".join(f"def test_{name}(): {code}\n" for name, code in REACHES.items())
    code, said = pytest_run(tmp_path, INSIDE + tests, "-v", "--tb=line")
    assert code == pytest.ExitCode.TESTS_FAILED
    found = dict(re.findall(r"::test_(\w+) (PASSED|FAILED|ERROR)", said))
    passed = ("threads_may_talk", "threads_may_run", "a_loop_may_run")
    assert found == {**dict.fromkeys(passed, "PASSED"), "fixtures_count_too": "ERROR", **dict.fromkeys(REACHES, "FAILED")}
    assert "is marked unit; mark it process or network" in said
