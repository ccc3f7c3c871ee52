"""What is published comes back as it was, whole or in part, over real servers; and nothing that was tampered with."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from reinforce.errors import BusyError, ReinforceError, SettingsError, SourceError, StoreError, UsageError
from reinforce.files import only_writer
from reinforce.generation.generate import Execution, generate
from reinforce.labels.sparse import SparseLabels
from reinforce.packs.pack import Options, pack
from reinforce.replay.dataset import ReinforcedDataset
from reinforce.sharing.known_datasets import find, known_datasets
from reinforce.sharing.publication import Known, Licences
from reinforce.sharing.publish import publish
from reinforce.sharing.pull import pull
from reinforce.sources.folder import ImageFolder
from reinforce.store.block import committed_blocks
from reinforce.store.store import Store
from reinforce.verification.verify import require, verify_pixels, verify_store
from tests.conftest import CLASSES, Cli, make_settings, run_cli
from tests.servers import serve_http, serve_hub, serve_s3

ROOT = Path(__file__).parents[2]
LICENCES = Licences(labels="cc-by-4.0", images="their owners'")
EXTRA = {"README.md", "croissant.json", "preview.parquet"}


@pytest.fixture(scope="module")
def whole(images: Path, teacher, tmp_path_factory) -> Path:
    """24 samples in 4 blocks, 5 views in 3 stripes."""
    out, source = tmp_path_factory.mktemp("whole") / "labels", ImageFolder.open(images)
    settings = make_settings(source, teacher, record_views=2, codec={"name": "sqrt", "delta": 0.1})
    generate(source, teacher, settings, out, Execution(16, 0))
    return out


@pytest.fixture(scope="module")
def published(whole: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("published") / "digits"
    publish(whole, str(out), "digits", LICENCES)
    return out


@pytest.fixture
def own(published: Path, tmp_path: Path) -> Path:
    """A copy of what was published, to be tampered with."""
    return Path(shutil.copytree(published, tmp_path / "own"))


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def dense(store: Store, sample: int, view: int) -> torch.Tensor:
    return SparseLabels.stack([store.label_of(sample, view)], store.settings.num_classes).dense()[0]


# Round trips


def test_what_is_pulled_is_what_was_published(whole: Path, published: Path, tmp_path: Path) -> None:
    pulled = pull(str(published), tmp_path / "back")
    there = tree(tmp_path / "back")
    assert {k: v for k, v in there.items() if k not in EXTRA} == tree(whole)
    assert there.keys() - tree(whole).keys() == EXTRA
    assert pulled.fetched <= pulled.total
    require(verify_store(tmp_path / "back"))
    assert pull(str(published), tmp_path / "back").fetched == 0


def test_publishing_twice_gives_the_same_bundles(whole: Path, published: Path, tmp_path: Path) -> None:
    publish(whole, str(tmp_path / "again"), "digits", LICENCES)
    first, second = tree(published), tree(tmp_path / "again")
    for path in first:
        if path not in ("README.md", "croissant.json", "publication.json"):  # they have place and date
            assert first[path] == second[path], path


def test_the_list_has_size_and_hash_of_everything_else(published: Path) -> None:
    about, files = json.loads((published / "publication.json").read_bytes()), tree(published)
    listed = dict(about["files"]) | {f"blocks/{b['block']:06d}.{b['stripe']:03d}.zip": b for b in about["bundles"]}
    assert listed.keys() == files.keys() - {"publication.json"}
    for path, entry in listed.items():
        assert entry["bytes"] == len(files[path])
        assert entry["sha256"] == hashlib.sha256(files[path]).hexdigest()
    assert about["licences"] == {"labels": "cc-by-4.0", "images": "their owners'", "teacher": "not stated"}


def test_no_pixels_are_published(published: Path, images: Path) -> None:
    everything = b"".join(tree(published).values())
    source = ImageFolder.open(images)
    for i in range(len(source)):
        encoded = source.read(i)
        assert encoded[len(encoded) // 2 :][:32] not in everything
    assert b"\xff\xd8\xff" not in everything
    assert b"\x89PNG" not in everything


@pytest.mark.parametrize("server", ["http", "s3", "hub"])
def test_the_servers_that_people_have(server: str, whole: Path, published: Path, tmp_path: Path) -> None:
    out = tmp_path / "back"
    if server == "http":
        with serve_http(published) as served:
            pull(served.url, out)
    elif server == "s3":
        with serve_s3("labels") as bucket:
            publish(whole, f"{bucket}/digits", "digits", LICENCES)
            pull(f"{bucket}/digits", out)
    else:
        with serve_hub(tmp_path / "hub") as served:
            hub = {"HF_ENDPOINT": served.url, "HF_TOKEN": "secret", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
            done = run_cli("publish", whole, "--to", "hf://datasets/me/digits", **hub, HF_HUB_DISABLE_XET="1")
            assert done.returncode == 0, done.stderr
            assert sum(method == "PUT" for method, _, _ in served.requests) == 14, "bundles and tables as large files"
            done = run_cli("pull", "hf://datasets/me/digits", "--out", out, **hub, HF_HUB_DISABLE_XET="1")
            assert done.returncode == 0, done.stderr
            refused = run_cli("publish", whole, "--to", "hf://datasets/me/digits", **{**hub, "HF_TOKEN": "wrong"})
            assert refused.returncode == 1
            assert "cannot be written" in refused.stderr
            assert "Traceback" not in refused.stderr
    assert {k: v for k, v in tree(out).items() if k not in EXTRA} == tree(whole)


@pytest.mark.slow
def test_a_source_on_the_hub_is_read(images: Path, store: Path, tmp_path: Path) -> None:
    source = ImageFolder.open(images)
    rows = [{"bytes": source.read(i), "path": f"{key}.jpg"} for i, key in enumerate(source.keys)]
    (tmp_path / "hub" / "me" / "pictures").mkdir(parents=True)
    table = pa.table({"image": rows, "label": list(source.labels or [])})
    pq.write_table(table, tmp_path / "hub" / "me" / "pictures" / "train-0.parquet", row_group_size=5)
    with serve_hub(tmp_path / "hub") as served:
        hub = {"HF_ENDPOINT": served.url, "HF_TOKEN": "secret", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        done = run_cli("verify", store, "--data", "hf://datasets/me/pictures/train-0.parquet", "--workers", 2, **hub)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "images and probes: 24 of 24" in done.stdout


# Parts


@pytest.mark.parametrize(("views", "come"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 5)])
def test_the_first_views_come_alone_and_cost_less(views: int, come: int, whole: Path, published, images, tmp_path) -> None:
    with serve_http(published) as served:
        pulled = pull(served.url, tmp_path / "part", views=views)
        sizes = {p: len(c) for p, c in tree(published).items()}
        later = [n for p, n in sizes.items() if p.endswith(".zip") and int(p.split(".")[1]) >= -(-come // 2)]
        assert served.sent == sum(sizes.values()) - sum(later)
    part, all_of_it = Store(tmp_path / "part"), Store(whole)
    assert part.settings.views == come
    assert (part.manifest.part_of is None) == (come == 5)
    for sample in range(len(part.samples)):
        for view in range(come):
            assert torch.equal(dense(part, sample, view), dense(all_of_it, sample, view))
    require([*verify_store(part.root), *verify_pixels(ReinforcedDataset(part.root, images), 40, 0)])
    assert pulled.manifest == part.manifest


def test_some_blocks_come_alone(whole: Path, published: Path, images: Path, weights: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "part"
    with serve_http(published) as served:
        code, _, err = cli("pull", served.url, "--blocks", "0,2-3", "--views", 2, "--out", out)
        assert code == 0, err
        assert not [path for _, path, _ in served.requests if "blocks/000001" in path]
    store = Store(out)
    assert store.blocks == [0, 2, 3]
    assert set(store.samples.block[store.ok_samples].tolist()) == {0, 2, 3}
    dataset = ReinforcedDataset(out, images)
    assert len(dataset) == 24 - 7
    for epoch in range(2):
        dataset.set_epoch(epoch)
        assert all(len(dataset[i]) == 3 for i in range(len(dataset)))
    code, text, _ = cli("verify", out, "--data", images, "--views", 20, "--workers", 0)
    assert code == 0, text
    code, text, _ = cli("inspect", out)
    assert code == 0
    assert "3 of 4 blocks are here; a part of" in text
    train = ("--student", "test_vit", "--student-kwargs", "img_size=32", "--epochs", 2, "--batch-size", 6, "--workers", 1)
    code, _, err = cli("train", "--data", images, "--labels", out, *train, "--out", tmp_path / "run")
    assert code == 0, err
    teacher = ("--teacher", "test_resnet", "--teacher-weights", weights, "--size", 32)
    code, _, err = cli("generate", "--data", images, *teacher, "--views", 2, "--out", out)
    assert code == 1
    assert "is a part of another data set" in err


def test_a_part_can_be_published_and_pulled(published: Path, tmp_path: Path) -> None:
    pull(str(published), tmp_path / "part", views=2, blocks=[1, 2])
    publish(tmp_path / "part", str(tmp_path / "again"), "part", LICENCES)
    pull(str(tmp_path / "again"), tmp_path / "back")
    assert tree(tmp_path / "part").keys() == tree(tmp_path / "back").keys()
    with pytest.raises(UsageError, match="--blocks"):
        pull(str(tmp_path / "again"), tmp_path / "no", blocks=[0])


@pytest.mark.parametrize("asked", [{"views": 6}, {"views": 0}, {"blocks": [4]}, {"blocks": []}, {"blocks": [-1]}])
def test_what_is_not_there_cannot_be_asked_for(asked: dict, published: Path, tmp_path: Path) -> None:
    if asked == {"views": 0}:
        asked = {"views": -1}
    with pytest.raises(UsageError):
        pull(str(published), tmp_path / "part", **asked)
    assert not (tmp_path / "part").exists()


# Interruptions


def test_a_pull_that_broke_off_goes_on_where_it_was(published: Path, whole: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("reinforce.sources.location._TRIES", 1)
    out = tmp_path / "back"
    with serve_http(published) as served:
        bundles = sum(len(c) for p, c in tree(published).items() if p.endswith(".zip"))
        total = sum(len(c) for c in tree(published).values())
        served.broken_after = total - bundles // 2
        with pytest.raises(SourceError, match="cannot be read"):
            pull(served.url, out, jobs=1)
        assert 0 < len(committed_blocks(out)) < 4
        assert not (out / "manifest.json").exists()
        first, served.broken_after, served.sent = committed_blocks(out), None, 0
        pulled = pull(served.url, out, jobs=1)
        asked = {path for _, path, _ in served.requests[-60:]}
        assert asked
        kept = sum(len((published / f"blocks/{b:06d}.{s:03d}.zip").read_bytes()) for b in first for s in range(3))
        assert served.sent == total - kept
        assert pulled.fetched < total
    assert {k: v for k, v in tree(out).items() if k not in EXTRA} == tree(whole)


@pytest.mark.slow
def test_a_killed_pull_loses_no_committed_block(published: Path, whole: Path, tmp_path: Path) -> None:
    out, kills = tmp_path / "back", 0
    with serve_http(published) as served:
        served.delay = 0.05
        while not (out / "manifest.json").exists():
            before = committed_blocks(out)
            command = [sys.executable, "-m", "reinforce.cli.main", "pull", served.url, "--out", str(out), "--jobs", "1"]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and committed_blocks(out) == before:
                time.sleep(0.01)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
            assert before <= committed_blocks(out)
    assert kills >= 2
    pull(str(published), out)  # the last kill may have come after the manifest; nothing is left to do but to tidy up
    assert {k: v for k, v in tree(out).items() if k not in EXTRA} == tree(whole)
    require(verify_store(out))


def test_a_block_that_was_removed_is_fetched_again(published: Path, whole: Path, tmp_path: Path) -> None:
    pull(str(published), tmp_path / "back")
    shutil.rmtree(tmp_path / "back" / "blocks" / "000002.zarr")
    pull(str(published), tmp_path / "back")
    assert {k: v for k, v in tree(tmp_path / "back").items() if k not in EXTRA} == tree(whole)


def test_a_folder_is_not_overwritten(published: Path, store: Path, own_store: Path, tmp_path: Path) -> None:
    before = tree(own_store)
    with pytest.raises(SettingsError, match="another data set"):
        pull(str(published), own_store)
    assert tree(own_store) == before
    pull(str(published), tmp_path / "part", views=2)
    with pytest.raises(SettingsError, match="another part"):
        pull(str(published), tmp_path / "part", views=4)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(StoreError, match="holds other files"):
        pull(str(published), tmp_path / "other")
    with only_writer(tmp_path / "part"), pytest.raises(BusyError):
        pull(str(published), tmp_path / "part", views=2)
    shutil.rmtree(tmp_path / "part" / "blocks" / "000002.zarr")
    with pytest.raises(SettingsError, match="another data set"):
        pull(str(published), tmp_path / "part")


# With images


@pytest.fixture(scope="module")
def shards(whole: Path, images: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "pack"
    pack(ImageFolder.open(images), whole, out, Options(shard_bytes=30_000))
    return out


def test_images_go_only_when_it_is_said(shards: Path, whole: Path, images: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("publish", shards, "--to", tmp_path / "there")
    assert (code, "have images in them" in err) == (2, True)
    code, _, err = cli("publish", whole, "--with-images", "--to", tmp_path / "there")
    assert (code, "no images in" in err) == (2, True)
    code, out, _ = cli("publish", shards, "--with-images", "--dry-run", "--to", tmp_path / "there")
    assert code == 0
    assert "shards-000000.tar" in out
    assert "with the images" in out
    assert not (tmp_path / "there").exists()
    pack(ImageFolder.open(images), None, tmp_path / "plain", Options(shard_bytes=30_000))
    code, _, err = cli("publish", tmp_path / "plain", "--with-images", "--to", tmp_path / "there")
    assert (code, "no labels in" in err) == (2, True)


@pytest.mark.parametrize("server", ["folder", "http", "s3"])
def test_shards_go_and_come_whole(server: str, shards: Path, tmp_path: Path, cli: Cli) -> None:
    place = tmp_path / "there"
    with serve_http(tmp_path) as served, serve_s3("shards") as bucket:
        to = f"{bucket}/x" if server == "s3" else place
        code, out, err = cli("publish", shards, "--with-images", "--license-images", "cc0-1.0", "--to", to)
        assert code == 0, err
        assert "with the images" in out
        source = {"folder": place, "http": f"{served.url}/there", "s3": to}[server]
        assert cli("pull", source, "--out", tmp_path / "back")[0] == 0
        assert {k: v for k, v in tree(tmp_path / "back").items() if k != "README.md"} == tree(shards)
        code, out, _ = cli("pull", source, "--out", tmp_path / "back", "--json")
        assert json.loads(out)["fetched"] == 0
        (tmp_path / "back" / "shards-000001.tar").write_bytes(b"cut")
        code, out, _ = cli("pull", source, "--out", tmp_path / "back", "--json")
        assert json.loads(out)["fetched"] == (shards / "shards-000001.tar").stat().st_size
        code, _, err = cli("pull", source, "--views", 2, "--out", tmp_path / "part")
        assert (code, "Shards come whole" in err) == (2, True)
        train = ("--student", "test_vit", "--student-kwargs", "img_size=32", "--epochs", 1, "--batch-size", 6, "--workers", 1)
        code, _, err = cli("train", "--data", f"{source}/shards-000000.tar", *train, "--out", tmp_path / "run")
        assert code == 0, err
    assert cli("verify", tmp_path / "back")[0] == 0
    if server == "folder":
        text = (tmp_path / "back" / "README.md").read_text()
        assert "the images, which are in it: cc0-1.0" in text
        (place / "samples.parquet").write_bytes(b"other")
        code, _, err = cli("pull", place, "--out", tmp_path / "again")
        assert code == 1
        assert "samples.parquet is not the file that was promised" in err
        assert not (tmp_path / "again" / "pack.json").exists()


# Hostile publications


def rewrite(own: Path, change: Callable[[dict], object]) -> None:
    about = json.loads((own / "publication.json").read_bytes())
    change(about)
    (own / "publication.json").write_text(json.dumps(about))


def with_bundle(own: Path, content: bytes, block: int = 1, stripe: int = 0) -> None:
    """Put in a bundle, and a list that has its hash: what only the manifest's hashes can tell."""
    (own / f"blocks/{block:06d}.{stripe:03d}.zip").write_bytes(content)

    def change(about: dict) -> None:
        [entry] = [b for b in about["bundles"] if (b["block"], b["stripe"]) == (block, stripe)]
        entry.update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))

    rewrite(own, change)


