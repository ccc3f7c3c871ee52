"""Own code: a teacher from a function of the user's, `py:FILE.py:function` or `py:package.module:function`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from reinforce.errors import UsageError, first_line
from reinforce.teachers.models import OF_TEACHER, load_weights
from reinforce.teachers.own_model import Made, OwnModel, arguments, channels, of_attributes
from reinforce.teachers.teacher_spec import KWARGS, TeacherSpec


class OwnCode(OwnModel):
    """A model that the user's own function makes.

    The function takes the rest of `--teacher-kwargs` and returns a `torch.nn.Module`, from float32 `[B, 3, H, W]` to logits
    `[B, C]`. Attributes `mean` and `std` of the module, or its `pretrained_cfg`, say how pixels of 0 to 1 are normalised.
    """

    kind = "py"

    @classmethod
    def load(cls, spec: TeacherSpec, size: int) -> Made:
        function = function_of(spec.name, cls.kind)
        try:
            model = function(**arguments(spec))
        except Exception as error:  # noqa: BLE001 - the user's own code
            code = Path(sys.modules[function.__module__].__file__ or "")
            raise UsageError(
                f"{spec.name} cannot be made.", found=_told(error, code), fix=f"check the function, and {KWARGS}"
            ) from None
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"{spec.name} is no model.", found=type(model).__name__, expected="a function that returns a torch.nn.Module"
            )
        if spec.weights is not None:
            load_weights(model, spec.weights, OF_TEACHER)
        mean, std = (channels(spec, key, of_attributes(model, key)) for key in ("mean", "std"))
        return Made(model, mean, std)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...], dict[str, Any]]:
        # Another process finds the user's classes once it has imported their module, which is before the state is read.
        return _empty, (type(self), self.spec.name), self.__dict__


def _empty(kind: type[OwnCode], name: str) -> OwnCode:
    module_of(name.removeprefix(f"{kind.kind}:").rpartition(":")[0])
    return kind.__new__(kind)


def function_of(name: str, kind: str) -> Callable[..., Any]:
    """The function that a name means.

    Raises:
        UsageError: no such file, module or function, or the code fails when it is imported.
    """
    where, colon, function = name.removeprefix(f"{kind}:").rpartition(":")
    if not colon or not where or not function:
        raise UsageError(
            f"{name!r} names no function.",
            expected=f"{kind}:FILE.py:function or {kind}:package.module:function",
            fix=f"{kind}:{where or function or 'teacher.py'}:make",
        )
    module = module_of(where)
    found = getattr(module, function, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UsageError(
            f"{where} has no function {function!r}.", found=", ".join(names[:8]) or "no functions", fix="check the name"
        )
    made: Callable[..., Any] = found
    return made


def module_of(where: str) -> ModuleType:
    """The module in a file, or of a name, which may be in the current folder.

    Raises:
        UsageError: there is none, or its code fails.
    """
    try:
        if where.endswith(".py"):
            return _from_file(Path(where).resolve())
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
        return importlib.import_module(where)
    except Exception as error:  # noqa: BLE001 - the user's own code
        raise UsageError(
            f"{where} cannot be imported.",
            found=_told(error, Path(where)),
            expected="FILE.py, or package.module that Python finds from here",
            fix="check the path",
        ) from None


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    name = f"reinforce_own_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs, as Python's own import does
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _told(error: Exception, code: Path) -> str:
    """The error, and the last line of the user's own code on the way to it."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == code.resolve()]
    return f"{first_line(error)}" + (f" ({code.name}, line {lines[-1]})" if lines else "")
