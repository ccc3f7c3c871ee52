"""Teachers that are not timm's: own code, exported programs, ONNX; each a real small model, random weights."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from reinforce.errors import ReinforceError, TeacherError, UsageError
from reinforce.settings import Settings
from reinforce.store.store import read_manifest
from reinforce.teachers.ensemble import Ensemble
from reinforce.teachers.open_teacher import load_teacher, open_member, teacher_of
from reinforce.teachers.teacher_spec import TeacherSpec
from reinforce.testing.teachers import check_teacher
from tests.conftest import CLASSES, SIZE, TEACHER, Cli

pytestmark = pytest.mark.unit

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
TEXT = "mean=0.5/0.4/0.3", "std=0.2/0.3/0.25"
CODE = """
import timm, torch

class Net(torch.nn.Module):
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)

    def __init__(self, classes):
        super().__init__()
        torch.manual_seed(5)
        self.net = timm.create_model("test_resnet", num_classes=classes)

    def forward(self, x):
        return self.net(x)

def make(classes=3):
    return Net(classes)

def late():
    return {}["key"]

def text():
    return "no model"

def same():
    return torch.nn.Identity()
"""


def plain() -> torch.nn.Module:
    torch.manual_seed(5)
    return timm.create_model(TEACHER, num_classes=len(CLASSES)).eval()


def views(count: int = 5) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def expected(model: Callable[[torch.Tensor], Any], images: torch.Tensor) -> torch.Tensor:
    """By hand: from pixels of 0 to 1."""
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    made: torch.Tensor = torch.softmax(model((images.float() / 255 - mean) / std), dim=1)
    return made


def py(folder: Path) -> str:
    (folder / "own.py").write_text(CODE)
    return f"py:{folder}/own.py:make"


def pt2(folder: Path) -> str:
    batch = torch.export.Dim("batch")
    program = torch.export.export(plain(), (torch.zeros(4, 3, SIZE, SIZE),), dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, folder / "own.pt2")
    return f"pt2:{folder}/own.pt2"


def onnx(folder: Path, fixed: bool = False) -> str:
    import onnx as standard
    from onnx import TensorProto, helper, numpy_helper

    # Written node by node, so that no exporter is needed: the mean of each channel, and one linear layer.
    weight = torch.randn(3, len(CLASSES), generator=torch.Generator().manual_seed(5)).numpy()
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    batch = 2 if fixed else "batch"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "own",
        [value("images", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [value("logits", TensorProto.FLOAT, [batch, len(CLASSES)])],
        [numpy_helper.from_array(weight, "weight")],
    )
    standard.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "own.onnx")
    return f"onnx:{folder}/own.onnx"


def local_dir(folder: Path) -> str:
    (folder / "own").mkdir()
    save_file(plain().state_dict(), folder / "own" / "model.safetensors")
    about = {"architecture": TEACHER, "num_classes": len(CLASSES), "pretrained_cfg": {"mean": MEAN, "std": STD}}
    (folder / "own" / "config.json").write_text(json.dumps(about | {"num_features": 512}))
    return f"local-dir:{folder}/own"


KINDS: dict[str, tuple[Callable[[Path], str], dict[str, Any]]] = {
    "py": (py, {}),
    "pt2": (pt2, dict(item.split("=") for item in TEXT)),
    "onnx": (onnx, dict(item.split("=") for item in TEXT)),
    "local-dir": (local_dir, {}),
}


def reference(kind: str, folder: Path) -> Callable[[torch.Tensor], Any]:
    """The same model by its own library alone."""
    if kind == "onnx":
        import onnx as standard
        from onnx.reference import ReferenceEvaluator

        run = ReferenceEvaluator(standard.load(folder / "own.onnx"))
        return lambda x: torch.from_numpy(run.run(None, {"images": x.numpy()})[0])
    return plain()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_gives_what_its_own_library_gives(kind: str, tmp_path: Path) -> None:
    make, kwargs = KINDS[kind]
    name = make(tmp_path)
    member = open_member(TeacherSpec(name, None, kwargs), SIZE, None)
    teacher = Ensemble([member], CPU, "fp32")
    assert torch.allclose(teacher(views()), expected(reference(kind, tmp_path), views()), atol=1e-5)
    assert torch.allclose(teacher(views(1)), expected(reference(kind, tmp_path), views(1)), atol=1e-5)
    check_teacher(teacher, SIZE)
    assert (member.info.name, member.info.num_classes) == (name, len(CLASSES))
    assert member.info.mean == pytest.approx(MEAN)
    assert member.info.std == pytest.approx(STD)
    again = open_member(TeacherSpec(name, None, kwargs), SIZE, [2, 0])
    assert again.info.weights_sha256 == member.info.weights_sha256 == again.weights_sha256()
    mapped = Ensemble([again], CPU, "fp32")(views())
    of_two = teacher(views())[:, [2, 0]]
    assert torch.allclose(mapped, of_two / of_two.sum(dim=1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_labels_is_recorded_and_run_again(kind: str, tmp_path: Path, images: Path, cli: Cli) -> None:
    make, kwargs = KINDS[kind]
    name, labels = make(tmp_path), tmp_path / "labels"
    more = [arg for key, value in kwargs.items() for arg in ("--teacher-kwargs", f"{key}={value}")]
    what = ("--size", SIZE, "--views", 2, "--workers", 0, "--codec", "topk:3", "--out", labels)
    code, _, err = cli("generate", "--data", images, "--teacher", name, *more, *what)
    assert code == 0, err
    settings: Settings = read_manifest(labels).settings
    assert settings.teachers[0].name == name
    run_code = kind in ("py", "pt2")
    code, out, err = cli("verify", labels, "--data", images, "--teacher", "--workers", 0)
    assert code == (2 if run_code else 0), err
    if run_code:
        assert "which the data set alone names" in err
        with pytest.raises(UsageError, match="is code"):
            teacher_of(settings, [], CPU)
        code, out, err = cli("verify", labels, "--data", images, "--teacher", "--workers", 0, "--run-code")
        assert code == 0, err
    assert "teacher" in out


def test_a_manifest_runs_nothing(store: Path) -> None:
    """A name with a module of Python's own and a function of it, as an attacker would write it."""
    settings = read_manifest(store).settings
    for name in ("py:antigravity:fly_space", "py:os:getcwd", "pt2:/dev/zero"):
        forged = settings.model_copy(update={"teachers": [settings.teachers[0].model_copy(update={"name": name})]})
        with pytest.raises(UsageError, match="is code, which the data set alone names"):
            teacher_of(forged, [], CPU)
    assert "antigravity" not in sys.modules


