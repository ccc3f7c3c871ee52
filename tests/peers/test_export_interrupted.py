"""Export under a kill and a full disk: nothing half is seen, and the same command finishes with the same files."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest

from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.teachers.teacher import Teacher
from reinforce.views.policy_text import parse_policy
from tests.conftest import content, make_settings
from tests.forked import Point, command, run

pytestmark = [pytest.mark.process, pytest.mark.slow]


def _full(*arguments: object) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))  # no file of an export is so small
    command(*arguments)


def test_an_export_is_whole_or_not_there(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    changes = {"policy": parse_policy("fkd"), "codec": {"name": "topk", "k": 2}, "views": 2}
    generate(source, teacher, make_settings(source, teacher, **changes), tmp_path / "a", Execution(16, 0))
    export = ("export", tmp_path / "a", "--format", "fkd", "--topk", 2, "--out")
    assert run(command, *export, tmp_path / "right")[0] == 0
    out = tmp_path / "files"
    ends = [Point("pathlib:Path.write_bytes", call=9), Point("os:fsync", call=5), Point("os:replace")]
    for at in ends:
        code, said = run(command, *export, out, at=at)
        assert code == -signal.SIGKILL, said
        assert not out.exists()
    code, said = run(_full, *export, out)
    assert code == 1, said
    assert "cannot be written" in said
    assert "File too large" in said
    assert not out.exists()
    assert not list(tmp_path.glob(".files*")), "an error leaves nothing"
    assert run(command, *export, out)[0] == 0
    assert content(out) == content(tmp_path / "right")
    code, said = run(command, *export, out)
    assert code == 1, "what is there is not overwritten"
    assert "holds other files" in said
