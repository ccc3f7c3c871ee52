"""Stage one on a Ray cluster: the bytes of the local engine, whatever happens to the nodes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reinforce.errors import ReplayError, TeacherError, UsageError, WorkerError
from reinforce.generation import block_faults
from reinforce.generation.engine import Execution
from reinforce.generation.engines import engine_of
from reinforce.generation.generate import generate
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import committed_blocks
from reinforce.teachers.teacher import Teacher
from reinforce.testing.engines import check_engine
from reinforce.views.policy_text import parse_policy
from tests.conftest import content, make_settings
from tests.generation.faulty_sources import NODE, Biting, Local
from tests.generation.faulty_teachers import Faulty, Held, Locked
from tests.processes import descendants, name_of

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:No node of the cluster makes blocks now"),  # a busy machine starts actors slowly
]

ON_RAY = Execution(16, 0, "ray")


def _ray_processes() -> list[str]:
    """The processes of Ray that this one has started, or those that it started."""
    return [name for pid in descendants(os.getpid()) if (name := name_of(pid)) in ("raylet", "gcs_server") or "ray::" in name]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One node, at the address that RAY_ADDRESS says; a test may add others, and removes them."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    soon = {"health_check_period_ms": 500, "health_check_failure_threshold": 2}  # until a lost node is known to be lost
    head = {"num_cpus": 1, "include_dashboard": False, "node_name": "head", "_system_config": soon}
    made: Any = Cluster(initialize_head=True, shutdown_at_exit=False, head_node_args=head)
    os.environ["RAY_ADDRESS"] = made.address
    yield made
    del os.environ["RAY_ADDRESS"]
    made.shutdown()
    assert not _ray_processes()


@pytest.fixture(autouse=True)
def _one_node(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that failed leaves no node to the next one."""
    yield
    if "cluster" in request.fixturenames:
        made = request.getfixturevalue("cluster")
        for node in list(made.worker_nodes):
            made.remove_node(node, allow_graceful=False)


@pytest.fixture
def source(images: Path) -> ImageFolder:
    return ImageFolder.open(images)


@pytest.mark.parametrize(("policy", "workers"), [("rrc-ra", 0), ("usi", 1)])
def test_it_writes_the_bytes_of_the_local_engine(
    policy: str, workers: int, cluster: Any, source: ImageFolder, teacher: Teacher, tmp_path: Path
) -> None:
    settings = make_settings(source, teacher, policy=parse_policy(policy), block_size=3)
    rates: list[dict[str, float]] = []
    generate(source, teacher, settings, tmp_path / "local", Execution(16, 0))
    generate(source, teacher, settings, tmp_path / "ray", Execution(16, workers, "ray"), on_rates=rates.append)
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert {name for each in rates for name in each} <= {"head"}


def test_it_keeps_the_laws(cluster: Any, source: ImageFolder, teacher: Teacher, tmp_path: Path) -> None:
    check_engine("ray", source, teacher, make_settings(source, teacher, views=2), tmp_path)


