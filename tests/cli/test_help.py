"""Help: every command and option is there, at once; and options that take many values."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reinforce import __version__
from reinforce.cli import app, main
from reinforce.cli.app import spread
from tests.cli.conftest import Cli

pytestmark = pytest.mark.unit

_BY_HAND = ("generate", "train", "estimate", "inspect", "verify", "show", "demo", "bench")
COMMANDS = (*_BY_HAND, "pack", "publish", "pull", "import", "export", "list")


def test_help_lists_every_command(cli: Cli) -> None:
    said = cli("--help")
    assert said.code == 0
    for name in COMMANDS:
        assert f" {name} " in said.out
    assert cli("-h").out == said.out


def test_every_file_of_the_command_line_is_a_registered_command() -> None:
    parts = {"main", "app", "progress", "generation", "options", "expand", "lazy", "renamed"}
    files = {p.stem.rstrip("_") for p in Path(main.__file__).parent.glob("[a-z]*.py")} - parts
    registered = {c.name for c in app.app.registered_commands} | {f"bench_{c.name}" for c in app.bench.registered_commands}
    assert files == registered
    assert {name.partition("_")[0] for name in files} == set(COMMANDS)


@pytest.mark.process
def test_help_loads_none_of_the_heavy_packages() -> None:
    program = (
        "import sys; sys.argv = ['reinforce', '--help']\n"
        "from reinforce.cli import main\n"
        "try: main.main()\n"
        "except SystemExit as done: assert not done.code\n"
        "heavy = {'torch', 'timm', 'zarr', 'torchvision', 'pyarrow', 'numpy', 'PIL', 'simplejpeg', 'pydantic'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "LOADED []" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_for_itself_and_its_options(cli: Cli, name: str) -> None:
    said = cli(*name.split(), "--help")
    assert said.code == 0
    assert said.err == ""
    assert "Usage: " in said.out
    assert "--help" in said.out


PROMISED = {
    "generate": "data teacher out views policy size teacher-weights teacher-kwargs class-map codec seed batch-size workers"
    " device limit json",
    "train": "student data labels out val recipe epochs mode batch-size lr size seed resume student-kwargs json",
    "inspect": "json",
    "verify": "data views teacher json",
    "show": "data sample out",
    "demo": "out json",
    "bench modes": "data labels out json",
    "bench codec": "logits codec views top1 json",
    "bench loader": "data policy rounds json",
    "bench generate": "data teacher rounds json",
    "bench step": "student teacher rounds json",
    "bench store": "size plot json",
    "estimate": "data teacher views epochs gpu-hours gpu-rate json",
}


@pytest.mark.parametrize("name", PROMISED)
def test_the_promised_options_exist(cli: Cli, name: str) -> None:
    said = cli(*name.split(), "--help")
    for option in PROMISED[name].split():
        assert f"--{option} " in said.out, option


def test_version_is_printed(cli: Cli) -> None:
    assert cli("--version").out.strip() == __version__


def test_no_arguments_print_help(cli: Cli) -> None:
    said = cli()
    assert said.code == 2
    assert "Usage: " in said.out + said.err


# Many values after one option


@pytest.mark.parametrize(
    ("given", "spelled_out"),
    [
        ("", ""),
        ("train --lr 1 --teacher-kwargs a=1 b=2 --seed 3", "train --lr 1 --teacher-kwargs a=1 --teacher-kwargs b=2 --seed 3"),
        ("generate --teacher-kwargs a=1 b=2 c=3", "generate --teacher-kwargs a=1 --teacher-kwargs b=2 --teacher-kwargs c=3"),
        (
            "--student-kwargs a=1 b=2 --teacher-kwargs c=3 d=4",
            "--student-kwargs a=1 --student-kwargs b=2 --teacher-kwargs c=3 --teacher-kwargs d=4",
        ),
        ("--teacher-kwargs a=1 --teacher-kwargs b=2", "--teacher-kwargs a=1 --teacher-kwargs b=2"),
        ("--teacher-kwargs a=-1 b=2", "--teacher-kwargs a=-1 --teacher-kwargs b=2"),
        ("inspect DIR --json", "inspect DIR --json"),
        ("--teacher x y", "--teacher x y"),
    ],
)
def test_options_of_key_and_value_take_several(given: str, spelled_out: str) -> None:
    assert spread(given.split()) == spelled_out.split()
