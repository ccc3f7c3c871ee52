"""Ray cluster: what belongs to a cluster that is started for one run: its folder of logs, its servers, and their end."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType

from reinforce.errors import BusyError, WorkerError
from reinforce.locks import check_not_held, only_writer

_PREFIX, _LOCK = "ray-", ".reinforce.lock"
_OLD_S = 60.0
"""Age of a folder, in seconds, before it is taken for a dead run's; a run that begins needs a moment to lock its own."""
_SERVERS = ("raylet", "gcs_server")


@contextmanager
def folder_of_run() -> Iterator[str]:
    """A folder for the logs and sockets of a cluster, which goes with it; those that killed runs have left go too.

    Its name is short: that of a socket below it has at most 107 letters.
    """
    remove_left()
    with tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as folder:
        path = Path(folder)
        with only_writer(path, path / _LOCK):
            yield folder


def remove_left() -> None:
    """Remove the folders of this user's runs that were killed, which nobody else can."""
    for lock in sorted(Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}")):
        with suppress(OSError, BusyError):  # another sweeps here too; or the run lives
            about = lock.lstat()
            if about.st_uid == os.getuid() and not lock.parent.is_symlink() and time.time() - about.st_mtime > _OLD_S:
                check_not_held(lock.parent, lock)
                shutil.rmtree(lock.parent, ignore_errors=True)


def check_alive(ray: ModuleType) -> None:
    """Look for the servers of the cluster, if this process started them: without them Ray waits, and then ends the process.

    Raises:
        WorkerError: one of them has ended.
    """
    node = getattr(ray._private.worker, "_global_node", None)  # a private name: without it Ray ends the process, later
    if node is None or not hasattr(node, "dead_processes"):
        return
    if dead := [kind for kind, _ in node.dead_processes() if kind in _SERVERS]:
        raise WorkerError(
            "The Ray cluster that was started for this run has ended.",
            found=f"its {' and its '.join(dead)} died",
            cause="it was killed, perhaps for want of memory (see `dmesg`)",
            fix="the same command goes on with the missing blocks",
        )


class Sigterm:
    """SIGTERM while Ray runs: it ends this process at once, and the servers of Ray end with it, as after SIGKILL.

    Ray's own handler prints traces of C++ and aborts; and where the servers got the signal too, as a scheduler sends it, Ray
    ends the process with code 1 while it is being taken down.

    Args:
        folder: Of the cluster; removed then, where the process would end anyway.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.main = threading.current_thread() is threading.main_thread()  # another thread gets no signals
        self.before = signal.getsignal(signal.SIGTERM)

    def heed(self) -> None:
        """To be called once Ray has set a handler of its own."""
        if self.main:
            signal.signal(signal.SIGTERM, self._end if self._deadly else self.before)

    def forget(self) -> None:
        """From now on SIGTERM is what it was."""
        if self.main:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self.before is None else self.before)

    def end(self) -> None:
        """Do what SIGTERM does, which Ray has taken for itself; returns where a handler of the user's does."""
        self.forget()
        if self.folder and self._deadly:
            shutil.rmtree(self.folder, ignore_errors=True)
        signal.raise_signal(signal.SIGTERM)

    @property
    def _deadly(self) -> bool:
        return self.before in (None, signal.SIG_DFL)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.end()
