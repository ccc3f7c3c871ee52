"""A data set that is made in an object store: the bytes of one that is made in a folder, whatever is killed in between."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from reinforce.errors import ReinforceError, SettingsError, SourceError, StoreError, UsageError
from reinforce.generation.engine import Execution, Work
from reinforce.generation.generate import generate, generate_share
from reinforce.generation.local_engine import LocalEngine
from reinforce.generation.share import Share
from reinforce.settings import Settings, to_json
from reinforce.sharing.publish import publish
from reinforce.sharing.pull import pull
from reinforce.sharing.remote_place import RemotePlace, open_place
from reinforce.sources.folder import ImageFolder
from reinforce.store.manifest import Job
from reinforce.store.place import Place
from reinforce.store.probes import environment
from reinforce.store.store import JOB, Store
from reinforce.teachers.random_teacher import random_teacher
from reinforce.teachers.teacher import Teacher
from reinforce.views.policy_text import parse_policy
from tests.conftest import CLASSES, SIZE, TEACHER, Cli, content, make_settings, run_cli
from tests.forked import Point, run
from tests.generation.generator import generate_small
from tests.servers import serve_s3
from tests.sharing.conftest import EXTRA, LICENCES

pytestmark = [pytest.mark.network, pytest.mark.process, pytest.mark.slow]
ALONE = Execution(16, 0)


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with serve_s3("made-here") as url:
        yield url


def small(source: ImageFolder, teacher: Teacher, policy: str = "rrc-ra") -> Settings:
    """8 blocks of 3 samples, 5 views in 3 stripes."""
    return make_settings(source, teacher, policy=parse_policy(policy), block_size=3, stripe_views=2)


def names(url: str) -> set[str]:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    base = url.removeprefix("s3://")
    return {path.removeprefix(f"{base}/") for path in s3fs.S3FileSystem().find(base)}


def pulled(url: str, out: Path) -> dict[str, bytes]:
    pull(url, out)
    return {path: each for path, each in content(out).items() if path not in EXTRA}


@pytest.mark.parametrize("policy", ["rrc-ra", "usi"])
def test_what_is_made_there_is_what_is_made_in_a_folder(
    policy: str, bucket: str, images: Path, teacher: Teacher, tmp_path: Path
) -> None:
    source = ImageFolder.open(images)
    settings = small(source, teacher, policy)
    whole = generate(source, teacher, settings, tmp_path / "whole", ALONE)
    told: list[tuple[int, int]] = []
    url = f"{bucket}/{policy}"
    assert generate(source, teacher, settings, RemotePlace(url), ALONE, lambda *each: told.append(each)) == whole
    assert (told[0], told[-1]) == ((0, 24), (24, 24))
    assert pulled(url, tmp_path / "back") == content(tmp_path / "whole")
    assert JOB not in names(url)

    order = list(range(1, 5))
    random.Random(policy).shuffle(order)
    shared = RemotePlace(f"{url}-shares")
    for number in order:
        made = generate_share(source, teacher, settings, shared, Share(number, 4), ALONE)
        assert (made is not None) == (number == order[-1])
    assert pulled(shared.name, tmp_path / "shares") == content(tmp_path / "whole")


def test_processes_put_blocks_there(bucket: str, images: Path, weights: Path, tmp_path: Path) -> None:
    given = ("--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE, "--views", 3)
    line = ("generate", *given, "--block-size", 3, "--device", "cpu", "--workers", 0, "--batch-size", 16)
    done = run_cli(*line, "--processes", 2, "--out", f"{bucket}/two")
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        f"{bucket}/two: 24 samples x 3 views, 0 missing, 0 corrupt images",
    ), done.stderr
    assert run_cli(*line, "--out", tmp_path / "whole").returncode == 0
    assert pulled(f"{bucket}/two", tmp_path / "back") == content(tmp_path / "whole")


def _make(environment: dict[str, str], images: Path, weights: Path, url: str) -> None:
    os.environ.update(environment)
    generate_small(images, weights, RemotePlace(url))


def test_a_kill_between_requests_loses_no_block(bucket: str, images: Path, weights: Path, tmp_path: Path) -> None:
    there = {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
    url, before, kills = f"{bucket}/killed", set[str](), 0
    for call in [1, 2, *range(5, 100, 6)]:
        code, said = run(_make, there, images, weights, url, at=Point("s3fs.core:S3FileSystem._call_s3", call=call))
        now = names(url)
        assert {name for name in before if name.startswith(("blocks/", "notes/"))} <= now
        before = now
        if code == 0:
            break
        assert code == -signal.SIGKILL, said
        kills += 1
        noted = {name[6:12] for name in now if name.startswith("notes/")}
        assert all(f"blocks/{number}.000.zip" in now for number in noted), "the notes of a block come last"
        if "publication.json" in now:
            assert JOB in now, "it comes last, and then job.json goes"
    assert kills >= 5
    assert run(generate_small, images, weights, tmp_path / "whole") == (0, "")
    assert pulled(url, tmp_path / "back") == content(tmp_path / "whole")


def test_a_bundle_that_is_lost_is_made_again_alone(bucket: str, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    import s3fs

    source, place = ImageFolder.open(images), RemotePlace(f"{bucket}/lost")
    settings = small(source, teacher)
    generate(source, teacher, settings, place, ALONE)
    before = pulled(place.name, tmp_path / "before")
    s3fs.S3FileSystem().rm_file(f"{place.name}/blocks/000005.002.zip")
    with pytest.raises(StoreError, match="blocks are missing"):
        generate_share(source, teacher, settings, place, Share(1, 2), ALONE)
    told: list[tuple[int, int]] = []
    generate(source, teacher, settings, place, ALONE, lambda *each: told.append(each))
    assert told[0] == (21, 24)
    assert pulled(place.name, tmp_path / "after") == before


def test_what_is_refused(bucket: str, images: Path, teacher: Teacher, cli: Cli) -> None:
    import s3fs

    source, fs = ImageFolder.open(images), s3fs.S3FileSystem()

    def refused(kind: type[ReinforceError], said: str, place: Place, settings: Settings | None = None) -> None:
        with pytest.raises(kind, match=said):
            generate(source, teacher, settings or small(source, teacher), place, ALONE)

    fs.pipe_file(f"{bucket}/other/notes.txt", b"mine")
    refused(StoreError, r"holds other files(.|\n)*notes\.txt", RemotePlace(f"{bucket}/other"))
    assert fs.find(f"{bucket}/other") == [f"{bucket.removeprefix('s3://')}/other/notes.txt"]

    begun = RemotePlace(f"{bucket}/begun")
    assert generate_share(source, teacher, small(source, teacher), begun, Share(1, 2), ALONE) is None
    refused(SettingsError, "another policy", begun, small(source, teacher, "rrc"))
    fs.pipe_file(f"{begun.name}/notes/000002.json", b"{}")
    refused(StoreError, r"notes/000002\.json is damaged", begun)
    fs.rm_file(f"{begun.name}/notes/000002.json")
    fs.rm_file(f"{begun.name}/job.json")
    refused(StoreError, r"holds other files(.|\n)*blocks/", begun)

    refused(StoreError, "cannot be written", RemotePlace("s3://no-such-bucket-anywhere/x"))
    for out in ("https://host/x", "hf://datasets/me/x", "file:///x", "s3://", "foo://x"):
        with pytest.raises(UsageError, match=r"(?s)cannot be written to.*reinforce publish"):
            open_place(out)
    code, _, said = cli("generate", "--data", images, "--teacher", TEACHER, "--out", "http://host/x")
    assert (code, "http://host/x cannot be written to" in said) == (2, True)


def test_two_that_begin_at_once_with_other_settings(bucket: str, images: Path, teacher: Teacher) -> None:
    """Both saw that nothing is there; one has written what it makes, and the other learns of it."""
    source, place = ImageFolder.open(images), RemotePlace(f"{bucket}/race")
    job = Job(settings=small(source, teacher, "rrc"), environment=environment())
    place.write_once(JOB, to_json(job).encode())
    place.write_once(JOB, b"another")
    assert place.job() == job


def test_the_preview_is_of_blocks_that_can_be_read(bucket: str, own_images: Path, teacher: Teacher) -> None:
    broken = sorted(path for path in own_images.rglob("*") if path.is_file())
    for path in broken[:21]:
        path.write_bytes(b"no image")
    source, place = ImageFolder.open(own_images), RemotePlace(f"{bucket}/broken")
    made = generate(source, teacher, small(source, teacher), place, ALONE)
    assert (made.counts.ok, made.counts.corrupt) == (3, 21)
    assert "preview.parquet" in names(place.name)


def test_a_data_set_of_a_folder_is_not_written_over(bucket: str, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    import s3fs

    source = ImageFolder.open(images)
    settings = small(source, teacher)
    generate(source, teacher, settings, tmp_path / "whole", ALONE)
    s3fs.S3FileSystem().put(str(tmp_path / "whole"), f"{bucket}/copied", recursive=True)
    before = names(f"{bucket}/copied")
    with pytest.raises(StoreError, match="holds other files"):
        generate(source, teacher, settings, RemotePlace(f"{bucket}/copied"), ALONE)
    assert names(f"{bucket}/copied") == before


def test_what_was_published_from_a_folder_is_not_made_anew(bucket: str, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    import s3fs

    source, place = ImageFolder.open(images), RemotePlace(f"{bucket}/published")
    settings = small(source, teacher)
    generate(source, teacher, settings, tmp_path / "whole", ALONE)
    publish(tmp_path / "whole", place.name, "digits", LICENCES)
    assert generate(source, teacher, settings, place, ALONE) == Store(tmp_path / "whole").manifest
    s3fs.S3FileSystem().rm_file(f"{place.name}/blocks/000005.002.zip")
    with pytest.raises(StoreError, match=r"bundles are missing(.|\n)*publish it again"):
        generate(source, teacher, settings, place, ALONE)
    assert "publication.json" in names(place.name)


@pytest.mark.parametrize("lost", [(), ("notes/000000.json",), ("blocks/000000.001.zip",)])
def test_what_came_first_stays(lost: tuple[str, ...], bucket: str, images: Path, teacher: Teacher, tmp_path: Path) -> None:
    """Another device rounds otherwise; here, other weights stand for it. What is listed is what is there."""
    import s3fs

    source, place = ImageFolder.open(images), RemotePlace(f"{bucket}/first-{len(lost)}-{lost[:1]}"[:40].replace("'", ""))
    settings, fs = small(source, teacher), s3fs.S3FileSystem()
    assert generate_share(source, teacher, settings, place, Share(1, 2), ALONE) is None
    kept = fs.cat_file(f"{place.name}/blocks/000000.000.zip")
    for name in lost:
        fs.rm_file(f"{place.name}/{name}")
    other = random_teacher(TEACHER, num_classes=len(CLASSES), size=SIZE, device=torch.device("cpu"))
    LocalEngine().make_blocks(Work(source, other, settings, place, ALONE), [0], lambda *_: None)
    assert fs.cat_file(f"{place.name}/blocks/000000.000.zip") == kept
    generate(source, teacher, settings, place, ALONE)
    assert pulled(place.name, tmp_path / "back"), "it has the hashes that are listed"


def test_it_is_not_put_into_its_own_images(bucket: str, images: Path, teacher: Teacher) -> None:
    import s3fs

    s3fs.S3FileSystem().put(str(images), f"{bucket}/images", recursive=True)
    source = ImageFolder.open(f"{bucket}/images")
    with pytest.raises(UsageError, match="--out is inside of --data"):
        generate(source, teacher, small(source, teacher), RemotePlace(f"{bucket}/images/labels"), ALONE)
    assert not [name for name in names(f"{bucket}/images") if re.search("json|zip", name)]


def test_a_server_that_is_away_ends_it(images: Path, teacher: Teacher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reinforce.sources.retry.PAUSE_S", 0.01)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    import s3fs

    source = ImageFolder.open(images)
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(SourceError, match="s3://nowhere/x"):
            generate(source, teacher, small(source, teacher), RemotePlace("s3://nowhere/x"), ALONE)
    finally:
        s3fs.S3FileSystem.clear_instance_cache()  # that server is the one of no other test


def test_ray_puts_blocks_there(bucket: str, images: Path, weights: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    given = ("--data", images, "--teacher", TEACHER, "--teacher-weights", weights, "--size", SIZE, "--views", 3)
    line = ("generate", *given, "--block-size", 6, "--device", "cpu", "--batch-size", 16)
    done = run_cli(*line, "--engine", "ray", "--ray-address", "local", "--out", f"{bucket}/ray")
    assert done.returncode == 0, done.stderr
    assert run_cli(*line, "--workers", 0, "--out", tmp_path / "whole").returncode == 0
    assert pulled(f"{bucket}/ray", tmp_path / "back") == content(tmp_path / "whole")
    assert not [name for name in names(f"{bucket}/ray") if name.startswith(".")], "no tokens of nodes stay"
