"""Workers that cannot be had, die or do not answer: what is said, and that nothing waits for ever."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from reinforce.cli.app import _as_note
from reinforce.errors import DeadWorkerError, TooManyFilesError, WorkerError
from reinforce.generation.engine import Execution
from reinforce.generation.generate import generate
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sources.folder import ImageFolder
from reinforce.sources.source import Source
from reinforce.store import folder_place
from reinforce.store.block import write_block
from reinforce.teachers.teacher import Teacher
from reinforce.train.loop import train
from reinforce.verification.verify import verify_pixels
from reinforce.views import workers
from reinforce.views.pixels import ViewMaker
from reinforce.views.status import Status
from tests.conftest import content, make_settings
from tests.train.conftest import at, config

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]  # none may hang


class Acting(Dataset[Any]):
    """Item 3 of a worker does `act`; all others are themselves."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def __getitem__(self, item: int) -> Any:
        return self.act() if item == 3 else item


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def unsendable() -> Any:
    return lambda: None


def end() -> None:
    os._exit(3)


def kill_a_worker() -> None:
    multiprocessing.active_children()[0].kill()
    time.sleep(0.5)  # the signal that tells of its death comes in the middle of what runs now


@pytest.mark.parametrize(
    ("act", "kind", "said"),
    [
        (kill, DeadWorkerError, "A worker process was killed.*SIGKILL.*no memory left.*fewer --workers"),
        (end, DeadWorkerError, "ended by itself.*exit code 3.*--workers"),
        (unsendable, WorkerError, "cannot send.*--workers.*--shm-size.*ulimit"),
        (stop, WorkerError, "do not answer.*nothing from 2 of them for 2 s.*--workers.*--shm-size"),
    ],
)
def test_a_worker_that_fails_is_an_error_that_says_what_to_do(
    act: Any, kind: type[WorkerError], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_LOOK_EVERY", 1)
    monkeypatch.setattr(workers, "PATIENCE", 2)
    with pytest.raises(kind, match=f"(?s){said}"):
        list(workers.made_by_workers(Acting(act), range(30), workers=2, location="there"))
    assert not multiprocessing.active_children()


def test_servers_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_LOOK_EVERY", 1)
    monkeypatch.setattr(workers, "PATIENCE", 1)
    slow = Acting(lambda: time.sleep(2.5))
    assert len(list(workers.made_by_workers(slow, range(5), workers=1, location="https://there/x.tar"))) == 5
    with pytest.raises(WorkerError, match="do not answer"):
        list(workers.made_by_workers(slow, range(5), workers=1, location="/there"))


def test_a_worker_that_dies_after_its_last_answer_harms_nothing() -> None:
    made = workers.made_by_workers(Acting(int), range(6), workers=1, location="there")
    got = [next(made) for _ in range(6)]
    kill_a_worker()
    assert [*got, *made] == [0, 1, 2, 0, 4, 5]


@pytest.mark.unit
def test_workers_that_cannot_be_started_are_no_full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(loader: object) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(DataLoader, "__iter__", refuse)
    with pytest.raises(WorkerError, match=r"(?s)cannot be started.*No space left.*--shm-size"):
        list(workers.made_by_workers(Acting(int), range(6), workers=1, location="there"))


@pytest.mark.unit
def test_there_are_as_many_workers_as_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    page = os.sysconf("SC_PAGE_SIZE")

    def room(pages: int) -> None:
        monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=pages, f_frsize=page, f_blocks=99))

    room(1000)
    assert workers.affordable(8) == 8
    room(12 + 3 * 8)
    assert workers.affordable(8) == 8
    room(12 + 3 * 2 + 2)
    with pytest.warns(UserWarning, match=r"^2 worker processes instead of 8: /dev/shm has 80 kB free .*--shm-size"):
        assert workers.affordable(8) == 2
    room(3)
    with pytest.warns(UserWarning, match=r"^no worker processes instead of 1: .*--shm-size"):
        assert workers.affordable(1) == 0
    assert workers.affordable(0) == 0
    room(1000)
    monkeypatch.setattr(workers, "_free_descriptors", lambda: 20 + 4 * 3)
    with pytest.warns(UserWarning, match=r"^3 worker processes instead of 8: only 32 more files .*ulimit -n"):
        assert workers.affordable(8) == 3


@pytest.mark.unit
def test_what_our_code_warns_of_is_one_line() -> None:
    assert _as_note(UserWarning("fewer"), UserWarning, workers.__file__, 3) == "note: fewer\n"
    assert "UserWarning: other" in _as_note(UserWarning("other"), UserWarning, warnings.__file__, 3)


class Killing(ImageFolder):
    """Kills the worker that reads sample 9, as often as there are files in the folder `kills`."""

    def read(self, index: int) -> bytes:
        left = sorted((Path(self.location).parent / "kills").iterdir()) if index == 9 else []
        if left and multiprocessing.parent_process() is not None:
            left[0].unlink()
            kill()
        return super().read(index)