def refuses(own: Path, out: Path, match: str, kind: type[ReinforceError] = StoreError) -> None:
    outside = {p for p in out.parent.rglob("*") if out not in p.parents and p != out}
    with pytest.raises(kind, match=match):
        pull(str(own), out)
    assert not (out / "manifest.json").exists()
    assert {p for p in out.parent.rglob("*") if out not in p.parents and p != out} == outside, "nothing is written elsewhere"
    if out.exists():
        assert not [p for p in (out / "blocks").iterdir() if p.name.startswith(".")]
        assert {p.name for p in out.iterdir()} <= {"blocks", "pull.json", "samples.parquet", *EXTRA}


@pytest.mark.parametrize(
    "path", ["blocks/000001.000.zip", "blocks/000003.002.zip", "samples.parquet", "manifest.json", "README.md"]
)
def test_one_changed_byte_is_found(path: str, own: Path, tmp_path: Path) -> None:
    content = bytearray((own / path).read_bytes())
    content[len(content) // 2] ^= 1
    (own / path).write_bytes(content)
    refuses(own, tmp_path / "out", f"{path} is not the file|{Path(path).name} is not the file")


def test_a_file_of_another_length_or_missing_is_found(own: Path, tmp_path: Path) -> None:
    bundle = own / "blocks/000001.001.zip"
    whole = bundle.read_bytes()
    bundle.write_bytes(whole + b"more")
    refuses(own, tmp_path / "long", "cannot be read", SourceError)
    bundle.write_bytes(whole[:-1])
    refuses(own, tmp_path / "short", "cannot be read", SourceError)
    bundle.unlink()
    refuses(own, tmp_path / "gone", "cannot be read", SourceError)


def test_a_publication_that_is_not_the_expected_one_is_refused(own: Path, tmp_path: Path, cli: Cli) -> None:
    right = hashlib.sha256((own / "publication.json").read_bytes()).hexdigest()
    assert cli("pull", own, "--sha256", right, "--out", tmp_path / "good")[0] == 0
    code, _, err = cli("pull", own, "--sha256", "0" * 64, "--out", tmp_path / "bad")
    assert code == 1
    assert "publication.json is not the file that was promised" in err
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a["files"].update({"../evil": a["files"]["samples.parquet"]}),
        lambda a: a["files"].update({"/etc/passwd": a["files"]["samples.parquet"]}),
        lambda a: a["files"].update({"shards/../../evil.tar": a["files"]["samples.parquet"]}),
        lambda a: a["files"].pop("samples.parquet"),
        lambda a: a["files"]["samples.parquet"].update(bytes=-1),
        lambda a: a["files"]["samples.parquet"].update(sha256="short"),
        lambda a: a["bundles"][0].update(block=-1),
        lambda a: a["bundles"][0].update(block=10**9),
        lambda a: a["bundles"][0].update(bytes=1 << 60),
        lambda a: a["bundles"][0].update(path="../../evil"),
        lambda a: a["bundles"].pop(),
        lambda a: a["bundles"].append(a["bundles"][0]),
        lambda a: a.update(surprise=1),
        lambda a: a.update(name="../x"),
        lambda a: a.update(schema_version=2),
    ],
)
def test_a_list_that_could_not_be_ours_is_refused(change, own: Path, tmp_path: Path) -> None:
    rewrite(own, change)
    refuses(own, tmp_path / "out", "publication")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe", b"null"])