@pytest.mark.parametrize("policy", ["rrc-ra", "usi"])
def test_nodes_are_lost_and_others_join(
    policy: str, cluster: Any, source: ImageFolder, teacher: Teacher, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = make_settings(source, teacher, policy=parse_policy(policy), block_size=2)
    generate(source, teacher, settings, tmp_path / "local", Execution(4, 0))
    diary = tmp_path / "diary"
    diary.mkdir()
    (diary / "hold").touch()

    def until(true: Callable[[], bool]) -> None:
        end = time.monotonic() + 120
        while not true() and time.monotonic() < end:
            time.sleep(0.05)

    def join(name: str, like: str = "") -> Any:
        return cluster.add_node(num_cpus=1, node_name=name, env_vars={NODE: like, "REINFORCE_TEST_NAME": name})

    def happens() -> None:
        """Each node makes a block and holds the next; then one is lost, two join, and another one is lost."""
        until(lambda: {"head", "left", "right"} <= {p.name for p in diary.iterdir()})
        cluster.remove_node(left, allow_graceful=False)
        join("new")
        join("odd", "other pixels")
        until(lambda: (diary / "new").exists() and any("left out" in str(w.message) for w in told))
        cluster.remove_node(right, allow_graceful=False)
        (diary / "hold").unlink()

    left, right = join("left"), join("right")
    events = threading.Thread(target=happens)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        events.start()
        own, slow = Local(**vars(source)), Held(teacher, diary, first=4)
        generate(own, slow, settings, tmp_path / "ray", Execution(4, 0, "ray"))
    events.join()
    assert {p.name for p in diary.iterdir()} == {"head", "left", "right", "new"}
    notes = {str(w.message) for w in told if issubclass(w.category, UserWarning)}
    (said,) = {note for note in notes if not note.startswith("No node of the cluster")}  # which a busy machine has
    assert re.search(r"A node is left out(.|\n)*on node odd(.|\n)*CRC-32", said)
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert capfd.readouterr() == ("", "")  # Ray says nothing


def test_blocks_that_fail_are_told_with_their_node_and_do_not_stop_others(
    cluster: Any, source: ImageFolder, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert block_faults.TRIES == 3
    monkeypatch.setattr(block_faults, "TRIES", 2)
    settings = make_settings(source, teacher, block_size=3)
    biting = Biting(**vars(source), home=os.getpid())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with pytest.raises(WorkerError) as failed:
            generate(biting, teacher, settings, tmp_path / "out", ON_RAY)
    said = str(failed.value)
    assert "3 blocks could not be made." in said
    assert "block 1 on node head: This image bites." in said
    assert "block 3 on node head: RuntimeError: nobody expects this" in said
    assert "block 5 on node head: its process ended" in said
    for block in (1, 3, 5):
        assert sum(f"Block {block} failed on node head" in str(w.message) for w in told) == block_faults.TRIES
    assert committed_blocks(tmp_path / "out") == {0, 2, 4, 6, 7}
    generate(source, teacher, settings, tmp_path / "out", Execution(16, 0))
    generate(source, teacher, settings, tmp_path / "whole", Execution(16, 0))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_where_everything_fails_it_stops(
    cluster: Any, source: ImageFolder, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_faults, "HOPELESS", 2)
    (tmp_path / "diary").mkdir()
    useless = Faulty(teacher, "refused", tmp_path / "diary", 999)
    told = r"2 blocks(.|\n)*block 0 on node head: The weights are of no use(.|\n)*6 blocks were not tried"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(WorkerError, match=told):
            generate(source, useless, make_settings(source, teacher, block_size=3), tmp_path / "out", ON_RAY)


def test_a_node_that_sees_something_else_is_named(cluster: Any, source: ImageFolder, teacher: Teacher, tmp_path: Path) -> None:
    settings, own = make_settings(source, teacher), Local(**vars(source))
    odd = cluster.add_node(num_cpus=1, node_name="odd", env_vars={NODE: "other images"})
    try:
        with pytest.raises(ReplayError, match="Node odd sees another image"):
            generate(own, teacher, settings, tmp_path / "out", ON_RAY)
    finally:
        cluster.remove_node(odd)
    info = settings.teachers[0].model_copy(update={"weights_sha256": "2" * 64})
    with pytest.raises(TeacherError, match="Node head has another teacher"):
        generate(source, teacher, settings.model_copy(update={"teachers": [info]}), tmp_path / "another", ON_RAY)
    with pytest.raises(UsageError, match="cannot be given to other processes"):
        generate(source, Locked(teacher), settings, tmp_path / "other", ON_RAY)


@pytest.mark.unit
def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "reinforce\[ray\]"'):
        engine_of("ray")
    assert engine_of("local").name == "local"


def test_ray_is_imported_by_nobody_else() -> None:
    code = "import sys; import reinforce.generation.engines as e; e.engine_of('ray'); assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
