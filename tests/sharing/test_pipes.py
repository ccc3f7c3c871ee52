"""A pipe in place of a file would make its reader wait for ever, and a folder raises errors of its own: both are refused."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reinforce.errors import ReinforceError
from reinforce.packs.pack import Options, pack
from reinforce.sharing.publish import publish
from reinforce.sharing.publish_pack import publish_pack
from reinforce.sharing.pull import pull
from reinforce.sources.folder import ImageFolder
from reinforce.sources.location import File, pieces
from reinforce.sources.open_source import open_source
from reinforce.verification.summary import summarise
from reinforce.verification.verify import verify_store
from tests.sharing.conftest import LICENCES
from tests.verification.damage import edit_manifest

pytestmark = pytest.mark.unit

PROBE = "blocks/000002.zarr/probes/c/0"


class _WaitsError(BaseException):
    pass


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Whoever waits for a pipe is woken, with an error that is not ours."""

    def wake(*_: object) -> None:
        raise _WaitsError

    before = signal.signal(signal.SIGALRM, wake)
    signal.setitimer(signal.ITIMER_REAL, 20)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILERS = pytest.mark.parametrize("spoil", [_fifo, _folder])


@SPOILERS
def test_a_file_that_is_none_is_not_opened(spoil: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    known = File.open(str(path))
    spoil(path)
    with pytest.raises(ReinforceError, match="no file but"):
        File.open(str(path))
    with pytest.raises(OSError, match=r"Illegal seek|Is a directory"):
        known.read()
    with pytest.raises(OSError, match="no plain file"):
        list(pieces(str(path), 5))


@SPOILERS
@pytest.mark.parametrize(
    "name", ["publication.json", "manifest.json", "samples.parquet", "croissant.json", "blocks/000001.000.zip"]
)
def test_pull_refuses(spoil: Callable[[Path], None], name: str, own: Path, tmp_path: Path) -> None:
    spoil(own / name)
    with pytest.raises(ReinforceError):
        pull(str(own), tmp_path / "back", jobs=1)
    assert not (tmp_path / "back" / "manifest.json").exists()


@SPOILERS
@pytest.mark.parametrize("name", ["manifest.json", PROBE, PROBE.replace("probes/c/0", "params/c/0/0/0")])
def test_publish_and_verify_refuse(spoil: Callable[[Path], None], name: str, whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "own"
    shutil.copytree(whole, root)
    spoil(root / name)
    with pytest.raises(ReinforceError):
        publish(root, str(tmp_path / "there"), "digits", LICENCES)
    assert not (tmp_path / "there" / "publication.json").exists()
    if name == "manifest.json":
        with pytest.raises(ReinforceError):
            verify_store(root)
    else:
        assert any(check.failed for check in verify_store(root))


@SPOILERS
@pytest.mark.parametrize("name", ["pack.json", "class_names.json", "index.parquet", "shards-000000.tar"])
def test_packs_refuse(spoil: Callable[[Path], None], name: str, whole: Path, images: Path, tmp_path: Path) -> None:
    root = tmp_path / "pack"
    pack(ImageFolder.open(images), whole, root, Options())
    spoil(root / name)
    with pytest.raises(ReinforceError):
        publish_pack(root, str(tmp_path / "there"), "digits", LICENCES)
    with pytest.raises(ReinforceError):
        open_source(str(root)) if name != "pack.json" else summarise(root)
    assert not (tmp_path / "there" / "pack.json").exists()


def test_a_table_that_the_manifest_does_not_list_is_not_published(whole: Path, tmp_path: Path) -> None:
    root = tmp_path / "own"
    shutil.copytree(whole, root)
    edit_manifest(root, lambda manifest: manifest["files"].pop("samples.parquet"))
    with pytest.raises(ReinforceError, match=r"no samples\.parquet in its list of files"):
        publish(root, str(tmp_path / "there"), "digits", LICENCES)
    assert not (tmp_path / "there").exists()