def test_a_list_that_is_no_json_is_refused(text: bytes, own: Path, tmp_path: Path) -> None:
    (own / "publication.json").write_bytes(text)
    refuses(own, tmp_path / "out", "publication.json is not valid")


def test_an_endless_list_is_not_read(own: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("reinforce.sharing.fetch.MAX_BYTES", 1000)
    refuses(own, tmp_path / "out", "is too large")


def members(own: Path, block: int = 1) -> dict[str, bytes]:
    with zipfile.ZipFile(own / f"blocks/{block:06d}.000.zip") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(files: dict[str, bytes] | list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            archive.writestr(name, content)
    return sink.getvalue()


def test_a_bundle_with_other_things_in_it_is_refused(own: Path, tmp_path: Path) -> None:
    good = members(own)
    name = "records/c/0"
    cases = {
        "evil.txt": {**good, "evil.txt": b"1"},
        "only one": {**good, "../../../evil.txt": b"1"},
        "absolute": {**good, "/tmp/evil.txt": b"1"},
        "missing": {k: v for k, v in good.items() if k != name},
        "other": {**good, name: b"x" * len(good[name])},
        "longer": {**good, name: good[name] + b"x"},
    }
    for number, (_, files) in enumerate(cases.items()):
        with_bundle(own, zipped(files))
        refuses(own, tmp_path / f"out{number}", "A bundle is refused")
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped([*good.items(), (name, good[name])])
    with_bundle(own, twice)
    refuses(own, tmp_path / "twice", "in only one|a name twice")


def test_a_bundle_that_unfolds_is_refused(own: Path, tmp_path: Path) -> None:
    good = members(own)
    with_bundle(own, zipped({**good, "records/c/0": bytes(64 << 20)}, zipfile.ZIP_DEFLATED))
    assert (own / "blocks/000001.000.zip").stat().st_size < 1 << 20
    refuses(own, tmp_path / "bomb", "compressed or encrypted")
    with_bundle(own, b"PK\x05\x06" + bytes(18))
    refuses(own, tmp_path / "empty", "in only one of bundle and manifest")
    with_bundle(own, b"no zip at all" * 10)
    refuses(own, tmp_path / "none", "BadZipFile")
    whole = zipped(good)
    at = whole.rindex(b"PK\x01\x02")
    with_bundle(own, whole[:at] + whole[at:].replace(b"PK\x01\x02", b"PK\x01\x03"))
    refuses(own, tmp_path / "directory", "BadZipFile")


def test_a_bundle_whose_headers_lie_is_refused(own: Path, tmp_path: Path) -> None:
    """Every byte of the directory at the end of the zip, changed: it comes right or not at all."""
    whole = zipped(members(own))
    rng = np.random.default_rng(0)
    directory = whole.index(b"PK\x01\x02")
    for number, at in enumerate(rng.integers(directory, len(whole), 60).tolist()):
        broken = bytearray(whole)
        broken[at] ^= int(rng.integers(1, 256))
        with_bundle(own, bytes(broken))
        out = tmp_path / f"out{number}"
        try:
            pull(str(own), out)
        except ReinforceError:
            assert not (out / "manifest.json").exists()
        else:
            require(verify_store(out))


def test_a_table_that_unfolds_to_terabytes_is_refused(own: Path, tmp_path: Path) -> None:
    """One key of fifty megabytes that every row names: two kilobytes on disk."""
    table = pq.read_table(own / "samples.parquet")
    huge = pa.DictionaryArray.from_arrays(pa.array(np.zeros(24, np.int32)), pa.array(["x" * (50 << 20)]))
    bomb = pa.table([huge if name == "key" else table[name] for name in table.column_names], names=table.column_names)
    sink = io.BytesIO()
    pq.write_table(bomb, sink, compression="zstd", store_schema=False, dictionary_pagesize_limit=1 << 30)
    cases = {"a text of 52428800": sink.getvalue(), "1000000 rows for 24": _table_of(10**6), "samples.parquet": b"PAR1"}
    for number, (found, content) in enumerate(cases.items()):
        assert len(content) < 1 << 20
        (own / "samples.parquet").write_bytes(content)
        entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        rewrite(own, lambda a, entry=entry: a["files"].update({"samples.parquet": entry}))
        refuses(own, tmp_path / f"out{number}", found)


def _table_of(rows: int) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"key": pa.nulls(rows, pa.string())}), sink, compression="zstd")
    return sink.getvalue()


