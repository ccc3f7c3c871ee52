"""How many actors which node gets, and where a block that failed is tried again; without a cluster."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from reinforce.generation.block_faults import BlockFaults, Fault
from reinforce.generation.ray_nodes import Node, needs_of, nodes_of

pytestmark = pytest.mark.unit

BIG, SMALL, HEAD = Node("b", "big", 64, 8), Node("s", "small", 6, 0), Node("h", "head", 0, 0)


def _ray(*nodes: dict[str, Any]) -> Any:
    return SimpleNamespace(nodes=lambda: list(nodes))


def _said(number: int, name: str, alive: bool = True, **has: float) -> dict[str, Any]:
    return {"NodeID": f"{number}" * 8, "NodeName": name, "NodeManagerAddress": "a", "Alive": alive, "Resources": has}


def test_nodes_have_names_that_differ() -> None:
    ray = _ray(_said(1, "x", CPU=4.0, GPU=2.0), _said(2, "y"), _said(3, "y", CPU=1.5), _said(4, "x", alive=False))
    found = {node.name: (node.cpus, node.gpus) for node in nodes_of(ray).values()}
    assert found == {"x": (4, 2), "y/222222": (0, 0), "y/333333": (1, 0)}


@pytest.mark.parametrize(
    ("devices", "threads", "counts", "of_one"),
    [
        (("auto",), 4, (8, 0, 0), {"num_cpus": 0, "num_gpus": 1}),
        ((), 4, (8, 0, 0), {"num_cpus": 0, "num_gpus": 1}),
        (("cuda", "cuda"), 4, (16, 0, 0), {"num_cpus": 0, "num_gpus": 0.5}),
        (("cpu",), 4, (16, 1, 0), {"num_cpus": 4}),
        (("cpu",), 8, (8, 1, 0), {"num_cpus": 8}),
    ],
)
def test_what_actors_need(devices: tuple[str, ...], threads: int, counts: tuple[int, ...], of_one: dict[str, float]) -> None:
    needs = needs_of(devices, threads, {node.id: node for node in (BIG, SMALL, HEAD)})
    assert tuple(needs.count(node) for node in (BIG, SMALL, HEAD)) == counts
    one_heap = {"runtime_env": {"env_vars": {"MALLOC_ARENA_MAX": "1"}}}
    assert needs.of_one(BIG) == of_one | one_heap
    assert needs_of(("auto",), threads, {"s": SMALL}).device == "cpu"
    assert needs_of(("cpu",), 8, {"s": SMALL}).of_one(SMALL) == {"num_cpus": 6} | one_heap


def test_a_block_that_failed_is_tried_where_it_did_not() -> None:
    faults = BlockFaults()
    assert faults.add(5, Fault(BIG, "no"))
    assert not faults.suits(5, "b", {"b", "s"})
    assert faults.suits(5, "s", {"b", "s"})
    assert faults.suits(5, "b", {"b"})  # there is no other
    assert faults.add(5, Fault(SMALL, "no"))
    assert not faults.add(5, Fault(SMALL, "never"))
    assert "block 5 on node small: never" in str(faults.error(0))
