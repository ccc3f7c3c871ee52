"""Ray nodes: which nodes a cluster has now, and how many actors fit on each."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

from reinforce.errors import WorkerError

# An actor labels in a thread, to which glibc gives a heap of its own. There a batch's activations go back to the kernel each
# time, whatever `memory.py` asks for: a third of the time of a teacher on a CPU went into clearing pages.
_ONE_HEAP = {"env_vars": {"MALLOC_ARENA_MAX": "1"}}


class Node(NamedTuple):
    """A living node: its id, its name for people, and what it has."""

    id: str
    name: str
    cpus: int
    gpus: int


def nodes_of(ray: ModuleType) -> dict[str, Node]:
    """The nodes that live, by their ids."""
    living = [node for node in ray.nodes() if node["Alive"]]
    names = [str(node.get("NodeName") or node["NodeManagerAddress"]) for node in living]
    found = {}
    for node, name in zip(living, names, strict=True):
        own = name if names.count(name) == 1 else f"{name}/{node['NodeID'][:6]}"
        has = node["Resources"]
        found[node["NodeID"]] = Node(node["NodeID"], own, int(has.get("CPU", 0)), int(has.get("GPU", 0)))
    return found


class Needs(NamedTuple):
    """What actors need.

    Attributes:
        device: `cpu` or `cuda`.
        processes: How many share a GPU.
        threads: CPUs of one, where there are no GPUs.
    """

    device: str
    processes: int
    threads: int

    def count(self, node: Node) -> int:
        """How many actors a node gets."""
        if self.device == "cuda":
            return node.gpus * self.processes
        return max(1, node.cpus // self.threads) if node.cpus else 0

    def of_one(self, node: Node) -> dict[str, Any]:
        """What an actor on that node asks of Ray."""
        if self.device == "cuda":
            return {"num_cpus": 0, "num_gpus": 1 / self.processes, "runtime_env": _ONE_HEAP}
        return {"num_cpus": min(self.threads, node.cpus), "runtime_env": _ONE_HEAP}


def needs_of(devices: tuple[str, ...], threads: int, nodes: dict[str, Node]) -> Needs:
    """What actors need: GPUs if the cluster has any, unless the user named the device."""
    wanted = devices[0] if devices else "auto"
    any_gpu = any(node.gpus for node in nodes.values())
    device = ("cuda" if any_gpu else "cpu") if wanted == "auto" else wanted
    return Needs(device, max(1, len(devices)), threads)


@dataclass(eq=False)
class Seat:
    """An actor on a node, and what it is doing.

    Attributes:
        actor: Its handle.
        node: Where it is; it stays there, also when it is started again.
        blocks: What it is making.
        doubtful: What it was making when it did not answer any more: its process ended, or the whole node was lost.
        proven: Whether it has shown that it sees what it must.
        broken: Whether its process is to be started again once it makes no block.
        silent: Since when its process has not answered, in seconds; 0: it has, or nothing was asked of it.
        views: Made, as it last said.
        began: When the first view was known of, in seconds; 0: none yet.
        settled: Views of blocks that count as made or have been given up, so that they are not counted twice.
    """

    actor: Any
    node: Node
    blocks: set[int] = field(default_factory=set)
    doubtful: set[int] = field(default_factory=set)
    proven: bool = False
    broken: bool = False
    silent: float = 0.0
    views: int = 0
    began: float = 0.0
    settled: int = 0


def not_started(node: Node, error: Exception) -> WorkerError:
    """The error for a node on which no process of ours starts; `error` is what Ray says."""
    said = [line.strip() for line in str(error).splitlines() if line.strip()]
    return WorkerError(
        f"No teacher can be started on node {node.name}.",
        found=said[-1] if said else type(error).__name__,
        expected="reinforce, with the same versions, on all nodes",
        fix="install it there; the logs of Ray on that node say more",
    )
