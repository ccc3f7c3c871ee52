"""Ray engine: a cluster, that there is or that is started here; actors hold the teacher, and a block is a task."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from reinforce.errors import UsageError, first_line
from reinforce.files import Progress
from reinforce.generation.block_labels import block_samples
from reinforce.generation.engine import Engine, Execution, Work
from reinforce.generation.ray_blocks import RayBlocks
from reinforce.generation.ray_cluster import Sigterm, folder_of_run

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
"""No statistics of use are sent, and no warning of what a later Ray will do with actors that have no GPU."""

_ANSWER_S = 10.0
"""Seconds in which a cluster must answer."""


class RayEngine(Engine):
    """An actor per GPU, or, without GPUs, for as many threads as this process has; nodes may come and go."""

    name = "ray"
    description = "a Ray cluster: an actor per GPU that holds the teacher, a task per block; nodes may come and go"

    def require(self, execution: Execution | None = None) -> None:
        found = find_spec("ray")
        if found is None or found.origin is None:  # a folder that happens to be called ray has no origin
            raise UsageError(
                "--engine ray needs Ray.",
                fix='pip install "reinforce[ray]"; without it, --engine local or job arrays (--share)',
            )
        ray = sys.modules.get("ray")
        connected = ray is not None and ray.is_initialized()  # a program of the user's
        if execution is not None and not connected:
            _knock(_address(execution))

    def make_blocks(self, work: Work, missing: list[int], on_progress: Progress) -> None:
        done = len(work.source) - sum(len(block_samples(work.settings, block)) for block in missing)
        on_progress(done, len(work.source))
        if missing:
            processes = max(1, len(work.execution.devices))
            threads = max(1, torch.get_num_threads() // processes)
            with _connected(work, threads * processes) as ray:
                RayBlocks(ray, work, missing, done, on_progress, threads).run()


@contextmanager
def _connected(work: Work, cpus: int) -> Iterator[ModuleType]:
    """The module `ray`, connected to a cluster.

    Args:
        work: Says which cluster.
        cpus: How many CPUs a cluster has that is started here.

    Raises:
        UsageError: there is no such cluster.
    """
    os.environ.update(_QUIET)
    import ray

    if ray.is_initialized():  # a program of the user's, which is connected already
        yield ray
        return
    address = _address(work.execution)
    # Whatever it is asked, Ray prints the last lines of a lost node's log to stdout; what happens to nodes is told by us.
    said = vars(ray._private.worker)
    aloud = said.get("_worker_logs_enabled", True)
    said["_worker_logs_enabled"] = False
    local = address == "local"
    with folder_of_run() if local else nullcontext("") as folder, _path_for_children(local):
        sigterm = Sigterm(folder)
        more: dict[str, Any] = {}
        if local:
            more = {"num_cpus": cpus, "include_dashboard": False, "_temp_dir": folder}
            if work.execution.devices[:1] == ("cpu",):
                more["num_gpus"] = 0
        try:
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, **more)
            except SystemExit as end:
                if end.code == signal.SIGTERM:  # Ray's handler
                    sigterm.end()
                raise
            except Exception as error:  # noqa: BLE001 - Ray raises a bare one if what it starts dies
                raise _no_cluster(address, error) from None
            sigterm.heed()
            yield ray
        finally:
            ray.shutdown()
            sigterm.forget()
            said["_worker_logs_enabled"] = aloud


def _address(execution: Execution) -> str:
    """Where the cluster is; `local`: it is started here.

    Raises:
        UsageError: the address is that of a Ray client.
    """
    address = execution.address or os.environ.get("RAY_ADDRESS") or "local"
    if address.startswith("ray://"):
        raise UsageError(
            f"--ray-address {address} is that of a Ray client.",
            expected="auto or HOST:PORT, on a node of the cluster",
            fix="run the command on a node, as `ray job submit` does",
        )
    return address


def _knock(address: str) -> None:
    """Fail soon where nobody listens: Ray asks for two minutes, and prints what it tries."""
    host, colon, port = address.rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWER_S).close()
    except (ValueError, OverflowError, OSError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> UsageError:
    local = address == "local"
    return UsageError(
        "Ray cannot be started." if local else "Ray cannot be reached.",
        found=first_line(error),
        expected="a cluster on this machine" if local else f"a cluster at {address}",
        fix="--ray-address auto on a node of a cluster, --ray-address HOST:PORT, or --ray-address local",
    )


@contextmanager
def _path_for_children(wanted: bool) -> Iterator[None]:
    """Processes that are started meanwhile import from where this one does."""
    before = os.environ.get("PYTHONPATH")
    if wanted:
        os.environ["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    try:
        yield
    finally:
        if wanted and before is None:
            del os.environ["PYTHONPATH"]
        elif before is not None:
            os.environ["PYTHONPATH"] = before