def test_a_manifest_that_lists_other_files_is_refused(own: Path, tmp_path: Path) -> None:
    about = json.loads((own / "manifest.json").read_bytes())
    for number, path in enumerate(
        ("../evil", "/etc/passwd", "blocks/000000.zarr/../../evil", "blocks/000000.zarr/..", "x" * 10_000)
    ):
        text = json.dumps({**about, "files": {**about["files"], path: "0" * 64}}).encode()
        (own / "manifest.json").write_bytes(text)
        entry = {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}
        rewrite(own, lambda a, entry=entry: a["files"].update({"manifest.json": entry}))
        refuses(own, tmp_path / f"out{number}", "is no path of a reinforced dataset")


# The front of it


def test_the_card_says_what_one_must_know(published: Path) -> None:
    text = (published / "README.md").read_text()
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    import yaml

    about = yaml.safe_load(head)
    assert about["license"] == "cc-by-4.0"
    assert about["task_categories"] == ["image-classification"]
    assert about["size_categories"] == ["n<1K"]
    assert about["configs"] == [{"config_name": "preview", "data_files": "preview.parquet"}]
    for needed in (
        "test_resnet",
        "rrc-ra",
        "24 with labels",
        "sqrt",
        "reinforce pull",
        "not in it: their owners'",
        "not stated",
    ):
        assert needed in body


