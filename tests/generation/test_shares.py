"""Shares: jobs beside each other make the bytes of one, in any order; nobody writes what another is writing."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from reinforce.errors import BusyError, StoreError, UsageError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate, generate_share
from reinforce.generation.share import Share
from reinforce.locks import only_writer
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import block_path, committed_blocks
from reinforce.store.block_notes import NOTES
from reinforce.store.folder_place import FolderPlace
from reinforce.store.store import JOB, MANIFEST
from reinforce.teachers.teacher import Teacher
from reinforce.views.policy_text import parse_policy
from tests.conftest import Cli, content, generate_line, make_settings, run_cli
from tests.forked import Child, Point, run
from tests.generation.generator import generate_small, share_small

pytestmark = pytest.mark.unit
ALONE = Execution(16, 0)


@pytest.mark.parametrize("policy", ["rrc-ra", "usi"])
def test_shares_in_any_order_write_the_bytes_of_one(policy: str, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, policy=parse_policy(policy), block_size=3)  # 8 blocks
    generate(source, teacher, settings, tmp_path / "whole", ALONE)
    out = tmp_path / "out"
    order = list(range(1, 6))
    random.Random(policy).shuffle(order)
    for number in order:
        told: list[tuple[int, int]] = []
        mine = Share(number, 5).blocks_of(list(range(8)))
        made = generate_share(source, teacher, settings, out, Share(number, 5), ALONE, lambda *p, t=told: t.append(p))
        assert (made is not None) == (number == order[-1])
        assert (told[0], told[-1]) == ((0, 3 * len(mine)), (3 * len(mine), 3 * len(mine)))
    assert content(out) == content(tmp_path / "whole")
    again = generate_share(source, teacher, settings, out, Share(2, 5), ALONE)  # a job that is run once more
    assert again is not None
    assert content(out) == content(tmp_path / "whole")


def test_the_plain_command_finishes_what_shares_began(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, block_size=3)
    generate(source, teacher, settings, tmp_path / "whole", ALONE)
    assert generate_share(source, teacher, settings, tmp_path / "out", Share(2, 3), ALONE) is None
    assert committed_blocks(tmp_path / "out") == {1, 4, 7}
    times = [block_path(tmp_path / "out", block).stat().st_mtime_ns for block in (1, 4, 7)]
    generate(source, teacher, settings, tmp_path / "out", ALONE)
    assert [block_path(tmp_path / "out", block).stat().st_mtime_ns for block in (1, 4, 7)] == times
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.process
def test_who_may_write_while_another_does(images: Path, weights: Path, teacher: Teacher, tmp_path: Path) -> None:
    out, source = tmp_path / "out", ImageFolder.open(images)
    settings = make_settings(source, teacher, block_size=6, views=16)  # those of `generator`
    busy = Execution(8, 0)
    at = Point("reinforce.store.folder_place:write_block", act="hold")
    with Child(share_small, images, weights, out, "1/3", at=at) as job:
        job.wait_until_held()
        with pytest.raises(BusyError):
            generate_share(source, teacher, settings, out, Share(1, 3), busy)
        with pytest.raises(BusyError):
            generate(source, teacher, settings, out, busy)
        assert generate_share(source, teacher, settings, out, Share(2, 3), busy) is None
    with Child(generate_small, images, weights, out, 0, at=at) as plain:  # the killed job holds nothing any more
        plain.wait_until_held()
        with pytest.raises(BusyError):
            generate_share(source, teacher, settings, out, Share(1, 3), busy)
    generate(source, teacher, settings, out, busy)
    generate(source, teacher, settings, tmp_path / "whole", busy)
    assert content(out) == content(tmp_path / "whole")


def test_only_one_job_finishes(images: Path, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = ImageFolder.open(images), tmp_path / "out"
    settings = make_settings(source, teacher, block_size=12)
    assert generate_share(source, teacher, settings, out, Share(1, 2), ALONE) is None

    def taken(place: FolderPlace) -> object:
        raise BusyError("another job is finishing it")

    with monkeypatch.context() as busy:
        busy.setattr(FolderPlace, "finishing", taken)
        assert generate_share(source, teacher, settings, out, Share(2, 2), ALONE) is None
    assert not (out / MANIFEST).exists()
    assert generate_share(source, teacher, settings, out, Share(2, 2), ALONE) is not None


@pytest.mark.process
def test_killed_shares_lose_no_block_and_leave_nothing_half(images: Path, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    points = [
        Point("reinforce.files:_sync"),
        Point("zarr:Group.create_array", call=4),
        Point("reinforce.store.folder_place:write_block", after=True),
        Point("reinforce.store.folder_place:take_notes"),
        Point("reinforce.store.completion:write_atomic", call=2),
    ]
    before: dict[int, object] = {}
    for at in points:
        for share in ("1/2", "2/2"):
            run(share_small, images, weights, out, share, at=at)
            now = {block: content(block_path(out, block)) for block in committed_blocks(out)}
            assert {block: now.get(block) for block in before} == before
            before = dict(now)
    for share in ("2/2", "1/2"):
        code, said = run(share_small, images, weights, out, share)
        assert code == 0, said
    assert run(generate_small, images, weights, tmp_path / "whole") == (0, "")
    assert content(out) == content(tmp_path / "whole")


def test_the_end_needs_the_notes_of_no_block(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    """Lost, damaged and foreign notes: then the blocks are read."""
    source = ImageFolder.open(images)
    settings = make_settings(source, teacher, block_size=3)
    generate(source, teacher, settings, tmp_path / "whole", ALONE)
    for number in (1, 2, 3):
        generate_share(source, teacher, settings, tmp_path / "out", Share(number, 4), ALONE)
    notes = sorted((tmp_path / "out" / NOTES).iterdir())
    assert len(notes) == 6
    notes[0].unlink()
    notes[1].write_bytes(notes[1].read_bytes()[:-20])
    notes[2].write_bytes(b"")
    notes[3].write_text("{}")
    generate(source, teacher, settings, tmp_path / "out", ALONE)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_a_complete_data_set_without_a_block_is_not_for_shares(images: Path, teacher: Teacher, tmp_path: Path) -> None:
    source, out = ImageFolder.open(images), tmp_path / "out"
    settings = make_settings(source, teacher)
    generate(source, teacher, settings, out, ALONE)
    whole = content(out)
    shutil.rmtree(block_path(out, 1))
    with pytest.raises(StoreError, match="without --share"):
        generate_share(source, teacher, settings, out, Share(1, 2), ALONE)
    assert not (out / JOB).exists()
    generate(source, teacher, settings, out, ALONE)
    assert content(out) == whole


@pytest.mark.process
def test_from_the_command_line(images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    line = ("generate", *generate_line(images, weights))
    line += ("--block-size", 7, "--workers", 0, "--out", tmp_path / "out")
    code, said, _ = cli(*line, "--share", "1/2")
    assert (code, said) == (0, f"{tmp_path / 'out'}: share 1/2 is made; 2 of 4 blocks belong to shares that are not\n")
    code, said, _ = cli(*line, "--share", "1/2", "--json")
    assert '{"share": "1/2", "blocks": 4, "missing_blocks": 2}' in said
    code, said, _ = cli(*line, "--share", "2/2")
    assert code == 0
    assert "24 samples x 2 views" in said
    with only_writer(tmp_path / "out", tmp_path / "out" / ".share-1-of-2.lock"):
        assert run_cli(*line).returncode == 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "1/0", "-1/4", "a/b", "1/4/2", "1/9999999"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no share"):
        Share.parse(text)