@pytest.mark.process
@pytest.mark.parametrize("kind", ["py", "pt2", "onnx"])
def test_each_kind_runs_in_several_processes(kind: str, tmp_path: Path, images: Path, cli: Cli) -> None:
    make, kwargs = KINDS[kind]
    name = make(tmp_path)
    more = [arg for key, value in kwargs.items() for arg in ("--teacher-kwargs", f"{key}={value}")]
    what = ("--size", SIZE, "--views", 2, "--workers", 0, "--block-size", 7, "--device", "cpu")
    for processes in (1, 2):
        out = tmp_path / f"labels-{processes}"
        code, _, err = cli(
            "generate", "--data", images, "--teacher", name, *more, *what, "--processes", processes, "--out", out
        )
        assert code == 0, err
    one, two = (read_manifest(tmp_path / f"labels-{n}").files for n in (1, 2))
    assert one == two


def test_a_batch_of_fixed_size_is_filled_up(tmp_path: Path) -> None:
    name = onnx(tmp_path, fixed=True)
    teacher = Ensemble([open_member(TeacherSpec(name, None, KINDS["onnx"][1]), SIZE, None)], CPU, "fp32")
    onnx(tmp_path)
    assert torch.allclose(teacher(views()), expected(reference("onnx", tmp_path), views()), atol=1e-5)


def test_own_code_takes_arguments_weights_and_a_module_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = py(tmp_path)
    seven = open_member(TeacherSpec(name, None, {"classes": 7, "std": 0.5}), SIZE, None)
    assert (seven.info.num_classes, seven.info.std, seven.info.kwargs) == (7, (0.5,) * 3, {"classes": 7, "std": 0.5})
    torch.manual_seed(6)
    other = timm.create_model(TEACHER, num_classes=3).eval()
    save_file({f"net.{key}": value for key, value in other.state_dict().items()}, tmp_path / "other.safetensors")
    loaded = Ensemble([open_member(TeacherSpec(name, tmp_path / "other.safetensors"), SIZE, None)], CPU, "fp32")
    assert torch.allclose(loaded(views()), expected(other, views()), atol=1e-6)
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    by_name = open_member(TeacherSpec("py:package_of_mine.nets:make"), SIZE, None)
    assert by_name.info.weights_sha256 == open_member(TeacherSpec(name), SIZE, None).info.weights_sha256
    assert copy.deepcopy(by_name).info == by_name.info


def test_they_stand_in_one_ensemble(tmp_path: Path, weights: Path) -> None:
    specs = [TeacherSpec(py(tmp_path)), TeacherSpec(TEACHER, weights)]
    both, *each = (
        load_teacher(s, size=SIZE, class_names=list(CLASSES), class_map=None, device=CPU, precision="fp32")
        for s in (specs, specs[:1], specs[1:])
    )
    assert torch.allclose(both(views()), (each[0](views()) + each[1](views())) / 2)


@pytest.mark.parametrize(
    ("name", "kwargs", "kind", "said"),
    [
        ("py:own.py", {}, UsageError, "names no function"),
        ("py:absent.py:make", {}, UsageError, "there is no file"),
        ("py:no_such_package:make", {}, UsageError, "cannot be imported"),
        ("py:own.py:nothing", {}, UsageError, "Net, make, late, text, same"),
        ("py:own.py:late", {}, UsageError, "own.py, line 19"),
        ("py:own.py:text", {}, UsageError, "own.py:text is no model"),
        ("py:own.py:make", {"colour": 1}, UsageError, "unexpected keyword argument 'colour'"),
        ("py:own.py:make", {"std": 0}, UsageError, "std=0 is not valid"),
        ("py:own.py:same", {"mean": 0, "std": 1}, UsageError, "makes no logits"),
        ("py:own.py:same", {}, UsageError, "The mean of py:own.py:same is not known"),
        ("py:broken.py:make", {}, UsageError, "SyntaxError"),
        ("pt2:absent.pt2", {}, UsageError, "There is no file"),
        ("pt2:own.py", {}, TeacherError, "a file of torch.export.save"),
        ("onnx:own.py", {}, TeacherError, "a classifier in ONNX"),
        ("onnx:own.py", {"classes": 3}, UsageError, "takes no arguments but mean and std"),
        ("local-dir:./absent", {}, ReinforceError, "absent"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kwargs: dict[str, Any], kind: type[Exception], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    py(tmp_path)
    (tmp_path / "broken.py").write_text("def make(:\n")
    with pytest.raises(kind, match=said.replace("(", r"\(")):
        open_member(TeacherSpec(name, None, kwargs), SIZE, None)
