"""Weights of a teacher: known by what they are; what does not fit, is damaged or would run code is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from reinforce.errors import TeacherError, UsageError
from reinforce.teachers.open_teacher import load_teacher
from reinforce.teachers.teacher import Teacher
from reinforce.teachers.teacher_spec import TeacherSpec
from tests.conftest import SIZE, TEACHER, Cli
from tests.generation.conftest import generate_wnids

pytestmark = pytest.mark.unit


def load(path: Path, **kwargs: Any) -> Any:
    return load_teacher(
        [TeacherSpec(TEACHER, path, kwargs)],
        size=SIZE,
        class_names=[],
        class_map=None,
        device=torch.device("cpu"),
        precision="fp32",
    )


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model", "state_dict_ema"])
def test_weights_are_known_by_what_they_are_and_not_by_their_file(
    weights: Path, teacher: Teacher, tmp_path: Path, suffix: str, wrapped: str | None
) -> None:
    state, path = load_file(weights), tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file({f"module.{k}": v for k, v in state.items()}, path)
    else:
        torch.save({wrapped: state, "epoch": 3} if wrapped else state, path)
    assert load(path).infos == teacher.infos


def test_weights_of_another_shape_are_refused(weights: Path, imagenet_weights: Path) -> None:
    with pytest.raises(TeacherError, match=r"The weights in .* do not fit the model") as error:
        load(weights, num_classes=5)
    width = load_file(weights)["fc.weight"].shape[1]
    assert f"fc.weight: [3, {width}] in the file, [5, {width}] in the model" in str(error.value)
    with pytest.raises(TeacherError, match="2 of another shape"):
        load(imagenet_weights, num_classes=3)


def test_weights_that_lack_a_tensor_or_have_one_too_many_are_refused(weights: Path, tmp_path: Path) -> None:
    state = load_file(weights)
    lacking = {k: v for k, v in state.items() if not k.startswith(("conv1", "layer4"))}
    save_file(lacking, tmp_path / "lacking.safetensors")
    with pytest.raises(TeacherError, match=rf"{len(state) - len(lacking)} missing \(conv1\.0\.weight, \.\.\.\)"):
        load(tmp_path / "lacking.safetensors")
    save_file({**state, "another.weight": torch.zeros(2)}, tmp_path / "more.safetensors")
    with pytest.raises(TeacherError, match=r"1 unknown \(another.weight, \.\.\.\)"):
        load(tmp_path / "more.safetensors")


def test_weights_of_another_model_are_refused(second_weights: Path) -> None:
    with pytest.raises(TeacherError, match=r"\d+ missing .*; \d+ unknown"):
        load(second_weights)


class Hostile:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("name", ["weights.pt", "weights.pth.tar", "weights.bin", "weights.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_arbitrary_objects_is_refused_and_never_run(
    weights: Path, images: Path, tmp_path: Path, cli: Cli, recwarn: pytest.WarningsRecorder, name: str, zipped: bool
) -> None:
    marker, path = tmp_path / "was_run", tmp_path / name
    torch.save({**load_file(weights), "extra": Hostile(marker)}, path, _use_new_zipfile_serialization=zipped)
    code, _, err = generate_wnids(cli, images, path, tmp_path / "out")
    assert code == 1
    assert "cannot be read as weights" in err
    assert "a pickle with arbitrary objects, which is never loaded" in err
    assert not marker.exists()
    torch.load(shutil.copy(path, tmp_path / "copy.pt"), weights_only=False)  # noqa: TID251
    assert marker.exists()  # it would have been


def hostile_states(state: dict[str, torch.Tensor]) -> Iterator[tuple[str, object]]:
    yield "a list", [torch.zeros(2)]
    yield "a tensor", torch.zeros(2)
    yield "nothing", {}
    yield "numbers", {"fc.weight": 1.0}
    yield "names that are numbers", {1: torch.zeros(2)}
    yield "a head without dimensions", {**state, "fc.weight": torch.tensor(1.0)}
    yield "no classes", {k: v[:0] if k.startswith("fc.") else v for k, v in state.items()}


@pytest.mark.parametrize("number", range(7))
def test_a_torch_file_that_holds_no_fitting_state_dict_is_refused(weights: Path, tmp_path: Path, number: int) -> None:
    what, hostile = list(hostile_states(load_file(weights)))[number]
    torch.save(hostile, tmp_path / "weights.pt")
    with pytest.raises((TeacherError, UsageError)) as error:
        load(tmp_path / "weights.pt")
    assert "weights.pt" in str(error.value) or "num_classes" in str(error.value), what


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_torch_file_is_refused_wherever_it_is_cut(weights: Path, tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(2), "b": torch.ones(3)}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(TeacherError, match=r"weights.pt cannot be read as weights|do not fit the model"):
            load(path)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_garbage_and_absent_weights_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TeacherError, match="There is no weights file"):
        load(tmp_path / name)
    for garbage in (b"", b"\0" * 100, b"\xff" * 100, b"text"):
        (tmp_path / name).write_bytes(garbage)
        with pytest.raises(TeacherError, match="cannot be read as weights"):
            load(tmp_path / name)


def test_a_teacher_without_classes_is_refused(weights: Path, tmp_path: Path) -> None:
    save_file({k: v for k, v in load_file(weights).items() if not k.startswith("fc.")}, tmp_path / "body.safetensors")
    with pytest.raises((TeacherError, UsageError)):
        load(tmp_path / "body.safetensors", num_classes=0)


@pytest.mark.parametrize("value", ["0", "-1", "a", "1/2", "1/1/0", "inf", "nan"])
def test_a_std_that_is_none_is_refused(weights: Path, value: str) -> None:
    with pytest.raises(UsageError, match="is not valid"):
        load(weights, std=value)