def test_the_card_of_another_licence_names_it(whole: Path, tmp_path: Path) -> None:
    publish(whole, str(tmp_path / "x"), "x", Licences(labels='My own: "ask"\nme'))
    import yaml

    about = yaml.safe_load((tmp_path / "x" / "README.md").read_text().split("---\n")[1])
    assert about["license"] == "other"
    assert about["license_name"] == 'My own: "ask"\nme'


@pytest.mark.filterwarnings("ignore")
def test_croissant_is_valid_and_leads_to_the_preview(published: Path) -> None:
    import mlcroissant

    dataset = mlcroissant.Dataset(str(published / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    assert not dataset.metadata.ctx.issues.warnings
    rows = list(dataset.records("preview"))
    assert len(rows) == 24 * 3
    assert rows[0]["preview/key"] == b"apple/000"


def test_the_preview_shows_labels_and_boxes_as_they_are_stored(published: Path, whole: Path) -> None:
    store, rows = Store(whole), pq.read_table(published / "preview.parquet").to_pylist()
    assert len(rows) == 24 * 3
    for row in rows:
        sample = store.samples.keys.index(row["key"])
        label = dense(store, sample, row["view"])
        order = torch.argsort(-label, stable=True)[:5].tolist()
        assert row["top5_classes"] == [CLASSES[c] for c in order]
        assert np.allclose(row["top5_probabilities"], label[order])
        box = [row[f"crop_{side}"] for side in ("top", "left", "height", "width")]
        assert box == store.params_of(sample, row["view"])[:4].tolist()
        assert row["label"] == CLASSES[int(store.samples.labels[sample])]
        assert (row["image_width"], row["image_height"]) == tuple(store.samples.width_height[sample].tolist())


def test_a_dry_run_lists_and_writes_nothing(whole: Path, tmp_path: Path, cli: Cli) -> None:
    code, out, _ = cli("publish", whole, "--to", tmp_path / "there", "--dry-run")
    assert code == 0
    assert "blocks/000003.002.zip" in out
    assert "no pixels" in out
    assert not (tmp_path / "there").exists()
    code, out, _ = cli("publish", whole, "--to", tmp_path / "there", "--dry-run", "--json")
    assert {p for p, n in json.loads(out)["files"].items()} >= {"manifest.json", "publication.json", "blocks/000000.000.zip"}


def test_publish_and_pull_on_the_command_line(whole: Path, tmp_path: Path, cli: Cli, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, _ = cli("publish", whole, "--to", "place/My Labels!", "--license-labels", "mit")
    assert code == 0
    assert "licences not stated: --license-images, --license-teacher" in out
    assert json.loads(Path("place/My Labels!/publication.json").read_text())["name"] == "my-labels-"
    code, out, _ = cli("pull", "place/My Labels!", "--out", "mine", "--views", 3, "--json")
    assert code == 0
    assert json.loads(out)["views"] == 4
    code, out, _ = cli("pull", "place/My Labels!", "--out", "mine2", "--views", 3)
    assert "`reinforce train --views 3` uses 3 of them" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("publish", "WHOLE", "--to", "https://example.org/x"), "cannot be written to"),
        (("publish", "WHOLE", "--to", "hf://models/me/x"), "no repository of data sets"),
        (("publish", "WHOLE", "--to", "WHOLE"), "onto itself"),
        (("publish", "WHOLE", "--to", "there", "--name", "No Name"), "is no name"),
        (("pull", "nothing-known"), "There is no data set 'nothing-known'"),
        (("pull", "imagenet-plus-rrc"), "reinforce import imagenet-plus"),
        (("pull", "digits-demo"), "reinforce demo"),
        (("pull", "./x", "--blocks", "3-x"), "--blocks 3-x is not valid"),
        (("pull", "WHOLE"), "is here already"),
    ],
)
def test_wrong_usage_is_told(arguments, message, whole: Path, tmp_path: Path, cli: Cli, monkeypatch) -> None:
    monkeypatch.chdir(whole.parent)
    code, _, err = cli(*[str(whole) if a == "WHOLE" else a for a in arguments])
    assert (code, message in err) == (2, True), err


