"""What another machine must see before it makes a block; each difference is found, and the node is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reinforce.errors import ReinforceError, ReplayError, SourceError, StoreError, TeacherError
from reinforce.generation.engine import Execution, Work
from reinforce.generation.proof import check_answer, expected, prove
from reinforce.sources.folder import ImageFolder
from reinforce.store.folder_place import FolderPlace
from reinforce.teachers.teacher import Teacher
from reinforce.views import pixels
from reinforce.views.apply import apply
from tests.conftest import content, make_settings
from tests.generation.faulty_sources import NODE, Local

pytestmark = pytest.mark.unit


@pytest.fixture
def work(images: Path, teacher: Teacher, tmp_path: Path) -> Work:
    source = Local(**vars(ImageFolder.open(images)))
    (tmp_path / "out").mkdir()
    return Work(source, teacher, make_settings(source, teacher), FolderPlace(tmp_path / "out"), Execution())


def test_the_same_machine_sees_the_same_and_nothing_stays(work: Work) -> None:
    with expected(work) as wanted:
        assert [probe.sample for probe in wanted.probes] == [0, 11, 23]
        assert len({probe.crc for probe in wanted.probes}) == 3
        check_answer(work.place, prove(work, wanted, "a"), "a")
        assert len(content(Path(work.place.name))) == 2
    assert not content(Path(work.place.name))


@pytest.mark.parametrize(
    ("odd", "kind", "said"),
    [
        ("other images", ReplayError, r"Node a sees another image apple/000(.|\n)*sha256"),
        ("no images", ReplayError, r"Node a sees another image apple/000(.|\n)*No such file"),
        ("other pixels", ReplayError, r"apple/000 on node a(.|\n)*CRC-32(.|\n)*the same versions are installed"),
    ],
)
def test_a_node_with_other_images(
    odd: str, kind: type[ReinforceError], said: str, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels, "apply", apply)  # so that it is put back
    with expected(work) as wanted:
        monkeypatch.setenv(NODE, odd)
        with pytest.raises(kind, match=said):
            prove(work, wanted, "a")


def test_a_node_with_another_index_or_other_weights(work: Work) -> None:
    source = work.settings.source.model_copy(update={"index_sha256": "1" * 64})
    infos = [work.settings.teachers[0].model_copy(update={"weights_sha256": "2" * 64})]
    with expected(work) as wanted:
        with pytest.raises(SourceError, match=r"Node a sees another source(.|\n)*1111"):
            prove(work._replace(settings=work.settings.model_copy(update={"source": source})), wanted, "a")
        with pytest.raises(TeacherError, match=r"Node a has another teacher(.|\n)*2222"):
            prove(work._replace(settings=work.settings.model_copy(update={"teachers": infos})), wanted, "a")


def test_a_node_with_another_folder(work: Work, tmp_path: Path) -> None:
    with expected(work) as wanted:
        (tmp_path / "empty").mkdir()
        with pytest.raises(StoreError, match=r"Node a does not see --out(.|\n)*without the file"):
            prove(work._replace(place=FolderPlace(tmp_path / "empty")), wanted, "a")
        shutil.copytree(work.place.name, tmp_path / "copy")
        answer = prove(work._replace(place=FolderPlace(tmp_path / "copy")), wanted, "a")
        with pytest.raises(StoreError, match=r"Node a does not see --out(.|\n)*such as a copy"):
            check_answer(work.place, answer, "a")


def test_a_folder_that_cannot_be_written(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, content: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    with expected(work) as wanted:
        monkeypatch.setattr(Path, "write_bytes", refused)
        with pytest.raises(StoreError, match=r"cannot write: Permission denied"):
            prove(work, wanted, "a")