def killing(images: Path, times: int) -> Source:
    (images.parent / "kills").mkdir()
    for number in range(times):
        (images.parent / "kills" / str(number)).touch()
    return Killing.open(images)


def test_generate_starts_killed_workers_again_and_makes_the_same_bytes(
    own_images: Path, teacher: Teacher, store: Path, tmp_path: Path
) -> None:
    source = killing(own_images, 1)
    settings, out = make_settings(source, teacher), tmp_path / "out"  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="worker process was killed. Workers are started again, once"):
        generate(source, teacher, settings, out, Execution(batch_size=16, workers=2))
    assert content(out) == content(store)


def test_generate_starts_workers_again_once_and_keeps_what_is_committed(
    own_images: Path, teacher: Teacher, store: Path, tmp_path: Path
) -> None:
    source = killing(own_images, 2)
    settings, out = make_settings(source, teacher), tmp_path / "out"  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="again, once"), pytest.raises(DeadWorkerError, match="fewer --workers"):
        generate(source, teacher, settings, out, Execution(batch_size=16, workers=1))
    generate(source, teacher, settings, out, Execution(batch_size=16, workers=1))
    assert content(out) == content(store)


def test_a_worker_that_dies_during_a_commit_does_not_disturb_it(
    images: Path, teacher: Teacher, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed: list[int] = []

    def killing_one(out: Path, block: int, data: Any) -> None:
        if not committed:
            kill_a_worker()
        write_block(out, block, data)
        committed.append(block)

    source = ImageFolder.open(images)
    settings = make_settings(source, teacher)
    monkeypatch.setattr(folder_place, "write_block", killing_one)
    with pytest.warns(UserWarning, match="again, once"):
        generate(source, teacher, settings, tmp_path / "out", Execution(batch_size=16, workers=2))
    assert committed == [0, 1, 2, 3]
    assert content(tmp_path / "out") == content(store)


def test_train_says_that_a_worker_was_killed(images: Path, tmp_path: Path) -> None:
    killed = at((0, 1), kill_a_worker)
    with pytest.raises(DeadWorkerError, match=r"(?s)A worker process was killed.*fewer --workers.*begins again"):
        train(config(images, tmp_path / "run", mode="plain", workers=1, batch_size=2), on_step=killed)
    saving = config(images, tmp_path / "run", mode="plain", workers=1, batch_size=2, save_every=1)
    with pytest.raises(DeadWorkerError, match=r"(?s)fewer --workers.*--resume continues from the last checkpoint"):
        train(saving, on_step=killed)


def test_verify_says_that_a_worker_was_killed(own_images: Path, store: Path) -> None:
    dataset = ReinforcedDataset(store, killing(own_images, 1), check=False)
    with pytest.raises(DeadWorkerError, match="A worker process was killed"):
        verify_pixels(dataset, views=0, workers=1)


@pytest.mark.unit
def test_an_image_is_not_missing_because_too_many_files_are_open(
    images: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: object, index: int) -> bytes:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(ImageFolder, "read", refuse)
    source = ImageFolder.open(images)
    with pytest.raises(TooManyFilesError, match=r"(?s)may open no more files.*Too many open files.*ulimit -n"):
        ViewMaker(source, make_settings(source, teacher))[0]


def test_pipes_and_devices_named_like_images_are_not_opened(own_images: Path, teacher: Teacher) -> None:
    pipe, device = (own_images / "apple" / name for name in ("000.jpg", "001.jpg"))
    for path in (pipe, device):
        path.unlink()
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    source = ImageFolder.open(own_images)
    maker = ViewMaker(source, make_settings(source, teacher))
    made = [maker[index] for index in range(3)]
    assert [each.status for each in made] == [Status.MISSING, Status.MISSING, Status.OK]
    assert "no file but a pipe" in (made[0].reason or "")


SMALL = """
import warnings
from pathlib import Path
from reinforce.cli.app import _as_note
from tests.generation.generator import generate_small
warnings.formatwarning = _as_note
generate_small(*map(Path, {paths!r}), workers=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
@pytest.mark.parametrize(
    ("size", "said"), [("512k", ""), ("64k", "note: 1 worker process"), ("16k", "note: no worker process")]
)
def test_a_small_dev_shm_is_no_hang(images: Path, weights: Path, tmp_path: Path, size: str, said: str) -> None:
    mount = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"', "sh"]
    if subprocess.run([*mount, "true"], capture_output=True, timeout=20).returncode:
        pytest.skip("mounts are not permitted")
    code = SMALL.format(paths=[str(images), str(weights), str(tmp_path / "out")])
    command = [*mount, sys.executable, "-c", code]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") <= 1
    assert (tmp_path / "out" / "manifest.json").exists()