def test_a_damaged_data_set_is_not_published(whole: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(whole, tmp_path / "broken"))
    (broken / "blocks/000001.zarr/probes/c/0").write_bytes(b"?" * 28)
    with pytest.raises(StoreError, match="is not the file of the manifest"):
        publish(broken, str(tmp_path / "there"), "x", LICENCES)
    assert not (tmp_path / "there" / "publication.json").exists(), "without the list it is not published"
    with pytest.raises(SourceError):
        pull(str(tmp_path / "there"), tmp_path / "back")
    shutil.copy(tmp_path / "broken/manifest.json", broken / "samples.parquet")
    with pytest.raises(ReinforceError):
        publish(broken, str(tmp_path / "there"), "x", LICENCES)


# Known data sets


def test_the_schema_of_the_manifests_is_that_of_the_model() -> None:
    assert json.loads((ROOT / "manifests" / "schema.json").read_text()) == Known.model_json_schema()


def test_known_data_sets_are_listed_and_say_how_to_get_them(cli: Cli) -> None:
    known = known_datasets()
    assert {p.stem for p in (ROOT / "manifests").glob("*.json")} == {*known, "schema"}
    assert {k.import_format for k in known.values() if k.get == "import"} == {"imagenet-plus", "fkd", "tinyvit", "relabel"}
    assert all((k.import_format is None) == (k.get != "import") for k in known.values())
    assert all(k.locations for k in known.values() if k.get != "demo")
    code, out, _ = cli("list", "datasets")
    assert code == 0
    assert all(name in out for name in known)
    with pytest.raises(UsageError, match="reinforce list datasets"):
        find("nothing")
    assert find("./folder") == (["./folder"], None)
    assert find("https://x.org/y") == (["https://x.org/y"], None)


def test_a_known_name_is_pulled_from_the_first_place_that_has_it(
    published: Path, tmp_path: Path, cli: Cli, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    digest = hashlib.sha256((published / "publication.json").read_bytes()).hexdigest()
    about = {
        "name": "ours",
        "description": "d",
        "get": "pull",
        "teachers": ["t"],
        "policy": "rrc-ra",
        "views": 5,
        "samples": 24,
    }
    more = {"images": "none", "licences": {}, "locations": [str(tmp_path / "gone"), str(published)]}
    for sha, code in ((digest, 0), ("0" * 64, 1)):
        known = Known.model_validate({**about, **more, "publication_sha256": sha})
        monkeypatch.setattr("reinforce.sharing.known_datasets.known_datasets", lambda known=known: {"ours": known})
        assert cli("pull", "ours", "--out", f"out{code}")[0] == code
    require(verify_store(tmp_path / "out0"))
    assert not (tmp_path / "out1").exists()
