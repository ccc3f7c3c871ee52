"""Stage one on a Ray cluster: the bytes of the local engine, whatever happens to the nodes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
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
from tests.conftest import SIZE, TEACHER, Cli, content, make_settings
from tests.generation.faulty_sources import NODE, Biting, Local
from tests.generation.faulty_teachers import Faulty, Held, Locked

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:No node of the cluster makes blocks now"),  # a busy machine starts actors slowly
]

ON_RAY = Execution(16, 0, "ray")


def _ray_processes() -> list[str]:
    """The processes of Ray that this one has started, or those that it started."""
    return [name for pid in _descendants(os.getpid()) if (name := _name(pid)) in ("raylet", "gcs_server") or "ray::" in name]


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [each for child in children for each in (int(child), *_descendants(int(child)))]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _until_gone(pids: list[int]) -> None:
    until = time.monotonic() + 20
    while [pid for pid in pids if _name(pid) and "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2][:3]]:
        assert time.monotonic() < until
        time.sleep(0.1)


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


def test_nodes_are_lost_and_others_join(
    cluster: Any, source: ImageFolder, teacher: Teacher, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = make_settings(source, teacher, policy=parse_policy("usi"), block_size=2)
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
    (said,) = {str(w.message) for w in told if issubclass(w.category, UserWarning)}
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


def _command(images: Path, weights: Path, out: Path, *more: object) -> list[str]:
    line = ["generate", "--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE, "--out", out]
    return [*map(str, line), "--engine", "ray", "--codec", "topk:2", *map(str, more)]


@pytest.fixture
def scratch() -> Iterator[str]:
    """A folder with a short name, as that of a socket must be, for what a killed command leaves."""
    with tempfile.TemporaryDirectory(prefix="r-") as folder:
        yield folder


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_cluster_of_its_own_ends_with_the_command(
    number: signal.Signals, code: int, images: Path, weights: Path, tmp_path: Path, scratch: str
) -> None:
    line = _command(
        images, weights, tmp_path / "out", "--processes", 2, "--views", 1000, "--block-size", 1, "--ray-address", "local"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": scratch}
    running = subprocess.Popen(
        [sys.executable, "-m", "reinforce.cli.main", *line], stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )
    until = time.monotonic() + 120
    while not committed_blocks(tmp_path / "out"):
        assert time.monotonic() < until
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    family = _descendants(running.pid)
    assert {"raylet", "gcs_server"} <= {_name(pid) for pid in family}
    began = time.monotonic()
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert time.monotonic() - began < 15
    assert running.returncode == code
    agents = [pid for pid in family if _name(pid).startswith(("ray::Dashboard", "ray::RuntimeEnv"))]
    _until_gone([pid for pid in family if pid not in agents])
    for pid in (
        agents if number == signal.SIGKILL else ()
    ):  # they wait a minute for Ray's server, which has ended with the command
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    _until_gone(family)
    if number == signal.SIGINT:
        assert said.decode().strip().endswith("the same command continues with the missing blocks")


def test_options_that_do_not_fit(images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    line = _command(images, weights, tmp_path / "out")
    code, _, said = cli(*line, "--ray-address", "ray://nowhere:10001")
    assert (code, "Ray client" in said) == (2, True)
    code, _, said = cli(*line, "--ray-address", "127.0.0.1:1")
    assert (code, "a cluster at 127.0.0.1:1" in said, "Connection refused" in said) == (2, True, True)
    assert not (tmp_path / "out").exists()
    code, _, said = cli(*line, "--device", "cuda:0")
    assert (code, "auto, cpu or cuda" in said) == (2, True)
    code, _, said = cli(*line, "--engine", "local", "--ray-address", "auto")
    assert (code, "is for --engine ray" in said) == (2, True)


@pytest.mark.unit
def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r'pip install "reinforce\[ray\]"'):
        engine_of("ray")
    assert engine_of("local").name == "local"


def test_ray_is_imported_by_nobody_else() -> None:
    code = "import sys; import reinforce.generation.engines as e; e.engine_of('ray'); assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
